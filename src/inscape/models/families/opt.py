"""OPT: pre-norm, except for the 350M model, which normalises the stream after each addition."""

from dataclasses import replace

from inscape.models.families.parts import STREAM
from inscape.models.family import Family, Stack, Taps

# There is no MLP module, and tokens are flattened into rows between the two norms.
_SITES: dict[str, Taps] = {
    **STREAM,
    "attn.in": "self_attn:in",
    "attn.z": "self_attn.out_proj:in",
    "attn_out": "self_attn",
    "mlp.in": "fc1:in",
    "mlp.pre": "fc1",
    "mlp.act": "fc2:in",
    "mlp_out": "fc2",
}
_STACK = Stack(
    blocks="model.decoder.layers",
    sites=_SITES,
    attention="self_attn",
    embed="model.decoder.embed_tokens",
)
_EMBED = "before position embeddings are added"

OPT = Family(
    name="opt",
    model_types=("opt",),
    when={"do_layer_norm_before": True},
    stacks=(
        replace(
            _STACK,
            sites={**_SITES, "resid_mid": "final_layer_norm:in"},
            final_norm="model.decoder.final_layer_norm",
        ),
    ),
    positions="own",
    notes={"embed": _EMBED},
)

OPT_POST_NORM = Family(
    name="opt_post_norm",
    model_types=("opt",),
    when={"do_layer_norm_before": False},
    stacks=(
        replace(
            _STACK,
            sites={**_SITES, "resid_mid": "self_attn_layer_norm"},
            adds="post_norm",
            norms=("self_attn_layer_norm", "final_layer_norm"),
        ),
    ),
    positions="own",
    notes={
        "embed": _EMBED + ", and narrower than the stream where word_embed_proj_dim is",
        "final_norm": "none: every block ends in its own",
    },
)
