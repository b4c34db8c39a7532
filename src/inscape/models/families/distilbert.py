"""DistilBERT: BERT with half the layers and other names."""

from inscape.models.family import Family, Stack

DISTILBERT = Family(
    name="distilbert",
    model_types=("distilbert",),
    stacks=(
        Stack(
            blocks="distilbert.transformer.layer",
            sites={
                "resid_pre": ":in",
                "attn.in": "attention:in",
                "attn.z": "attention.out_lin:in",
                "attn_out": "attention",
                "resid_mid": "sa_layer_norm",
                "mlp.in": "ffn:in",
                "mlp.pre": "ffn.lin1",
                "mlp.act": "ffn.lin2:in",
                "mlp_out": "ffn",
                "resid_post": "",
            },
            attention="attention",
            adds="post_norm",
            norms=("sa_layer_norm", "output_layer_norm"),
            embed="distilbert.embeddings.word_embeddings",
        ),
    ),
    logits=("vocab_projector", "classifier", "qa_outputs"),
    notes={
        "embed": "token vectors alone; positions and a norm follow before layers.0.resid_pre",
        "final_norm": "none: every block ends in its own norm",
    },
)
