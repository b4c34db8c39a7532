"""Site tables that several encoders, encoder-decoders and vision-language models share, as data."""

from collections.abc import Mapping

from inscape.models.family import Stack, Taps

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

# Contrastive pairs: a text and a vision tower side by side.
PAIR_TEXT = Stack(
    blocks="text_model.encoder.layers",
    sites=CLIP_BLOCK,
    attention="self_attn",
    prefix="text.",
    embed="text_model.embeddings.token_embedding",
    final_norm="text_model.final_layer_norm",
    config="text_config",
)
PAIR_VISION = Stack(
    blocks="vision_model.encoder.layers",
    sites=CLIP_BLOCK,
    attention="self_attn",
    prefix="vision.",
    embed="vision_model.embeddings",
    final_norm="vision_model.post_layernorm",
    config="vision_config",
)
PAIR_NOTES = {
    "text.embed": "token vectors alone; positions are added before layers.0.resid_pre",
    "logits": "similarities of the two towers' pooled outputs, made by no module",
}
NO_CLASS_TOKEN = "patches with positions, as layers.0.resid_pre; there is no class token"

# Such a vision tower before a language model, whose own blocks are given by the family.
BEFORE_TEXT = Stack(
    blocks="model.vision_tower.encoder.layers",
    sites=CLIP_BLOCK,
    attention="self_attn",
    prefix="vision.",
    embed="model.vision_tower.embeddings",
    final_norm="model.vision_tower.post_layernorm",
    config="vision_config",
)
AFTER_VISION = Stack(
    blocks="model.language_model.layers",
    sites={},
    attention="self_attn",
    prefix="text.",
    embed="model.language_model.embed_tokens",
    final_norm="model.language_model.norm",
    config="text_config",
)

# BART and Whisper: the MLP is two layers of the block itself; where the middle of the stream is differs.
FC_PARTS: Mapping[str, Taps] = {
    "resid_pre": ":in",
    "attn.in": "self_attn:in",
    "attn.z": "self_attn.out_proj:in",
    "attn_out": "self_attn",
    "mlp.in": "fc1:in",
    "mlp.pre": "fc1",
    "mlp.act": "fc2:in",
    "mlp_out": "fc2",
    "resid_post": "",
}
CROSS_PARTS: Mapping[str, Taps] = {
    "cross.in": "encoder_attn:in",
    "cross.z": "encoder_attn.out_proj:in",
    "cross_out": "encoder_attn",
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
