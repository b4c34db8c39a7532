"""GPT-2, and GPT-Neo, which has the same blocks around an attention of its own."""

from dataclasses import replace

from inscape.models.families.parts import OWN_ATTENTION, STREAM
from inscape.models.family import Family, Stack, Taps

_MLP: dict[str, Taps] = {
    "resid_mid": "ln_2:in",
    "mlp.in": "mlp:in",
    "mlp.pre": "mlp.c_fc",
    "mlp.act": "mlp.c_proj:in",
    "mlp_out": "mlp",
}
_STACK = Stack(blocks="transformer.h", sites={}, embed="transformer.wte", final_norm="transformer.ln_f")
_EMBED = "before position embeddings are added"

GPT2 = Family(
    name="gpt2",
    model_types=("gpt2",),
    stacks=(
        replace(
            _STACK,
            sites={**STREAM, "attn.in": "attn:in", "attn.z": "attn.c_proj:in", "attn_out": "attn", **_MLP},
            attention="attn",
        ),
    ),
    notes={"embed": _EMBED},
)

GPT_NEO = Family(
    name="gpt_neo",
    model_types=("gpt_neo",),
    stacks=(
        replace(
            _STACK,
            sites={
                **STREAM,
                "attn.in": "attn:in",
                "attn.z": "attn.attention.out_proj:in",
                "attn_out": "attn",
                **_MLP,
            },
            attention_calls="attn.attention",
            heads=("num_heads",),
        ),
    ),
    notes={
        "embed": _EMBED,
        "attn.scores": f"{OWN_ATTENTION}; they are not divided by sqrt(d_head); not with flash attention",
        "attn.pattern": f"{OWN_ATTENTION}; not with flash attention",
    },
)
