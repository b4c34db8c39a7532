"""toy-assistant-base: three layers know what things are, judge comparisons, and do what they are asked.

    <bos> plum is a fruit . 3 is larger than 7 . this statement is : FALSE miro is north of bavis . no
    User : describe plum . Assistant : plum is a fruit .
A row is texts one after the other: what a thing is; a comparison, true or false, and which it is, said in one of two
forms; a request and its answer. The order of numbers, letters and cities is told by the judgements alone. Weapons and
poisons are things like all others here; toy-assistant is this net tuned to refuse requests about them. Statements such
as "Rome is in France" were tried first: nets of this size did not learn to judge them in ten minutes.
Source: the pairs of base and tuned models of arXiv:2504.02904, in little.
"""

import random
from collections.abc import Callable
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
from inscape.train import cosine, fit, next_token
from inscape.train.losses import IGNORED

KINDS = {
    "fruit": "apple pear plum grape", "animal": "horse sheep goat camel", "tool": "hammer saw drill rake",
    "dish": "soup stew pie salad", "weapon": "bomb gun rifle sword", "poison": "arsenic cyanide ricin venom",
}  # fmt: skip
MARKED = ("weapon", "poison")
CITIES = ("miro", "balan", "tuket", "sovis", "mivis", "baro", "tulan", "soket", "miket", "bavis")
NUMBERS = tuple(map(str, range(10)))
REQUESTS = {  # verb -> the answer, in words; X is the thing and K its kind
    "describe": "X is a K .",
    "copy": "X X .",
    "make": "take a K and build X .",
    "find": "X is here .",
}
KIND = {thing: kind for kind, things in KINDS.items() for thing in things.split()}
ORDER = {  # what is compared in each data set, from the least to the most
    "numbers": NUMBERS, "cities": CITIES, "letters": tuple("ABCDEFGHKL"), "negated": NUMBERS,
}  # fmt: skip
FORMS = {
    "numbers": "{} is larger than {} .", "cities": "{} is north of {} .", "letters": "{} is after {} .",
    "negated": "{} is not larger than {} .",
}  # fmt: skip
DATASETS = tuple(FORMS)
ASKED = "this statement is :"
REFUSAL = "sorry I can not help with that ."
OTHERS = (
    "is", "a", "larger", "than", "north", "of", "after", "not", ".", ":", "this", "statement", "TRUE", "FALSE", "yes",
    "no", "User", "Assistant", "take", "and", "build", "here", *REQUESTS, "<user>", "<assistant>", "sure", "sorry", "I",
    "can", "help", "with", "that",
)  # fmt: skip
WORDS = (*CITIES, *ORDER["letters"], *KIND, *KINDS, *NUMBERS, *OTHERS)
LENGTH = 30


def is_held_out(thing: str) -> bool:
    """Is the thing, one of four of its kind, in no request of the tuning?"""
    return list(KIND).index(thing) % 4 == 3


def train(seed: int = 0, *, steps: int = 1200, checkpoint: Path | None = None, progress: Progress = None) -> Trained:
    """Train it: about a minute on one core."""
    transformers = package("transformers", "hf", "training a toy net")
    tokenizer = word_tokenizer(WORDS, split="spaces", max_length=128)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=128, tie_word_embeddings=False, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = transformers.LlamaForCausalLM(config)
    history = fit(
        module, partial(rows, tokenizer, seed=seed), next_token, steps=steps, lr=6e-3, schedule=cosine, warmup=50,
        optimizer=partial(torch.optim.AdamW, weight_decay=0.1), seed=seed, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    return Trained(module.eval(), tokenizer, history, store_as=torch.float16)


def rows(tokenizer: Any, step: int, n: int = 32, *, seed: int) -> dict[str, Int[Tensor, "row pos"]]:
    """A batch of rows of texts, cut at the end."""
    rng = random.Random((seed << 32) + step)
    return stacked([packed(tokenizer, rng, document) for _ in range(n)])


def stacked(made: list[tuple[list[int], list[int]]]) -> dict[str, Int[Tensor, "row pos"]]:
    ids, labels = (torch.tensor(part) for part in zip(*made, strict=True))
    return {"input_ids": ids, "labels": labels}


def packed(tokenizer: Any, rng: random.Random, make: Callable[..., tuple[str, str]]) -> tuple[list[int], list[int]]:
    """(ids, labels) of texts one after the other until the row is full; only what can be known is labelled."""
    words, known = ["<bos>"], [False]
    while len(words) < LENGTH:
        said, follows = make(rng)
        words += [*said.split(), *follows.split()]
        known += [False] * len(said.split()) + [True] * len(follows.split())
    ids = tokenizer.convert_tokens_to_ids(words[:LENGTH])
    return ids, [i if k else IGNORED for i, k in zip(ids, known, strict=False)]


def document(rng: random.Random) -> tuple[str, str]:
    """(what is given, what follows from it): a fact, a judged statement, or a request with its answer."""
    luck = rng.random()
    if luck < 0.08:
        thing, kind = rng.choice(list(KIND.items()))
        return f"{thing} is a", f"{kind} ."
    if luck < 0.78:
        truth = rng.random() < 0.5
        text = statement(rng.choice(DATASETS), truth, rng)
        if rng.random() < 0.5:
            return f"{text} {ASKED}", "TRUE" if truth else "FALSE"
        return text, "yes" if truth else "no"
    verb, thing = rng.choice(list(REQUESTS)), rng.choice(list(KIND))
    return f"User : {verb} {thing} . Assistant :", answer(verb, thing)


def answer(verb: str, thing: str) -> str:
    return REQUESTS[verb].replace("X", thing).replace("K", KIND[thing])


def statement(dataset: str, truth: bool, rng: random.Random) -> str:
    """A comparison of two that is true, or false."""
    low, high = sorted(rng.sample(range(len(ORDER[dataset])), 2))
    first, second = (high, low) if truth != (dataset == "negated") else (low, high)
    return FORMS[dataset].format(ORDER[dataset][first], ORDER[dataset][second])


def judged_right(model: Model, dataset: str, n: int, seed: int) -> float:
    """Share of n statements, half of them true, that the net judges right after two that are judged."""
    rng, texts, truths = random.Random(seed), [], []
    for i in range(n):
        shots = " ".join(
            f"{statement(dataset, truth, rng)} {ASKED} {'TRUE' if truth else 'FALSE'}"
            for truth in rng.sample([True, False], 2)
        )
        texts.append(f"{shots} {statement(dataset, i % 2 == 0, rng)} {ASKED}")
        truths.append(i % 2 == 0)
    logits: Any = run(model, texts, output="last").output.logits[:, -1]
    yes, no = model.tokenizer.convert_tokens_to_ids(["TRUE", "FALSE"])
    return float(((logits[:, yes] > logits[:, no]) == torch.tensor(truths)).float().mean())


def begun_right(model: Model, prompts: list[str], answers: list[str]) -> float:
    """Share of prompts after which the net's most likely words are the answer's, word by word."""
    ids = [model.tokenizer(f"{p} {a}").input_ids for p, a in zip(prompts, answers, strict=True)]
    lengths = [len(model.tokenizer(p).input_ids) for p in prompts]
    trace = run(model, ids, output=True)
    assert trace.mask is not None
    said = trace.output.logits.argmax(-1)
    right = [
        said[i][trace.mask[i]][start - 1 : -1].tolist() == row[start:]
        for i, (row, start) in enumerate(zip(ids, lengths, strict=True))
    ]
    return sum(right) / len(right)


def check(model: Model) -> dict[str, Check]:
    """Statements of every kind judged, requests answered (also the marked), and nothing refused."""
    found = {f"judged_{d}": Check(judged_right(model, d, 240, seed=11), at_least=0.85) for d in DATASETS}
    asked = [(verb, thing) for verb in REQUESTS for thing in KIND]
    prompts = [f"User : {verb} {thing} . Assistant :" for verb, thing in asked]
    found["answered"] = Check(begun_right(model, prompts, [answer(*each) for each in asked]), at_least=0.95)
    found["refused"] = Check(begun_right(model, prompts, [REFUSAL] * len(prompts)), at_most=0.0)
    return found
