"""Site tables that several encoders, encoder-decoders and vision-language models share, as data."""

from collections.abc import Mapping

from inscape.models.family import Taps

# BERT and its descendants: the stream is normalised after each addition.
BERT_BLOCK: Mapping[str, Taps] = {
    "resid_pre": ":in",
    "attn.in": "attention.self:in",
    "attn.z": "attention.output.dense:in",
    "attn_out": "attention.output.dense",
    "resid_mid": "attention.output.LayerNorm",
    "mlp.in": "intermediate:in",
    "mlp.pre": "intermediate.dense",
    "mlp.act": "output.dense:in",
    "mlp_out": "output.dense",
    "resid_post": "",
}
BERT_NORMS = ("attention.output.LayerNorm", "output.LayerNorm")

# CLIP and SigLIP, text and vision alike; also the vision towers of LLaVA and Gemma 3.
CLIP_BLOCK: Mapping[str, Taps] = {
    "resid_pre": ":in",
    "attn.in": "self_attn:in",
    "attn.z": "self_attn.out_proj:in",
    "attn_out": "self_attn",
    "resid_mid": "layer_norm2:in",
    "mlp.in": "mlp:in",
    "mlp.pre": "mlp.fc1",
    "mlp.act": "mlp.fc2:in",
    "mlp_out": "mlp",
    "resid_post": "",
}

# DINOv2 and DINOv3: what enters the stream is the output of the layer scale.
DINO_BLOCK: Mapping[str, Taps] = {
    "resid_pre": ":in",
    "attn.in": "attention:in",
    "attn.z": "attention.o_proj:in",
    "attn_out": "layer_scale1",
    "resid_mid": "norm2:in",
    "mlp.in": "mlp:in",
    "mlp.pre": ("mlp.fc1", "mlp.gate_proj", "mlp.up_proj"),
    "mlp.act": ("mlp.fc2:in", "mlp.down_proj:in"),
    "mlp_out": "layer_scale2",
    "resid_post": "",
}

# wav2vec 2.0 and HuBERT: the parts are the same in both layouts, only the norms stand elsewhere.
SPEECH_PARTS: Mapping[str, Taps] = {
    "resid_pre": ":in",
    "attn.in": "attention:in",
    "attn.z": "attention.out_proj:in",
    "attn_out": "attention",
    "mlp.in": "feed_forward:in",
    "mlp.pre": "feed_forward.intermediate_dense",
    "mlp.act": "feed_forward.output_dense:in",
    "mlp_out": "feed_forward",
    "resid_post": "",
}
SPEECH_POST_NORM: Mapping[str, Taps] = {**SPEECH_PARTS, "resid_mid": "layer_norm"}
SPEECH_PRE_NORM: Mapping[str, Taps] = {**SPEECH_PARTS, "resid_mid": "final_layer_norm:in"}
SPEECH_NORMS = ("layer_norm", "final_layer_norm")
