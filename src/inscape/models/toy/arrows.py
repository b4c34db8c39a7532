"""A net of six layers, written by hand, that follows arrows given in its context: one step a layer, exactly.

    <bos> c>a a>g f>b g>f b>h d>e h>d e>c 3:a      says b

An arrow is one token, and so is a question. The stream of an arrow holds its two letters; that of a question the letter
it starts from and how many steps it asks for. In layer j attention looks for the arrow that starts at the letter
reached so far and notes where it goes; the MLP says this letter if j + 1 steps were asked for. Layers 4 and 5 rest.
A large constant keeps every norm's scale the same, and rotary angles are too small to matter.
"""

from typing import Any

import torch

from inscape.core.extra import package
from inscape.models.model import Model
from inscape.models.open import open as open_model
from inscape.models.toy.words import SPECIAL, word_tokenizer

LETTERS = tuple("abcdefgh")
N, LAYERS, WIDTH, HEAD, CONSTANT = len(LETTERS), 6, 96, 32, 1000.0
STEPS = N // 2  # on a ring of all letters, more steps are fewer backwards
ARROWS = tuple(f"{x}>{y}" for x in LETTERS for y in LETTERS)
QUESTIONS = tuple(f"{k}:{x}" for k in range(1, STEPS + 1) for x in LETTERS)
WORDS = (*LETTERS, *ARROWS, *QUESTIONS)
FROM, TO, ANSWER, REACHED = 0, N, 2 * N, 3 * N  # REACHED: after 0, 1, ... STEPS steps, N dimensions each
ASKED = REACHED + N * (STEPS + 1)
STILL = 8  # the first of the head's dimensions that hardly turn
SHARP = 13.0


def arrow_model(*, trained: bool = True, seed: int = 0) -> Model:
    """The net with its tokenizer; `trained=False` gives one of its shape with random weights in its place."""
    transformers = package("transformers", "hf", "the net that follows arrows")
    config = transformers.LlamaConfig(
        vocab_size=len(SPECIAL) + len(WORDS), hidden_size=WIDTH, intermediate_size=N, num_hidden_layers=LAYERS,
        num_attention_heads=WIDTH // HEAD, max_position_embeddings=64, tie_word_embeddings=False, rms_norm_eps=1e-12,
        rope_parameters={"rope_type": "default", "rope_theta": 1e12}, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: Any = transformers.LlamaForCausalLM(config).eval()
    if trained:
        _write(module)
    return open_model(module, tokenizer=word_tokenizer(WORDS, split="spaces", max_length=64))


def _write(module: Any) -> None:
    scale, one = CONSTANT / WIDTH**0.5, torch.eye(N)  # scale: what every norm divides by
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.fill_(1.0 if "norm" in name else 0.0)
        embed = module.model.embed_tokens.weight
        embed[:, -1] = CONSTANT
        first = len(SPECIAL) + N
        for i, arrow in enumerate(ARROWS):
            embed[first + i, FROM + LETTERS.index(arrow[0])] = 1.0
            embed[first + i, TO + LETTERS.index(arrow[2])] = 1.0
        first += len(ARROWS)
        for i, question in enumerate(QUESTIONS):
            embed[first + i, REACHED + LETTERS.index(question[2])] = 1.0
            embed[first + i, ASKED + int(question[0]) - 1] = 1.0
        for step, layer in enumerate(module.model.layers[:STEPS]):
            here, there = REACHED + N * step, REACHED + N * (step + 1)
            attention, mlp = layer.self_attn, layer.mlp
            attention.q_proj.weight[STILL : STILL + N, here : here + N] = one * SHARP * scale
            attention.k_proj.weight[STILL : STILL + N, FROM : FROM + N] = one * SHARP * scale
            attention.v_proj.weight[:N, TO : TO + N] = one * scale
            attention.o_proj.weight[there : there + N, :N] = one
            mlp.gate_proj.weight[:, ASKED + step] = 20.0 * scale  # silu(20) = 20, silu(0) = 0
            mlp.up_proj.weight[:, there : there + N] = one * scale / 20.0
            mlp.down_proj.weight[ANSWER : ANSWER + N] = one
        for i in range(N):
            module.lm_head.weight[len(SPECIAL) + i, ANSWER + i] = 20.0 * scale
