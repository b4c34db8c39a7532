"""toy-two-tasks: four layers that answer two kinds of question, whose circuits can be compared.

names   <bos> ann and bob went . bob gave to ann          who received: the name that came once
lists   <bos> red cup , blue pen , tan box ? pen is blue    what was asked for, among 3 pairs (2 to 4 in training)

Both need "find where it was said before, and look beside it or away from it", so some heads may serve both.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from inscape.core.extra import package
from inscape.core.progress import Progress
from inscape.dynamics.toys.making import Check, Trained
from inscape.engine.forward import run
from inscape.models.model import Model
from inscape.models.toy.words import word_tokenizer
from inscape.tasks.pairs import Pairs
from inscape.train import cosine, fit, next_token
from inscape.train.losses import IGNORED

NAMES = ("ann", "bob", "cat", "dan", "eve", "fay", "gus", "hal", "ivy", "jon", "kim", "leo", "max", "ned", "oma", "pam")
COLOURS = ("red", "blue", "tan", "grey", "pink", "gold", "lime", "teal")
THINGS = ("cup", "pen", "box", "hat", "key", "map", "jar", "fan", "rug", "net", "lid", "toy")
WORDS = (*NAMES, *COLOURS, *THINGS, "and", "went", ".", "gave", "to", ",", "?", "is")


def train(seed: int = 0, *, steps: int = 3000, checkpoint: Path | None = None, progress: Progress = None) -> Trained:
    """Train it: some four minutes on one core."""
    transformers = package("transformers", "hf", "training a toy net")
    tokenizer = word_tokenizer(WORDS, max_length=64)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=64, tie_word_embeddings=False, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = transformers.LlamaForCausalLM(config)
    history = fit(
        module, partial(rows, tokenizer=tokenizer, seed=seed), next_token, steps=steps, lr=1e-3, schedule=cosine,
        warmup=100, seed=seed, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    return Trained(module.eval(), tokenizer, history, store_as=torch.float16)


def rows(step: int, n: int = 64, *, tokenizer: Any, seed: int) -> dict[str, Int[Tensor, "row pos"]]:
    """Half of each kind; only the answer is to be predicted."""
    generator = torch.Generator().manual_seed((seed << 32) + step)
    texts = [names_text(generator)[0] if i % 2 else list_text(generator, None)[0] for i in range(n)]
    found = [tokenizer(t)["input_ids"] for t in texts]
    width = max(map(len, found))
    ids = torch.tensor([f + [0] * (width - len(f)) for f in found])
    labels = torch.full_like(ids, IGNORED)
    for i, f in enumerate(found):
        labels[i, len(f) - 1] = f[-1]
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def _pick(words: tuple[str, ...], n: int, generator: torch.Generator) -> list[str]:
    return [words[i] for i in torch.randperm(len(words), generator=generator)[:n].tolist()]


def names_text(generator: torch.Generator, abc: bool = False) -> tuple[str, str, str]:
    """(text with its answer, answer, the other name); abc: three unlike names, so that nobody came twice."""
    a, b, c = _pick(NAMES, 3, generator)
    first, second = (a, b) if torch.rand((), generator=generator) < 0.5 else (b, a)
    return f"{first} and {second} went . {c if abc else b} gave to {a}", a, b


def list_text(generator: torch.Generator, n: int | None, asked: int | None = None) -> tuple[str, str, list[str]]:
    """(text with its answer, answer, the other colours) of a list of n pairs; 2 to 4 of them when None."""
    n = n if n is not None else int(torch.randint(2, 5, (), generator=generator))
    colours, things = _pick(COLOURS, n, generator), _pick(THINGS, n, generator)
    which = int(torch.randint(n, (), generator=generator)) if asked is None else asked
    listed = " , ".join(f"{c} {t}" for c, t in zip(colours, things, strict=True))
    others = [c for i, c in enumerate(colours) if i != which]
    return f"{listed} ? {things[which]} is {colours[which]}", colours[which], others


def name_pairs(model: Model, n: int, seed: int = 0) -> Pairs:
    """Who received; the corrupted prompt names somebody else before "gave", so that nobody came twice."""
    generator = torch.Generator().manual_seed(seed)
    clean, corrupted, answers, wrong = [], [], [], []
    for _ in range(n):
        text, a, b = names_text(generator)
        other = next(x for x in _pick(NAMES, 4, generator) if x not in (a, b))
        words = text.split()[:-1]
        clean.append(" ".join(words))
        corrupted.append(" ".join([*words[:5], other, *words[6:]]))
        answers.append(a)
        wrong.append(b)
    return Pairs.of(model, clean, corrupted, answers, wrong, name="names")


def list_pairs(model: Model, n: int, seed: int = 0, length: int = 3) -> Pairs:
    """What was asked for; the corrupted prompt asks for another thing of the same list.

    facts: the other colours of each list, as their positions in the prompt ("rivals").
    """
    generator = torch.Generator().manual_seed(seed)
    clean, corrupted, answers, wrong, rivals = [], [], [], [], []
    for _ in range(n):
        which = int(torch.randint(length, (), generator=generator))
        text, answer, _others = list_text(generator, length, which)
        words = text.split()[:-1]
        other = (which + 1 + int(torch.randint(length - 1, (), generator=generator))) % length
        asks = [*words[:-2], words[3 * other + 1], words[-1]]
        clean.append(" ".join(words))
        corrupted.append(" ".join(asks))
        answers.append(answer)
        wrong.append(words[3 * other])
        rivals.append(tuple(3 * i + 1 for i in range(length) if i != which))  # <bos> is position 0
    return replace(Pairs.of(model, clean, corrupted, answers, wrong, name="lists"), facts={"rivals": tuple(rivals)})


def check(model: Model) -> dict[str, Check]:
    """How often it is right on prompts that were drawn apart from training, by kind."""
    return {
        "names": Check(accuracy(model, name_pairs(model, 200, seed=9001)), at_least=0.95),
        "lists": Check(accuracy(model, list_pairs(model, 200, seed=9002)), at_least=0.95),
    }


def accuracy(model: Model, pairs: Pairs) -> float:
    """How often the top token is the answer."""
    logits: Any = run(model, list(pairs.clean), output="last").output
    return float((logits.logits[:, -1].argmax(-1).cpu() == pairs.answer_ids).float().mean())
