"""Phi 3 and 4: Llama's layout with fused projections: q, k, v in one, gate and up in one (gate first)."""

from dataclasses import replace

from inscape.models.families.llama import LLAMA_STACK
from inscape.models.families.parts import PRE_NORM
from inscape.models.family import Family

PHI3 = Family(
    name="phi3",
    model_types=("phi3",),
    stacks=(
        replace(
            LLAMA_STACK,
            sites={
                **PRE_NORM,
                "attn_out": "resid_attn_dropout",
                "mlp.pre": "mlp.gate_up_proj[0/2]",
                "mlp_out": "resid_mlp_dropout",
            },
        ),
    ),
)
