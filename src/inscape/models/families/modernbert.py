"""ModernBERT: a pre-norm encoder with rotary positions, gated MLPs and mostly local attention."""

from inscape.models.family import Family, Stack

MODERNBERT = Family(
    name="modernbert",
    model_types=("modernbert",),
    stacks=(
        Stack(
            blocks="model.layers",
            sites={
                "resid_pre": ":in",
                "attn.in": "attn:in",
                "attn.z": "attn.Wo:in",
                "attn_out": "attn",
                "resid_mid": "mlp_norm:in",
                "mlp.in": "mlp:in",
                "mlp.pre": "mlp.Wi[0/2]",
                "mlp.act": "mlp.Wo:in",
                "mlp_out": "mlp",
                "resid_post": "",
            },
            attention="attn",
            embed="model.embeddings.tok_embeddings",
            final_norm="model.final_norm",
        ),
    ),
    logits=("decoder", "classifier", "qa_outputs"),
    notes={
        "embed": "token vectors alone; a norm follows before layers.0.resid_pre, and layer 0 has no norm of its own"
    },
)
