"""Tiny random models of every family that is not a plain decoder, and a small batch for each.

Built from local configurations, two or three layers, widths of 16 to 64. Every parameter and every batch-norm
statistic is jittered, so that no scale is 1 and no bias is 0: a name that leaves one out cannot pass by luck.
"""

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf
from torch import Tensor, nn

TEXT = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
BERT = {**TEXT, "max_position_embeddings": 40}
IMAGE = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
SEQ2SEQ = {
    "vocab_size": 99, "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 40, "pad_token_id": 1, "bos_token_id": 0,
    "eos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip
T5 = {
    "vocab_size": 99, "d_model": 32, "d_kv": 6, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4,
    "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
}  # fmt: skip
SPEECH = {
    "vocab_size": 31, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
    "conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2, "pad_token_id": 0,
}  # fmt: skip
IMAGE_TOKEN = 90


def jittered(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """What `build` makes, in eval mode, with every parameter and batch-norm statistic moved off its initial value."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        module = build().eval()
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.running_mean.add_(torch.randn_like(part.running_mean) * 0.2)
                part.running_var.mul_(torch.rand_like(part.running_var) + 0.5)
    return module


def _clip() -> tf.CLIPConfig:
    text = {**TEXT, "max_position_embeddings": 20}
    return tf.CLIPConfig(text_config=text, vision_config=IMAGE, projection_dim=24)


def _siglip() -> tf.SiglipConfig:
    text = {**TEXT, "max_position_embeddings": 20, "projection_size": 32}
    return tf.SiglipConfig(text_config=text, vision_config=IMAGE)


def _llava() -> tf.LlavaConfig:
    return tf.LlavaConfig(
        vision_config=tf.CLIPVisionConfig(**IMAGE),
        text_config=tf.LlamaConfig(**TEXT, num_key_value_heads=2),
        image_token_index=IMAGE_TOKEN,
        image_seq_length=16,
    )


def _gemma3() -> tf.Gemma3Config:
    text = {**TEXT, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8}
    return tf.Gemma3Config(
        text_config=text,
        vision_config={**IMAGE, "vision_use_head": False},
        mm_tokens_per_image=4,
        image_token_index=IMAGE_TOKEN,
        boi_token_index=91,
        eoi_token_index=92,
    )


def _qwen() -> tf.Qwen2_5_VLConfig:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "patch_size": 4, "window_size": 8,
        "fullatt_block_indexes": [1], "out_hidden_size": 32,
    }  # fmt: skip
    return tf.Qwen2_5_VLConfig(
        text_config={**TEXT, "num_key_value_heads": 2, "rope_parameters": rope},
        vision_config=vision,
        image_token_id=IMAGE_TOKEN,
        video_token_id=91,
        vision_start_token_id=92,
        vision_end_token_id=93,
    )


def _efficientnet() -> nn.Module:
    from efficientnet_lite_pytorch import BlockArgs, EfficientNet, GlobalParams

    def args(repeat: int, stride: int, expand: int, inside: int, outside: int) -> Any:
        return BlockArgs(repeat, 3, [stride], expand, inside, outside, None, True)

    shared = GlobalParams(
        width_coefficient=1.0, depth_coefficient=1.0, image_size=32, dropout_rate=0.0, num_classes=10,
        batch_norm_momentum=0.99, batch_norm_epsilon=1e-3, drop_connect_rate=0.0, depth_divisor=8, relu_fn="relu6",
        fix_head_stem=True, local_pooling=False, use_se=False,
    )  # fmt: skip
    return EfficientNet([args(1, 1, 1, 32, 16), args(2, 2, 2, 16, 24), args(1, 1, 2, 24, 32)], shared)


_BUILD: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: tf.BertForMaskedLM(tf.BertConfig(**BERT)),
    "roberta": lambda: tf.RobertaForMaskedLM(tf.RobertaConfig(**BERT)),
    "modernbert": lambda: tf.ModernBertForMaskedLM(
        tf.ModernBertConfig(**BERT, global_attn_every_n_layers=2, local_attention=6, cls_token_id=0, sep_token_id=2)
    ),
    "distilbert": lambda: tf.DistilBertForMaskedLM(
        tf.DistilBertConfig(vocab_size=99, dim=32, n_layers=3, n_heads=4, hidden_dim=48, max_position_embeddings=40)
    ),
    "t5": lambda: tf.T5ForConditionalGeneration(tf.T5Config(**T5)),
    "t5_gated": lambda: tf.T5ForConditionalGeneration(
        tf.T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    ),
    "bart": lambda: tf.BartForConditionalGeneration(tf.BartConfig(**SEQ2SEQ, max_position_embeddings=40)),
    "whisper": lambda: tf.WhisperForConditionalGeneration(
        tf.WhisperConfig(**SEQ2SEQ, num_mel_bins=8, max_source_positions=12, max_target_positions=20)
    ),
    "vit": lambda: tf.ViTForImageClassification(tf.ViTConfig(**IMAGE)),
    "dinov2": lambda: tf.Dinov2ForImageClassification(tf.Dinov2Config(**IMAGE)),
    "dinov2_gated": lambda: tf.Dinov2ForImageClassification(tf.Dinov2Config(**IMAGE, use_swiglu_ffn=True)),
    "dinov3_vit": lambda: tf.DINOv3ViTModel(tf.DINOv3ViTConfig(**IMAGE, num_register_tokens=2)),
    "dinov3_vit_gated": lambda: tf.DINOv3ViTModel(tf.DINOv3ViTConfig(**IMAGE, use_gated_mlp=True)),
    "clip": lambda: tf.CLIPModel(_clip()),
    "clip_text": lambda: tf.CLIPTextModelWithProjection(_clip().text_config),
    "clip_vision": lambda: tf.CLIPVisionModelWithProjection(_clip().vision_config),
    "siglip": lambda: tf.SiglipModel(_siglip()),
    "siglip_text": lambda: tf.SiglipTextModel(_siglip().text_config),
    "siglip_vision": lambda: tf.SiglipVisionModel(_siglip().vision_config),
    "convnext": lambda: tf.ConvNextForImageClassification(
        tf.ConvNextConfig(hidden_sizes=[16, 24, 32], depths=[1, 2, 2], num_stages=3, image_size=32, num_labels=5)
    ),
    "resnet": lambda: tf.ResNetForImageClassification(
        tf.ResNetConfig(embedding_size=16, hidden_sizes=[16, 24], depths=[1, 2], layer_type="basic", num_labels=5)
    ),
    "resnet_bottleneck": lambda: tf.ResNetForImageClassification(
        tf.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], num_labels=5)
    ),
    "efficientnet_lite": _efficientnet,
    "llava": lambda: tf.LlavaForConditionalGeneration(_llava()),
    "gemma3_vlm": lambda: tf.Gemma3ForConditionalGeneration(_gemma3()),
    "qwen2_5_vl": lambda: tf.Qwen2_5_VLForConditionalGeneration(_qwen()),
    "wav2vec2": lambda: tf.Wav2Vec2ForCTC(tf.Wav2Vec2Config(**SPEECH)),
    "wav2vec2_stable": lambda: tf.Wav2Vec2ForCTC(
        tf.Wav2Vec2Config(**SPEECH, do_stable_layer_norm=True, feat_extract_norm="layer")
    ),
    "hubert": lambda: tf.HubertForCTC(tf.HubertConfig(**SPEECH)),
    "hubert_stable": lambda: tf.HubertForCTC(
        tf.HubertConfig(**SPEECH, do_stable_layer_norm=True, feat_extract_norm="layer")
    ),
}


def _zoo_entry(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: jittered(build)


OTHER_ZOO: dict[str, Callable[[], nn.Module]] = {name: _zoo_entry(build) for name, build in _BUILD.items()}


def inputs_for(name: str) -> dict[str, Tensor] | tuple[Tensor, ...]:
    """A batch of two for the zoo's model of that name: keyword arguments, or positional ones for a plain module."""
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 80, (2, 9), generator=g)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    text = {
        "input_ids": ids.masked_fill(mask == 0, 0 if name.startswith(("t5", "distilbert")) else 1),
        "attention_mask": mask,
    }
    pixels = torch.randn(2, 3, 16, 16, generator=g)
    if name in ("bert", "roberta", "modernbert", "distilbert", "clip_text", "siglip_text"):
        return text
    if name in ("t5", "t5_gated", "bart"):
        return {**text, "decoder_input_ids": torch.randint(5, 80, (2, 5), generator=g)}
    if name == "whisper":
        sound = torch.randn(2, 8, 24, generator=g)
        return {"input_features": sound, "decoder_input_ids": torch.randint(5, 80, (2, 5), generator=g)}
    if name in ("clip", "siglip"):
        return {**text, "pixel_values": pixels}
    if name == "efficientnet_lite":
        return (torch.randn(2, 3, 32, 32, generator=g),)
    if name.startswith(("convnext", "resnet")):
        return {"pixel_values": torch.randn(2, 3, 32, 32, generator=g)}
    if name.startswith(("wav2vec2", "hubert")):
        return {"input_values": torch.randn(2, 200, generator=g)}
    if name in ("llava", "gemma3_vlm", "qwen2_5_vl"):
        return _with_image(name, ids, pixels, g)
    return {"pixel_values": pixels}


def _with_image(name: str, ids: Tensor, pixels: Tensor, g: torch.Generator) -> dict[str, Tensor]:
    """Two prompts of unequal length, each with one image after its second token; the shorter is padded on the left."""
    image = torch.full((2, 16 if name == "llava" else 4), IMAGE_TOKEN)
    if name == "qwen2_5_vl":  # this family finds its images by the token before them
        image = torch.cat([torch.full((2, 1), 92), image, torch.full((2, 1), 93)], 1)
    ids = torch.cat([ids[:, :2], image, ids[:, 2:]], 1)
    mask = torch.ones_like(ids)
    pad = torch.full((1, 2), TEXT["pad_token_id"])
    ids = torch.cat([ids[:1], torch.cat([pad, ids[1:, :-2]], 1)])
    mask[1, :2] = 0
    kinds = (ids == IMAGE_TOKEN).long()
    batch = {"input_ids": ids, "attention_mask": mask}
    if name == "gemma3_vlm":
        return {**batch, "pixel_values": pixels, "token_type_ids": kinds}
    if name == "qwen2_5_vl":
        patches = torch.randn(2 * 16, 3 * 2 * 4 * 4, generator=g)
        grid = torch.tensor([[1, 4, 4]] * 2)
        return {**batch, "pixel_values": patches, "image_grid_thw": grid, "mm_token_type_ids": kinds}
    return {**batch, "pixel_values": pixels}
