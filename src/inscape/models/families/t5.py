"""T5, plain and gated (Flan-T5, T5 1.1): relative positions, RMS norms, the residual sum inside each sublayer.

The sublayers return the stream itself, so `resid_mid` is a true place of the stream: an edit there reaches
everything after it. In the decoder it stands after cross-attention.
"""

from inscape.models.family import Family, Stack, Taps


def _block(mlp: str, middle: str) -> dict[str, Taps]:
    return {
        "resid_pre": ":in",
        "attn.in": "layer.0.SelfAttention:in",
        "attn.z": "layer.0.SelfAttention.o:in",
        "attn_out": "layer.0.SelfAttention",
        "resid_mid": middle,
        "mlp.in": f"{mlp}.DenseReluDense:in",
        "mlp.pre": (f"{mlp}.DenseReluDense.wi", f"{mlp}.DenseReluDense.wi_0"),
        "mlp.act": f"{mlp}.DenseReluDense.wo:in",
        "mlp_out": f"{mlp}.DenseReluDense",
        "resid_post": "",
    }


T5 = Family(
    name="t5",
    model_types=("t5",),
    stacks=(
        Stack(
            blocks="encoder.block",
            sites=_block("layer.1", "layer.0"),
            attention="layer.0.SelfAttention",
            prefix="encoder.",
            embed="encoder.embed_tokens",
            final_norm="encoder.final_layer_norm",
        ),
        Stack(
            blocks="decoder.block",
            sites={
                **_block("layer.2", "layer.1"),
                "cross.in": "layer.1.EncDecAttention:in",
                "cross.z": "layer.1.EncDecAttention.o:in",
                "cross_out": "layer.1.EncDecAttention",
            },
            attention="layer.0.SelfAttention",
            cross="layer.1.EncDecAttention",
            prefix="decoder.",
            embed="decoder.embed_tokens",
            final_norm="decoder.final_layer_norm",
        ),
    ),
    logits=("lm_head", "classification_head", "classifier", "qa_outputs"),
    positions="none",
    notes={
        "logits": "the head reads decoder.final_norm times d_model ** -0.5 where the config says scale_decoder_outputs",
        "decoder.layers.*.resid_mid": "after cross-attention",
    },
)
