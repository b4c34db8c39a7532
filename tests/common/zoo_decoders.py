"""Tiny random text decoders, one for every layout that the families' tables describe.

Each is built from a local configuration: two to four layers, width 32, a vocabulary of 96. Every parameter is moved
off its initial value, so no scale is exactly 1 and no bias exactly 0: a norm or multiplier left out is noticed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

TOKENS = {"vocab_size": 96, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZE = {
    **TOKENS,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
GROUPED = {**SIZE, "num_key_value_heads": 2}
N_NAMES = {**TOKENS, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
MOE = {
    **GROUPED,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
    "decoder_sparse_step": 1,
}
WINDOWS = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
LATENT = {
    **SIZE,
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 20,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 24,
    "routed_scaling_factor": 1.5,
}
FALCON = {**SIZE, "multi_query": True, "bias": True, "ffn_hidden_size": 64}
MAMBA = {**TOKENS, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8, "conv_kernel": 4, "expand": 2}
FALCON_H1 = {
    **GROUPED,
    "mamba_d_ssm": 64,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 2,
    "mamba_chunk_size": 4,
    "ssm_multipliers": [1.1, 0.9, 1.2, 0.8, 1.3],
    "ssm_in_multiplier": 0.9,
    "ssm_out_multiplier": 0.7,
    "attention_in_multiplier": 1.2,
    "attention_out_multiplier": 0.5,
    "key_multiplier": 0.8,
    "mlp_multipliers": [0.7, 1.4],
    "embedding_multiplier": 2.0,
    "lm_head_multiplier": 0.6,
}


def tiny(model_type: str, /, seed: int = 0, **config: Any) -> nn.Module:
    """A random causal language model of this type, in eval mode, jittered; the same for the same seed."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        module = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **config)).eval()
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return module


def rescaled(rwkv: nn.Module) -> nn.Module:
    """RWKV divides weights of its later blocks in place when it is first called for inference: done here already."""
    with torch.no_grad():
        rwkv(input_ids=torch.ones(1, 1, dtype=torch.long))
    return rwkv


DECODER_ZOO: dict[str, Callable[[], nn.Module]] = {
    "gpt2": partial(tiny, "gpt2", **N_NAMES),
    "gpt_neo": partial(
        tiny,
        "gpt_neo",
        **TOKENS,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=4,
        max_position_embeddings=64,
    ),
    "gpt_neox": partial(tiny, "gpt_neox", **SIZE),
    "gpt_neox_sequential": partial(tiny, "gpt_neox", **SIZE, use_parallel_residual=False),
    "gptj": partial(tiny, "gptj", **N_NAMES, rotary_dim=4),
    "opt": partial(tiny, "opt", **SIZE, ffn_dim=48),
    "opt_post_norm": partial(tiny, "opt", **SIZE, ffn_dim=48, do_layer_norm_before=False, word_embed_proj_dim=16),
    "bloom": partial(tiny, "bloom", **TOKENS, hidden_size=32, n_layer=3, n_head=4),
    "falcon_old": partial(tiny, "falcon", **FALCON),
    "falcon_new": partial(tiny, "falcon", **FALCON, new_decoder_architecture=True, num_kv_heads=2),
    "falcon_alibi": partial(tiny, "falcon", **{**FALCON, "multi_query": False}, parallel_attn=False, alibi=True),
    "llama": partial(tiny, "llama", **GROUPED, attention_bias=True, mlp_bias=True),
    "mistral": partial(tiny, "mistral", **GROUPED, sliding_window=4, head_dim=12),
    "ministral": partial(tiny, "ministral", **GROUPED, **WINDOWS, head_dim=8),
    "qwen2": partial(tiny, "qwen2", **GROUPED, **WINDOWS, use_sliding_window=True, tie_word_embeddings=True),
    "smollm3": partial(tiny, "smollm3", **GROUPED, no_rope_layers=[1, 0, 1]),
    "gemma": partial(tiny, "gemma", **GROUPED, head_dim=12),
    "olmo": partial(tiny, "olmo", **GROUPED, clip_qkv=0.5),
    "seed_oss": partial(tiny, "seed_oss", **GROUPED, head_dim=8),
    "granite": partial(
        tiny,
        "granite",
        **GROUPED,
        residual_multiplier=0.3,
        embedding_multiplier=2.0,
        logits_scaling=3.0,
        attention_multiplier=0.4,
    ),
    "qwen3": partial(tiny, "qwen3", **GROUPED, head_dim=12),
    "gemma2": partial(
        tiny,
        "gemma2",
        **GROUPED,
        **WINDOWS,
        head_dim=8,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        query_pre_attn_scalar=16,
    ),
    "gemma3_text": partial(
        tiny,
        "gemma3_text",
        **{**GROUPED, "num_hidden_layers": 4},
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"] * 2,
        head_dim=12,
        query_pre_attn_scalar=16,
    ),
    "phi": partial(tiny, "phi", **GROUPED, qk_layernorm=True),
    "phi3": partial(tiny, "phi3", **GROUPED, sliding_window=4),
    "cohere": partial(tiny, "cohere", **GROUPED, logit_scale=0.5, use_qk_norm=True),
    "cohere2": partial(tiny, "cohere2", **GROUPED, **WINDOWS, logit_scale=0.5),
    "olmo2": partial(tiny, "olmo2", **GROUPED),
    "olmo3": partial(tiny, "olmo3", **GROUPED, **WINDOWS),
    "starcoder2": partial(tiny, "starcoder2", **GROUPED, sliding_window=4, use_bias=True),
    "deepseek_v2": partial(tiny, "deepseek_v2", **LATENT),
    "deepseek_v3": partial(tiny, "deepseek_v3", **LATENT, n_group=2, topk_group=1, norm_topk_prob=True),
    "deepseek_v3_direct_q": partial(tiny, "deepseek_v3", **{**LATENT, "q_lora_rank": None}, n_group=2, topk_group=1),
    "mixtral": partial(tiny, "mixtral", **GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "olmoe": partial(tiny, "olmoe", **GROUPED, num_experts=8, num_experts_per_tok=2),
    "qwen2_moe": partial(tiny, "qwen2_moe", **MOE, mlp_only_layers=[0]),
    "qwen3_moe": partial(tiny, "qwen3_moe", **MOE, mlp_only_layers=[1], head_dim=8),
    "gpt_oss": partial(
        tiny,
        "gpt_oss",
        **GROUPED,
        **WINDOWS,
        head_dim=8,
        num_local_experts=8,
        num_experts_per_tok=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    ),
    "mamba": partial(tiny, "mamba", **MAMBA),
    "falcon_mamba": partial(tiny, "falcon_mamba", **MAMBA),
    "mamba2": partial(tiny, "mamba2", **MAMBA, num_heads=8, head_dim=8, n_groups=2, chunk_size=4),
    "recurrent_gemma": partial(
        tiny,
        "recurrent_gemma",
        **{**SIZE, "intermediate_size": 96},
        num_key_value_heads=1,
        lru_width=32,
        attention_window_size=4,
        block_types=["recurrent", "attention", "recurrent"],
        logits_soft_cap=3.0,
    ),
    "rwkv": lambda: rescaled(
        tiny("rwkv", **TOKENS, hidden_size=32, num_hidden_layers=3, attention_hidden_size=32, rescale_every=2)
    ),
    "jamba": partial(
        tiny,
        "jamba",
        **{**GROUPED, "num_hidden_layers": 4},
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=3,
        expert_layer_offset=1,
        num_experts=4,
        num_experts_per_tok=2,
        mamba_d_state=8,
        mamba_d_conv=4,
        mamba_dt_rank=6,
    ),
    "zamba2": partial(
        tiny,
        "zamba2",
        **{**SIZE, "num_hidden_layers": 4},
        layers_block_type=["mamba", "hybrid", "mamba", "hybrid"],
        num_mem_blocks=1,
        mamba_d_state=8,
        mamba_ngroups=2,
        n_mamba_heads=8,
        chunk_size=4,
        adapter_rank=4,
        use_mem_rope=True,
        use_shared_attention_adapter=True,
    ),
    "falcon_h1": partial(tiny, "falcon_h1", **FALCON_H1),
    "falcon_h1_norm": partial(tiny, "falcon_h1", **FALCON_H1, mamba_rms_norm=True),
    "qwen3_next": partial(
        tiny,
        "qwen3_next",
        **{**MOE, "num_hidden_layers": 4},
        head_dim=8,
        mlp_only_layers=[0],
        layer_types=["linear_attention", "full_attention"] * 2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    ),
}
