"""ViT: a pre-norm encoder over image patches, with one class token in front."""

from inscape.models.family import Family, Stack

VIT = Family(
    name="vit",
    model_types=("vit",),
    stacks=(
        Stack(
            blocks="vit.layers",
            sites={
                "resid_pre": ":in",
                "attn.in": "attention:in",
                "attn.z": "attention.o_proj:in",
                "attn_out": "attention",
                "resid_mid": "layernorm_after:in",
                "mlp.in": "mlp:in",
                "mlp.pre": "mlp.fc1",
                "mlp.act": "mlp.fc2:in",
                "mlp_out": "mlp",
                "resid_post": "",
            },
            attention="attention",
            embed="vit.embeddings",
            final_norm="vit.layernorm",
        ),
    ),
    logits="classifier",
    positions="none",
    notes={
        "embed": "class token and patches with their positions, as layers.0.resid_pre",
        "logits": "one row an image, read from token 0 of final_norm",
    },
)
