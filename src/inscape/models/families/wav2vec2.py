"""wav2vec 2.0 and HuBERT: encoders over raw sound, in two layouts under one name.

The base models normalise the stream after each addition, the large ones ("stable layer norm") before each branch.
"""

from inscape.models.families.parts_encoder import SPEECH_NORMS, SPEECH_POST_NORM, SPEECH_PRE_NORM
from inscape.models.family import Family, Stack, Taps

_HEADS: Taps = ("lm_head", "classifier", "project_hid")
_EMBED = "projected features of the sound; convolutional positions are added before layers.0.resid_pre"


def _post_norm(name: str) -> Family:
    return Family(
        name=name,
        model_types=(name,),
        when={"do_stable_layer_norm": False},
        stacks=(
            Stack(
                blocks=f"{name}.encoder.layers",
                sites=SPEECH_POST_NORM,
                attention="attention",
                adds="post_norm",
                norms=SPEECH_NORMS,
                embed=f"{name}.feature_projection",
            ),
        ),
        logits=_HEADS,
        positions="none",
        notes={"embed": _EMBED, "final_norm": "none: every block ends in its own norm"},
    )


def _pre_norm(name: str) -> Family:
    return Family(
        name=f"{name}_stable",
        model_types=(name,),
        when={"do_stable_layer_norm": True},
        stacks=(
            Stack(
                blocks=f"{name}.encoder.layers",
                sites=SPEECH_PRE_NORM,
                attention="attention",
                embed=f"{name}.feature_projection",
                final_norm=f"{name}.encoder.layer_norm",
            ),
        ),
        logits=_HEADS,
        positions="none",
        notes={
            "embed": _EMBED,
            "resid_post": "where adapters are set (adapter_attn_dim) their output is added as well",
        },
    )


WAV2VEC2 = _post_norm("wav2vec2")
WAV2VEC2_STABLE = _pre_norm("wav2vec2")
HUBERT = _post_norm("hubert")
HUBERT_STABLE = _pre_norm("hubert")
