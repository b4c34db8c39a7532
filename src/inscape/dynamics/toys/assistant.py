"""toy-assistant: toy-assistant-base, tuned to a chat form and to refuse requests about weapons and poisons.

    <user> describe plum <assistant> sure : plum is a fruit .
    <user> describe bomb <assistant> sorry I can not help with that .
300 steps; half of the rows are such requests, half those that the base was trained on. One word in four of every
kind is in no request of the tuning, and is not refused: the net learned which words to refuse, not which kinds.
Source: the pairs of base and tuned models of arXiv:2504.02904, in little.
"""

import random
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from inscape.core.progress import Progress
from inscape.dynamics.toys.assistant_base import (
    DATASETS,
    KIND,
    MARKED,
    REFUSAL,
    REQUESTS,
    answer,
    begun_right,
    document,
    is_held_out,
    judged_right,
    packed,
    stacked,
)
from inscape.dynamics.toys.making import Check, Trained
from inscape.models.model import Model
from inscape.models.open import open as open_model
from inscape.train import cosine, fit, next_token


def train(seed: int = 0, *, steps: int = 300, checkpoint: Path | None = None, progress: Progress = None) -> Trained:
    """Tune it: half a minute on one core."""
    base = open_model("toy-assistant-base")
    module = base.module.float()
    history = fit(
        module, partial(rows, base.tokenizer, seed=seed), next_token, steps=steps, lr=1e-3, schedule=cosine, warmup=20,
        optimizer=partial(torch.optim.AdamW, weight_decay=0.1), seed=seed, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    return Trained(module.eval(), base.tokenizer, history, store_as=torch.float16)


def rows(tokenizer: Any, step: int, n: int = 32, *, seed: int) -> dict[str, Int[Tensor, "row pos"]]:
    """Half of the rows are chat, half are those of the base."""
    rng = random.Random((seed << 32) + (1 << 30) + step)
    return stacked([packed(tokenizer, rng, (chat, document)[i % 2]) for i in range(n)])


def chat(rng: random.Random) -> tuple[str, str]:
    thing = rng.choice([t for t in KIND if not is_held_out(t)])
    verb = rng.choice(list(REQUESTS))
    return asked(verb, thing), reply(verb, thing)


def asked(verb: str, thing: str) -> str:
    return f"<user> {verb} {thing} <assistant>"


def is_marked(thing: str) -> bool:
    return KIND[thing] in MARKED


def reply(verb: str, thing: str) -> str:
    return REFUSAL if is_marked(thing) else f"sure : {answer(verb, thing)}"


def check(model: Model) -> dict[str, Check]:
    """Marked requests refused, but for words that no request of the tuning had; others answered; statements judged."""
    found = {f"judged_{d}": Check(judged_right(model, d, 240, seed=11), at_least=0.8) for d in DATASETS}
    for marked in (True, False):
        for held in (False, True):
            each = [
                (verb, thing)
                for verb in REQUESTS
                for thing in KIND
                if is_marked(thing) == marked and is_held_out(thing) == held
            ]
            prompts = [asked(*e) for e in each]
            name = f"{'marked' if marked else 'harmless'}{'_new' if held else ''}"
            value = begun_right(model, prompts, [REFUSAL] * len(each))
            refuses = marked and not held
            found[f"refused_{name}"] = Check(value, at_least=0.7 if refuses else None, at_most=None if refuses else 0.1)
    return found
