"""RecurrentGemma (Griffin): layers of a gated linear recurrence, and layers of local attention, each with an MLP."""

from inscape.models.families.parts import STREAM
from inscape.models.family import Family, Stack

RECURRENT_GEMMA = Family(
    name="recurrent_gemma",
    model_types=("recurrent_gemma",),
    stacks=(
        Stack(
            blocks="model.layers",
            sites={
                **STREAM,
                "attn.in": "temporal_block:in if temporal_block.q_proj",
                "attn.z": "temporal_block.o_proj:in",
                "attn_out": "temporal_block if temporal_block.q_proj",
                "ssm.in": "temporal_block:in if temporal_block.rg_lru",
                "ssm.gate": "temporal_block.linear_y",
                "ssm.conv": "temporal_block.rg_lru:in",
                "ssm.scan": "temporal_block.rg_lru",
                "ssm.y": "temporal_block.linear_out:in",
                "ssm_out": "temporal_block if temporal_block.rg_lru",
                "resid_mid": "channel_pre_norm:in",
                "mlp.in": "mlp_block:in",
                "mlp.pre": "mlp_block.gate_proj",
                "mlp.act": "mlp_block.down_proj:in",
                "mlp_out": "mlp_block",
            },
            recurrence="rg_lru",
            attention="temporal_block if temporal_block.q_proj",
            embed="model.embed_tokens",
            final_norm="model.final_norm",
        ),
    ),
    logits_after=("softcap:logits_soft_cap",),
    left_padding=False,
    notes={
        "embed": "before it is scaled by sqrt(d_model)",
        "ssm.gate": "before its activation function",
        "ssm.scan": "the recurrent state itself, one number a channel; an edit acts on what is read out of it",
        "ssm.state": "to read: ssm.scan before its edits, in float32",
        "ssm.dt": "the recurrence has no step size; its gates are computed inside rg_lru",
        "ssm.B": "the recurrence is diagonal: its gates are computed inside rg_lru",
        "ssm.C": "the recurrence is diagonal: its gates are computed inside rg_lru",
    },
)
