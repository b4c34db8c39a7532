"""Cohere's Command R and R7B: attention and MLP side by side, both reading one norm; scaled logits."""

from dataclasses import replace

from inscape.models.families.llama import LLAMA_STACK
from inscape.models.families.parts import ATTENTION, GATED_MLP, STREAM
from inscape.models.family import Family

COHERE = Family(
    name="cohere",
    model_types=("cohere", "cohere2"),
    stacks=(replace(LLAMA_STACK, sites={**STREAM, **ATTENTION, **GATED_MLP}, adds="parallel"),),
    logits_after=("times:logit_scale",),
    notes={
        "resid_mid": "attention and MLP read the same stream: there is no middle",
    },
)
