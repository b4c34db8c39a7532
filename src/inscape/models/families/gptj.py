"""GPT-J: attention and MLP side by side, both reading one norm; attention past transformers' interface."""

from inscape.models.families.parts import OWN_ATTENTION, STREAM
from inscape.models.family import Family, Stack

GPTJ = Family(
    name="gptj",
    model_types=("gptj",),
    stacks=(
        Stack(
            blocks="transformer.h",
            sites={
                **STREAM,
                "attn.in": "attn:in",
                "attn.z": "attn.out_proj:in",
                "attn_out": "attn",
                "mlp.in": "mlp:in",
                "mlp.pre": "mlp.fc_in",
                "mlp.act": "mlp.fc_out:in",
                "mlp_out": "mlp",
            },
            adds="parallel",
            attention_calls="attn",
            embed="transformer.wte",
            final_norm="transformer.ln_f",
        ),
    ),
    notes={
        "resid_mid": "attention and MLP read the same stream: there is no middle",
        "attn.scores": f"{OWN_ATTENTION}; not with flash attention",
        "attn.pattern": f"{OWN_ATTENTION}; not with flash attention",
    },
)
