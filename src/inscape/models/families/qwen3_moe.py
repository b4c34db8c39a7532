"""Qwen 2 and 3 with routed experts: some layers may stay dense; Qwen 2 adds a gated shared expert."""

from dataclasses import replace

from inscape.models.families.llama import LLAMA_STACK
from inscape.models.families.parts import MOE_NOTES, PRE_NORM, ROUTER, SHARED_EXPERT, SHARED_NOTES
from inscape.models.family import Family

QWEN3_MOE = Family(
    name="qwen3_moe",
    model_types=("qwen3_moe",),
    stacks=(replace(LLAMA_STACK, sites={**PRE_NORM, **ROUTER}, experts="mlp.experts"),),
    notes=MOE_NOTES,
)

QWEN2_MOE = Family(
    name="qwen2_moe",
    model_types=("qwen2_moe",),
    stacks=(replace(LLAMA_STACK, sites={**PRE_NORM, **ROUTER, **SHARED_EXPERT}, experts="mlp.experts"),),
    notes={**MOE_NOTES, **SHARED_NOTES},
)
