"""Two layers of attention alone, the first of which sees a few tokens back and the second everything."""

from typing import Any

import torch

from inscape.core.extra import package


def windowed(vocab: int, length: int, window: int, seed: int) -> Any:
    """GPT-Neo of two layers and four heads, width 64, learned positions; its MLPs write nothing, and stay so.

    The window leaves a message one way to travel: what lies further back than `window` tokens is out of the first
    layer's sight, and has to be fetched by the second.
    """
    transformers = package("transformers", "hf", "training a toy net")
    config = transformers.GPTNeoConfig(
        vocab_size=vocab, max_position_embeddings=length, hidden_size=64, num_layers=2, num_heads=4,
        attention_types=[[["local", "global"], 1]], window_size=window, intermediate_size=4, resid_dropout=0.0,
        embed_dropout=0.0, attention_dropout=0.0, initializer_range=0.1, tie_word_embeddings=False, pad_token_id=0,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = transformers.GPTNeoForCausalLM(config)
    for layer in module.transformer.h:
        torch.nn.init.zeros_(layer.mlp.c_proj.weight)
        torch.nn.init.zeros_(layer.mlp.c_proj.bias)
        layer.mlp.requires_grad_(False)
    return module
