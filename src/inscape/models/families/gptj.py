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
                "attn.v": "attn.v_proj",
                "attn.pattern": "attn.attn_dropout:in",
                "attn.z": "attn.out_proj:in",
                "attn_out": "attn",
                "mlp.in": "mlp:in",
                "mlp.pre": "mlp.fc_in",
                "mlp.act": "mlp.fc_out:in",
                "mlp_out": "mlp",
            },
            adds="parallel",
            embed="transformer.wte",
            final_norm="transformer.ln_f",
        ),
    ),
    notes={
        "resid_mid": "attention and MLP read the same stream: there is no middle",
        "attn.q": f"{OWN_ATTENTION}; before rotary they are @transformer.h.{{i}}.attn.q_proj",
        "attn.k": f"{OWN_ATTENTION}; before rotary they are @transformer.h.{{i}}.attn.k_proj",
        "attn.v": "of the tokens that run; in a cached step the past is in the cache",
        "attn.scores": OWN_ATTENTION,
        "attn.pattern": "not with flash attention, which forms no pattern",
    },
)
