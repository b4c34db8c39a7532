"""Mamba and Falcon-Mamba: one state-space mixer a layer and nothing else."""

from inscape.models.families.parts import MAMBA as MIXER
from inscape.models.families.parts import STREAM
from inscape.models.family import Family, Stack

MAMBA = Family(
    name="mamba",
    model_types=("mamba", "falcon_mamba"),
    stacks=(
        Stack(
            blocks="backbone.layers",
            sites={**STREAM, **MIXER},
            recurrence="mamba",
            embed="backbone.embeddings",
            final_norm="backbone.norm_f",
        ),
    ),
    positions="none",
    notes={
        "attn": "there is no attention; what the mixer adds is ssm_out",
        "mlp": "there is no MLP; what the mixer adds is ssm_out",
        "resid_mid": "one part a layer: there is no middle",
        "ssm.gate": "before its activation function",
        "ssm.conv": "after the convolution's activation function; an edit reaches dt, B and C, not the input itself",
        "ssm.dt": "of rank time_step_rank, before projection and softplus; Falcon-Mamba normalises it after",
        "ssm.B": "Falcon-Mamba normalises it after",
        "ssm.C": "Falcon-Mamba normalises it after",
        "ssm.state": "to read; several tokens after a cached one begin anew in transformers, and so does it",
        "ssm.y": "gated, with the skip D",
    },
)
