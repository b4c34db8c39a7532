"""Falcon-H1: Mamba-2 and attention side by side in every layer, each scaled by a number, then an MLP."""

from inscape.models.families.parts import ATTENTION, STREAM
from inscape.models.family import Family, Stack

FALCON_H1 = Family(
    name="falcon_h1",
    model_types=("falcon_h1",),
    stacks=(
        Stack(
            blocks="model.layers",
            sites={
                **STREAM,
                **ATTENTION,
                "attn_out": "self_attn * attention_out_multiplier",
                "ssm.in": "mamba:in",
                "ssm.y": "mamba.out_proj:in",
                "ssm_out": "mamba * ssm_out_multiplier",
                "resid_mid": "pre_ff_layernorm:in",
                "mlp.in": "feed_forward:in",
                "mlp.pre": "feed_forward.act_fn:in",
                "mlp.act": "feed_forward.down_proj:in",
                "mlp_out": "feed_forward",
            },
            recurrence="mamba2",
            attention="self_attn",
            embed="model.embed_tokens",
            final_norm="model.final_layernorm",
        ),
    ),
    logits_after=("times:lm_head_multiplier",),
    notes={
        "attn_out": "the module's output times attention_out_multiplier, as it is added",
        "attn.in": "after attention_in_multiplier",
        "ssm_out": "the module's output times ssm_out_multiplier, as it is added",
        "mlp_out": "the down projection's output times the second of mlp_multipliers, as it is added",
        "resid_mid": "resid_pre + ssm_out + attn_out",
        "embed": "before embedding_multiplier",
        "ssm.gate": "cut from a scaled projection, which no module receives or returns",
        "ssm.dt": "cut from a scaled projection, which no module receives or returns",
        "ssm.state": "to read",
        "ssm.conv": "the convolution runs as a function: no module receives or returns it",
        "ssm.B": "cut from the convolution's result, which no module receives or returns",
        "ssm.C": "cut from the convolution's result, which no module receives or returns",
    },
)
