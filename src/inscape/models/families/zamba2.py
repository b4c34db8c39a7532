"""Zamba 2: Mamba-2 layers; in some, a transformer block shared across layers first writes into the mixer's input."""

from inscape.models.families.parts import STREAM
from inscape.models.family import Family, Stack

_SIDE = "only in hybrid layers, and never added to the stream: the shared block's result is `shared.out`"

ZAMBA2 = Family(
    name="zamba2",
    model_types=("zamba2",),
    stacks=(
        Stack(
            blocks="model.layers",
            sites={
                **STREAM,
                "attn.in": "shared_transformer.self_attn:in",
                "attn.z": "shared_transformer.self_attn.o_proj:in",
                "mlp.in": "shared_transformer.feed_forward:in",
                "mlp.pre": "shared_transformer.feed_forward.act_fn:in",
                "mlp.act": "shared_transformer.feed_forward.down_proj:in",
                "shared.out": "linear",
                "ssm.in": ("mamba_decoder.mamba:in", "mamba:in"),
                "ssm.gate": ("mamba_decoder.mamba.norm:in@1", "mamba.norm:in@1"),
                "ssm.dt": ("mamba_decoder.mamba.in_proj[-n_mamba_heads:]", "mamba.in_proj[-n_mamba_heads:]"),
                "ssm.scan": ("mamba_decoder.mamba.norm:in", "mamba.norm:in"),
                "ssm.y": ("mamba_decoder.mamba.out_proj:in", "mamba.out_proj:in"),
                "ssm_out": ("mamba_decoder.mamba", "mamba"),
            },
            recurrence="mamba2",
            attention="shared_transformer.self_attn",
            embed="model.embed_tokens",
            final_norm="model.final_layernorm",
        ),
    ),
    notes={
        "attn_out": _SIDE,
        "mlp_out": _SIDE,
        "resid_mid": "only the mixer adds to the stream: there is no middle",
        "attn.in": "stream and embeddings side by side, normed: twice as wide as the stream",
        "shared.out": "added to what the mixer's norm reads, not to the stream; hybrid layers only",
        "ssm.conv": "the convolution runs as a function: no module receives or returns it",
        "ssm.B": "cut from the convolution's result, which no module receives or returns",
        "ssm.C": "cut from the convolution's result, which no module receives or returns",
        "ssm.gate": "before its activation function",
        "ssm.dt": "one a head, before its bias and softplus",
        "ssm.state": "to read, its step sizes limited by time_step_min except in one-token cached steps",
        "ssm.scan": "what the recurrence gives, with the skip D, before gate and norm",
        "ssm.y": "after gate and norm",
    },
)
