"""StarCoder 2: Llama's layout with biases and a plain two-layer MLP."""

from dataclasses import replace

from inscape.models.families.llama import LLAMA_STACK
from inscape.models.families.parts import PRE_NORM
from inscape.models.family import Family

STARCODER2 = Family(
    name="starcoder2",
    model_types=("starcoder2",),
    stacks=(replace(LLAMA_STACK, sites={**PRE_NORM, "mlp.pre": "mlp.c_fc", "mlp.act": "mlp.c_proj:in"}),),
)
