"""Gemma 2: a norm before and after each branch, soft caps on attention scores and logits."""

from dataclasses import replace

from inscape.models.families.llama import LLAMA_STACK
from inscape.models.families.parts import SANDWICH_NORM
from inscape.models.family import Family

GEMMA2 = Family(
    name="gemma2",
    model_types=("gemma2",),
    stacks=(replace(LLAMA_STACK, sites=SANDWICH_NORM),),
    logits_after=("softcap:final_logit_softcapping",),
    notes={
        "embed": "scaled by sqrt(d_model), as the first layer receives it",
    },
)
