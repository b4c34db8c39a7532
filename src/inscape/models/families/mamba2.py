"""Mamba-2: one state-space mixer a layer, with heads, groups and a gated norm before its output projection."""

from inscape.models.families.parts import STREAM
from inscape.models.family import Family, Stack

MAMBA2 = Family(
    name="mamba2",
    model_types=("mamba2",),
    stacks=(
        Stack(
            blocks="backbone.layers",
            sites={
                **STREAM,
                "ssm.in": "mixer:in",
                "ssm.gate": "mixer.norm:in@1",
                "ssm.dt": "mixer.in_proj[-num_heads:]",
                "ssm.scan": "mixer.norm:in",
                "ssm.y": "mixer.out_proj:in",
                "ssm_out": "mixer",
            },
            recurrence="mamba2",
            embed="backbone.embeddings",
            final_norm="backbone.norm_f",
        ),
    ),
    positions="none",
    notes={
        "attn": "there is no attention; what the mixer adds is ssm_out",
        "mlp": "there is no MLP; what the mixer adds is ssm_out",
        "resid_mid": "one part a layer: there is no middle",
        "ssm.conv": "the convolution runs as a function: no module receives or returns it",
        "ssm.B": "cut from the convolution's result, which no module receives or returns",
        "ssm.C": "cut from the convolution's result, which no module receives or returns",
        "ssm.gate": "before its activation function",
        "ssm.dt": "one a head, before its bias and softplus",
        "ssm.state": "to read",
        "ssm.scan": "what the recurrence gives, with the skip D, before gate and norm",
        "ssm.y": "after gate and norm",
    },
)
