"""Llama and the families that share its blocks name for name; Granite scales each branch before adding it."""

from inscape.models.families.parts import PRE_NORM
from inscape.models.family import Family, Stack

LLAMA_STACK = Stack(
    blocks="model.layers",
    sites=PRE_NORM,
    attention="self_attn",
    embed="model.embed_tokens",
    final_norm="model.norm",
)

LLAMA = Family(
    name="llama",
    model_types=("llama", "mistral", "ministral", "qwen2", "smollm3", "gemma", "olmo", "seed_oss"),
    stacks=(LLAMA_STACK,),
)

GRANITE = Family(
    name="granite",
    model_types=("granite",),
    stacks=(
        Stack(
            blocks="model.layers",
            sites={**PRE_NORM, "attn_out": "self_attn * residual_multiplier", "mlp_out": "mlp * residual_multiplier"},
            attention="self_attn",
            embed="model.embed_tokens",
            final_norm="model.norm",
        ),
    ),
    logits_after=("divide:logits_scaling",),
    notes={
        "attn_out": "the module's output times residual_multiplier, as it is added",
        "mlp_out": "the module's output times residual_multiplier, as it is added",
        "embed": "before embedding_multiplier",
    },
)
