"""Mixtral: Llama's layout with routed experts for an MLP."""

from dataclasses import replace

from inscape.models.families.llama import LLAMA_STACK
from inscape.models.families.parts import ATTENTION, MOE_NOTES, ROUTER, STREAM
from inscape.models.family import Family

MIXTRAL_STACK = replace(
    LLAMA_STACK,
    sites={
        **STREAM,
        **ATTENTION,
        "resid_mid": "post_attention_layernorm:in",
        "mlp.in": "mlp:in",
        **ROUTER,
        "mlp_out": "mlp",
    },
    experts="mlp.experts",
)

MIXTRAL = Family(name="mixtral", model_types=("mixtral",), stacks=(MIXTRAL_STACK,), notes=MOE_NOTES)
