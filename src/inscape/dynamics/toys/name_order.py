"""toy-name-order: three layers read two names and say the first or the last of them, as a word asks.

    <bos> At the market Mary spoke before John . The first one to speak was    -> Mary
    <bos> At the market Mary spoke before John . The last one to speak was     -> John

The sentences are those of `tasks.name_order`. Which of the names is copied hangs on one bit, the word that asks, which
stands some words before the end: it has to be brought there before the names are read.
"""

import re
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
from inscape.models.toy.words import SPECIAL, word_tokenizer
from inscape.tasks.name_order import FORMS
from inscape.tasks.words import NAMES, PLACES
from inscape.train import cosine, fit, next_token
from inscape.train.losses import IGNORED

ASKS = ("first", "last")
_PLAIN = sorted({w for form in FORMS for w in re.findall(r"\w+|[^\w\s]", re.sub(r"\{\w+\}", " ", form))} - set(ASKS))
WORDS = (*NAMES, *PLACES, *ASKS, *_PLAIN)
WIDTH = 24


def train(seed: int = 0, *, steps: int = 600, checkpoint: Path | None = None, progress: Progress = None) -> Trained:
    """Train it: about a minute on one core."""
    transformers = package("transformers", "hf", "training a toy net")
    tokenizer = word_tokenizer(WORDS, max_length=32)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=32, tie_word_embeddings=False, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = transformers.LlamaForCausalLM(config)
    history = fit(
        module, partial(rows, seed=seed), next_token, steps=steps, lr=3e-3, schedule=cosine, warmup=50, seed=seed,
        checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    return Trained(module.eval(), tokenizer, history, store_as=torch.float16)


def rows(step: int, n: int = 96, *, seed: int) -> dict[str, Int[Tensor, "row pos"]]:
    """A batch of sentences of all forms with their answers, labelled at the answer."""
    generator = torch.Generator().manual_seed((seed << 32) + step)
    ids, labels = torch.full((n, WIDTH), SPECIAL.index("<pad>")), torch.full((n, WIDTH), IGNORED)
    start = 0
    for form in range(len(FORMS)):
        count = n // len(FORMS)
        prompts, answers, _ = asked(form, count, generator)
        here = slice(start, start + count)
        ids[here, : prompts.shape[1]] = prompts
        ids[here, prompts.shape[1]] = labels[here, prompts.shape[1]] = answers
        start += count
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def asked(form: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts of one form in tokens, their answers, and the answers to the other question."""
    names = torch.stack([torch.randperm(len(NAMES), generator=generator)[:2] for _ in range(n)])
    last = torch.randint(2, (n,), generator=generator)
    chosen = {
        "{first}": _id(NAMES[0]) + names[:, 0],
        "{second}": _id(NAMES[0]) + names[:, 1],
        "{_place}": _id(PLACES[0]) + torch.randint(len(PLACES), (n,), generator=generator),
        "{ask}": _id(ASKS[0]) + last,
    }
    words = re.findall(r"\{\w+\}|\w+|[^\w\s]", FORMS[form])
    columns = [chosen[w] if w in chosen else torch.full((n,), _id(w)) for w in words]
    prompts = torch.stack([torch.full((n,), SPECIAL.index("<bos>")), *columns], 1)
    rows = torch.arange(n)
    return prompts, _id(NAMES[0]) + names[rows, last], _id(NAMES[0]) + names[rows, 1 - last]


def _id(word: str) -> int:
    return WORDS.index(word) + len(SPECIAL)


def check(model: Model) -> dict[str, Check]:
    """Accuracy for each form, and how often the answer to the other question is given."""
    generator = torch.Generator().manual_seed(12345)
    found = {}
    for form in range(len(FORMS)):
        prompts, answers, others = asked(form, 400, generator)
        logits: Any = run(model, prompts, output="last").output.logits
        top = logits[:, -1].argmax(-1)
        found[f"form_{form}"] = Check(float((top == answers).float().mean()), at_least=0.98)
        found[f"other_question_{form}"] = Check(float((top == others).float().mean()), at_most=0.02)
    return found
