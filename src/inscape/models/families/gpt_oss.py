"""GPT-OSS: routed experts in every layer, local and global attention with a learned sink in each head."""

from dataclasses import replace

from inscape.models.families.mixtral import MIXTRAL_STACK
from inscape.models.families.parts import MOE_NOTES
from inscape.models.family import Family

GPT_OSS = Family(
    name="gpt_oss",
    model_types=("gpt_oss",),
    stacks=(replace(MIXTRAL_STACK, sites={**MIXTRAL_STACK.sites, "router.logits": "mlp.router@0"}),),
    notes={**MOE_NOTES, "attn.pattern": "rows sum to less than 1: the head's sink takes the rest"},
)
