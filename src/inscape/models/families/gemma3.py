"""Gemma 3, text only: a norm before and after each branch, queries and keys normalised, local and global layers."""

from dataclasses import replace

from inscape.models.families.llama import LLAMA_STACK
from inscape.models.families.parts import SANDWICH_NORM
from inscape.models.family import Family

GEMMA3 = Family(
    name="gemma3",
    model_types=("gemma3_text",),
    stacks=(replace(LLAMA_STACK, sites=SANDWICH_NORM),),
    logits_after=("softcap:final_logit_softcapping",),
    notes={
        "embed": "scaled by sqrt(d_model), as the first layer receives it",
    },
)
