"""Phi 1, 1.5 and 2: attention and MLP side by side, both reading one norm."""

from inscape.models.families.parts import STREAM
from inscape.models.family import Family, Stack

PHI = Family(
    name="phi",
    model_types=("phi",),
    stacks=(
        Stack(
            blocks="model.layers",
            sites={
                **STREAM,
                "attn.in": "self_attn:in",
                "attn.z": "self_attn.dense:in",
                "attn_out": "self_attn",
                "mlp.in": "mlp:in",
                "mlp.pre": "mlp.fc1",
                "mlp.act": "mlp.fc2:in",
                "mlp_out": "mlp",
            },
            attention="self_attn",
            adds="parallel",
            embed="model.embed_tokens",
            final_norm="model.final_layernorm",
        ),
    ),
    notes={"resid_mid": "attention and MLP read the same stream: there is no middle"},
)
