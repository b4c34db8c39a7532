"""Qwen3-Next: layers of gated delta rule (linear attention), layers of gated attention; routed experts or an MLP."""

from dataclasses import replace

from inscape.models.families.llama import LLAMA_STACK
from inscape.models.families.parts import MOE_NOTES, PRE_NORM, ROUTER, SHARED_EXPERT, SHARED_NOTES
from inscape.models.family import Family

QWEN3_NEXT = Family(
    name="qwen3_next",
    model_types=("qwen3_next",),
    stacks=(
        replace(
            LLAMA_STACK,
            sites={
                **PRE_NORM,
                **ROUTER,
                **SHARED_EXPERT,
                "ssm.in": "linear_attn:in",
                "ssm.y": "linear_attn.out_proj:in",
                "ssm_out": "linear_attn",
            },
            recurrence="delta",
            experts="mlp.experts",
        ),
    ),
    notes={
        **MOE_NOTES,
        **SHARED_NOTES,
        "attn.z": "after the output gate: what the output projection reads, not pattern times values alone",
        "ssm.y": "after gate and norm",
        "ssm.state": "to read: a matrix a value head, from keys to values",
        "ssm.gate": "interleaved by key head in @model.layers.{i}.linear_attn.in_proj_qkvz",
        "ssm.dt": "interleaved by key head in @model.layers.{i}.linear_attn.in_proj_ba",
        "ssm.conv": "the convolution runs as a function: no module receives or returns it",
        "ssm.B": "keys play its part; cut from the convolution's result, which no module receives or returns",
        "ssm.C": "queries play its part; cut from the convolution's result, which no module receives or returns",
    },
)
