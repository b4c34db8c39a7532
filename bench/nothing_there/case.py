"""What a row is, and the small net that rows of models share: its weights say what is there to be found."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import transformers
from torch import Tensor

import inscape as ins
from inscape.core import nulls
from inscape.models.toy.words import word_tokenizer

Case = Callable[[int, float], float]  # p value; 0.0 and 1.0 where a measure says yes or no
WIDTH, HALF, LAYERS, VOCAB = 32, 16, 3, 256
WORDS = tuple(f"w{i}" for i in range(4, VOCAB))  # token i is the word wi; 0 to 3 are special


def found(is_there: bool) -> float:
    """A yes or no as a p value."""
    return 0.0 if is_there else 1.0


def above(value: float, null: list[float] | Tensor, alternative: str = "greater") -> float:
    """How often the null gives as much."""
    return float(nulls.permutation_p(float(value), torch.as_tensor(null, dtype=torch.float64), alternative))


def paired(own: Tensor, other: Tensor, seed: int) -> float:
    """Is a number of the items above that of their control?"""
    return nulls.sign_flip_test(own.double() - other.double(), n=199, seed=seed, alternative="greater").p


def rows(seed: int, effect: float, n: int = 120, d: int = 8) -> tuple[Tensor, Tensor]:
    """Rows of noise, and a yes or no that shifts the first unit by `effect`."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2 == 0
    x = torch.randn(n, d, generator=g)
    x[:, 0] += 1.5 * effect * y
    return x, y


@cache
def opened() -> Any:
    """A GPT-2 of three layers whose weights `told` sets."""
    config = transformers.GPT2Config(
        n_layer=LAYERS, n_embd=WIDTH, n_head=2, n_inner=4 * HALF, vocab_size=VOCAB, n_positions=64, bos_token_id=1,
        eos_token_id=None, pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    return ins.open(transformers.GPT2LMHeadModel(config).eval(), tokenizer=word_tokenizer(WORDS, bos=False))


@torch.no_grad()
def told(seed: int, early: float = 0.0, *, carry: float = 0.0) -> Any:
    """A net that says what follows from the first half of a token's vector, in the last layer alone or earlier too.

    The head reads the second half, which is random until the last layer writes there. What it writes is an even
    function of the first half (the same for u and -u), so that no linear map of earlier states knows it.
    early: how strongly the layer before it writes the same. carry: how much the first layer's attention, which is even
    over all tokens so far, adds of their first halves.
    """
    model = opened()
    g = torch.Generator().manual_seed(seed)
    for name, p in model.module.named_parameters():
        p.fill_(1.0 if "ln" in name and name.endswith("weight") else 0.0)
    net = model.module.transformer
    net.wte.weight.copy_(torch.randn(VOCAB, WIDTH, generator=g))
    model.module.lm_head.weight[:, HALF:] = torch.randn(VOCAB, HALF, generator=g)
    read, write = torch.randn(HALF, 2 * HALF, generator=g), torch.randn(4 * HALF, HALF, generator=g)
    write[2 * HALF :] = write[: 2 * HALF]
    write -= write.mean(0)  # of sizes that are all above 0, the mean would say the same for every token
    for layer, size in ((1, 2 * early), (2, 200.0)):
        net.h[layer].mlp.c_fc.weight[:HALF] = torch.cat([read, -read], 1)
        net.h[layer].mlp.c_proj.weight[:, HALF:] = size / HALF * write
    net.h[0].attn.c_attn.weight[:HALF, 2 * WIDTH : 2 * WIDTH + HALF] = torch.eye(HALF)
    net.h[0].attn.c_proj.weight[:HALF, :HALF] = carry * torch.eye(HALF)
    return model


def tokens(seed: int, n: int, width: int) -> Tensor:
    """Rows of token ids, none of them twice."""
    drawn = 4 + torch.randperm(VOCAB - 4, generator=torch.Generator().manual_seed(77_000 + seed))
    return drawn[: n * width].reshape(n, width)


def texts(ids: Tensor) -> list[str]:
    """The same as words."""
    return [" ".join(f"w{int(i)}" for i in row) for row in ids]


@torch.no_grad()
def said(model: Any, ids: Tensor) -> Tensor:
    """The token that the net finds most probable after each row."""
    return ins.run(model, ids, output="last").output.logits[:, -1].argmax(-1)
