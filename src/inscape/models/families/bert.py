"""BERT (also MiniLM) and RoBERTa with its multilingual and French siblings.

`final_norm` is absent: the last thing a block does is to normalise, so the stream itself is what a head reads.
"""

from inscape.models.families.parts_encoder import BERT_BLOCK, BERT_NORMS
from inscape.models.family import Family, Stack

BERT = Family(
    name="bert",
    model_types=("bert",),
    stacks=(
        Stack(
            blocks="bert.encoder.layer",
            sites=BERT_BLOCK,
            attention="attention.self",
            adds="post_norm",
            norms=BERT_NORMS,
            embed="bert.embeddings.word_embeddings",
        ),
    ),
    logits=("cls.predictions", "cls.seq_relationship", "cls", "classifier", "qa_outputs"),
    notes={
        "embed": "token vectors alone; positions, segments and a norm follow before layers.0.resid_pre",
        "final_norm": "none: every block ends in its own norm",
        "cross": "decoders with cross-attention are not in the table",
    },
)

ROBERTA = Family(
    name="roberta",
    model_types=("roberta", "xlm-roberta", "camembert"),
    stacks=(
        Stack(
            blocks="roberta.encoder.layer",
            sites=BERT_BLOCK,
            attention="attention.self",
            adds="post_norm",
            norms=BERT_NORMS,
            embed="roberta.embeddings.word_embeddings",
        ),
    ),
    logits=("lm_head", "classifier", "qa_outputs"),
    positions="own",
    notes=BERT.notes,
)
