"""RWKV 4: a linear recurrence over time (module name `attention`) and a gated feed-forward over channels."""

from inscape.models.family import Family, Stack

RWKV = Family(
    name="rwkv",
    model_types=("rwkv",),
    stacks=(
        Stack(
            blocks="rwkv.blocks",
            sites={
                "resid_pre": ("pre_ln", ":in"),
                "ssm.in": "attention:in",
                "ssm.gate": "attention.receptance",
                "ssm.k": "attention.key",
                "ssm.v": "attention.value",
                "ssm.y": "attention.output:in",
                "ssm_out": "attention",
                "resid_mid": "ln2:in",
                "mlp.in": "feed_forward:in",
                "mlp.pre": "feed_forward.key",
                "mlp.act": "feed_forward.value:in",
                "mlp_out": "feed_forward",
                "resid_post": "",
            },
            recurrence="wkv",
            embed="rwkv.embeddings",
            final_norm="rwkv.ln_out",
        ),
    ),
    logits="head",
    positions="none",
    left_padding=False,
    notes={
        "attn": "a recurrence without heads or pattern: read ssm_out, ssm.y, ssm.k, ssm.v, ssm.gate",
        "resid_pre": "layer 0: after its first norm; in eval mode every rescale_every layers halve the stream",
        "ssm.gate": "receptance, before its sigmoid",
        "ssm.state": "to read: numerator and denominator, both over exp of the third part, their scale",
        "ssm.y": "gated by receptance",
        "mlp.act": "the down projection's output is gated by receptance before it is added",
        "padding": "the model ignores the attention mask: pad on the right only",
    },
)
