"""OLMo 2 and 3: no norm before the branches, one after each; what enters the stream is the norm's output."""

from dataclasses import replace

from inscape.models.families.llama import LLAMA_STACK
from inscape.models.families.parts import PRE_NORM
from inscape.models.family import Family

OLMO2 = Family(
    name="olmo2",
    model_types=("olmo2", "olmo3"),
    stacks=(
        replace(
            LLAMA_STACK,
            sites={
                **PRE_NORM,
                "attn_out": "post_attention_layernorm",
                "resid_mid": "mlp:in",
                "mlp_out": "post_feedforward_layernorm",
            },
        ),
    ),
    notes={
        "attn.in": "the stream itself: no norm stands before attention",
        "mlp.in": "the stream itself: no norm stands before the MLP",
    },
)
