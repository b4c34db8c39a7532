"""Jamba: layers of Mamba, and layers of attention without positions; each with an MLP or routed experts."""

from inscape.models.families.parts import ATTENTION, MOE_NOTES, STREAM
from inscape.models.family import Family, Stack

JAMBA = Family(
    name="jamba",
    model_types=("jamba",),
    stacks=(
        Stack(
            blocks="model.layers",
            sites={
                **STREAM,
                **ATTENTION,
                "ssm.in": "mamba:in",
                "ssm.gate": "mamba.in_proj[1/2]",
                "ssm.conv": "mamba.x_proj:in",
                "ssm.dt": "mamba.dt_layernorm",
                "ssm.B": "mamba.b_layernorm",
                "ssm.C": "mamba.c_layernorm",
                "ssm.y": "mamba.out_proj:in",
                "ssm_out": "mamba",
                "resid_mid": "pre_ff_layernorm:in",
                "mlp.in": "feed_forward:in",
                "mlp.pre": "feed_forward.gate_proj",
                "mlp.act": "feed_forward.down_proj:in",
                "router.logits": "feed_forward.router@0",
                "router.experts": "feed_forward.experts:in@1",
                "router.weights": "feed_forward.experts:in@2",
                "mlp_out": "feed_forward",
            },
            recurrence="mamba",
            attention="self_attn",
            experts="feed_forward.experts",
            embed="model.embed_tokens",
            final_norm="model.final_layernorm",
        ),
    ),
    positions="none",
    notes={
        **MOE_NOTES,
        "ssm.gate": "before its activation function",
        "ssm.conv": "after the convolution's activation function; an edit reaches dt, B and C, not the input itself",
        "ssm.dt": "of rank mamba_dt_rank, before the projection to all channels and softplus",
        "ssm.state": "to read; several tokens after a cached one begin anew in transformers, and so does it",
        "ssm.y": "gated, with the skip D",
    },
)
