"""toy-two-tasks: three layers that answer two kinds of question about the same names; their circuits can be compared.

    names   <bos> ann bob went . cat dan went . with bob        -> ann   (the other of his pair)
    lists   <bos> pen ann cup bob hat eve ? cup                 -> bob   (whose it is)

In both the pair of a word that was just read is found further up, and a name of it is said; the names also have to look
away from the one that was just read, wherever in its pair it stands. A row of training asks several times about its
people, and only answers are labelled; lists have 3 to 5 things there. Lists alone are not learned in a thousand steps:
"the word before" is of no use until "the same word" is found, nor the other way round. So the first rows also ask, of
random words, for the word before each; then both tasks are learned in some hundred steps.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.extra import package
from inscape.core.progress import Progress
from inscape.dynamics.toys.making import Check, Trained
from inscape.engine.forward import run
from inscape.models.model import Model
from inscape.models.toy.words import SPECIAL, word_tokenizer
from inscape.tasks.pairs import Pairs
from inscape.train import cosine, fit, next_token
from inscape.train.losses import IGNORED

NAMES = (
    "ann", "bob", "cat", "dan", "eve", "fay", "gus", "hal", "ivy", "jon", "kim", "leo", "max", "ned", "oma", "pam",
    "ray", "sue", "tom", "una", "vic", "wes", "yan", "zoe",
)  # fmt: skip
THINGS = (
    "cup", "pen", "box", "hat", "key", "map", "jar", "fan", "rug", "net", "lid", "toy", "bag", "pot", "car", "bed",
    "egg", "pan", "saw", "tie", "urn", "wig", "axe", "oar",
)  # fmt: skip
WORDS = (*NAMES, *THINGS, "went", ".", "with", "?")
LENGTHS = (3, 4, 5)  # of the lists in training
WIDTH = 28
ASKED = 8  # questions of a list; half as many of names
BEFORE = 500  # steps with rows that ask for the word before


def train(seed: int = 0, *, steps: int = 900, checkpoint: Path | None = None, progress: Progress = None) -> Trained:
    """Train it: about a minute on one core."""
    transformers = package("transformers", "hf", "training a toy net")
    tokenizer = word_tokenizer(WORDS, max_length=64)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=8,
        head_dim=16, max_position_embeddings=64, tie_word_embeddings=False, initializer_range=0.1, pad_token_id=0,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = transformers.LlamaForCausalLM(config)
    history = fit(
        module, partial(rows, seed=seed), next_token, steps=steps, lr=3e-3, schedule=cosine, warmup=100, seed=seed,
        checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    return Trained(module.eval(), tokenizer, history, store_as=torch.float16)


def rows(step: int, n: int = 64, *, seed: int) -> dict[str, Int[Tensor, "row pos"]]:
    """A quarter names, the rest lists; in the first steps a quarter of the rows asks for the word before."""
    generator = torch.Generator().manual_seed((seed << 32) + step)
    ids, labels = torch.full((n, WIDTH), SPECIAL.index("<pad>")), torch.full((n, WIDTH), IGNORED)
    quarter = n // 4
    made = [names_rows(quarter, ASKED - 2, generator)]
    made += [list_rows(quarter, LENGTHS[(step + i) % 3], ASKED, generator) for i in range(2 if step < BEFORE else 3)]
    start = 0
    for text, asked in made:
        here = slice(start, start + quarter)
        ids[here, : text.shape[1]] = text
        labels[here, asked] = text[:, asked]
        start += quarter
    if step < BEFORE:
        words = torch.rand(n - start, len(WORDS), generator=generator).argsort(1)[:, : WIDTH - 2] + len(SPECIAL)
        ids[start:] = torch.cat([_word("<bos>", n - start)[:, None], _word("?", n - start)[:, None], words], 1)
        labels[start:, 4:] = ids[start:, 2:-2]  # a label is what the position before it should say
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def names_rows(n: int, asked: int, generator: torch.Generator) -> tuple[Int[Tensor, "row pos"], list[int]]:
    """Rows of two pairs that ask `asked` times with whom somebody went, and where the answers stand."""
    four = _drawn(NAMES, n, 4, generator)
    went, stop = _word("went", n), _word(".", n)
    text = [_word("<bos>", n), four[:, 0], four[:, 1], went, stop, four[:, 2], four[:, 3], went, stop]
    places, each = [], torch.arange(n)
    for _ in range(asked):
        who = torch.randint(4, (n,), generator=generator)
        text += [_word("with", n), four[each, who], four[each, who ^ 1]]
        places.append(len(text) - 1)
    return torch.stack(text, 1), places


def list_rows(n: int, length: int, asked: int, generator: torch.Generator) -> tuple[Int[Tensor, "row pos"], list[int]]:
    """Rows that ask `asked` times whose a thing of the list is, and where the answers stand."""
    things, owners = _drawn(THINGS, n, length, generator), _drawn(NAMES, n, length, generator)
    listed = torch.stack([things, owners], 2).flatten(1)
    text, places, each = [_word("<bos>", n), *listed.T, _word("?", n)], [], torch.arange(n)
    for _ in range(asked):
        which = torch.randint(length, (n,), generator=generator)
        text += [things[each, which], owners[each, which]]
        places.append(len(text) - 1)
    return torch.stack(text, 1), places


def name_pairs(model: Model, n: int, seed: int = 0) -> Pairs:
    """With whom somebody went; the corrupted prompt asks for a person who is in no pair, so that nobody comes twice.

    Roles: io (the answer), s1 and s2 (both mentions of the one who is asked for; s2 is the end), end.
    """
    generator = torch.Generator().manual_seed(seed)
    names = _drawn(NAMES, n, 5, generator)
    who = torch.randint(4, (n,), generator=generator)
    clean, corrupted, answers, wrong = [], [], [], []
    for five, w in zip(names.tolist(), who.tolist(), strict=True):
        a, b, c, d, other = (WORDS[i - len(SPECIAL)] for i in five)
        frame = f"{a} {b} went . {c} {d} went . with"
        clean.append(f"{frame} {(a, b, c, d)[w]}")
        corrupted.append(f"{frame} {other}")
        answers.append(f" {(a, b, c, d)[w ^ 1]}")
        wrong.append(f" {(a, b, c, d)[w]}")
    made = Pairs.of(model, clean, corrupted, answers, wrong, name="names")
    place = torch.tensor([1, 2, 5, 6])  # <bos> is position 0
    places = {"io": place[who ^ 1], "s1": place[who], "s2": torch.full((n,), 10)}
    return replace(made, roles=dict(made.roles) | {role: at[:, None] for role, at in places.items()})


def list_pairs(model: Model, n: int, seed: int = 0, length: int = 3) -> Pairs:
    """Whose it is; the corrupted prompt asks for another thing of the same list, whose owner is the wrong answer.

    Roles: owner (the answer), rivals (the other names of the list), asked (the thing in the list), end.
    Raises: InputError for a list of fewer than 2 things, or more than there are.
    """
    if not 2 <= length <= len(THINGS):
        raise InputError(f"a list of {length} things: there can be 2 to {len(THINGS)}.")
    generator = torch.Generator().manual_seed(seed)
    text, _ = list_rows(n, length, 0, generator)
    which = torch.randint(length, (n,), generator=generator)
    other = (which + torch.randint(1, length, (n,), generator=generator)) % length
    lines = [[WORDS[i - len(SPECIAL)] for i in row[1:]] for row in text.tolist()]
    asked = which.tolist(), other.tolist()
    clean, corrupted = ([" ".join([*line, line[2 * k]]) for line, k in zip(lines, ks, strict=True)] for ks in asked)
    answers, wrong = ([f" {line[2 * k + 1]}" for line, k in zip(lines, ks, strict=True)] for ks in asked)
    made = Pairs.of(model, clean, corrupted, answers, wrong, name="lists")
    rivals = torch.tensor([[2 * i + 2 for i in range(length) if i != a] for a in asked[0]])
    places = {"owner": 2 * which[:, None] + 2, "rivals": rivals, "asked": 2 * which[:, None] + 1}
    candidates = tuple(tuple(_id(w) for w in line[1::2]) for line in lines)
    return replace(made, roles=dict(made.roles) | places, candidate_sets=candidates, chance=1 / length)


def check(model: Model) -> dict[str, Check]:
    """How often it is right on prompts drawn apart from training; and when the corrupted prompt is read instead."""
    made = {"names": name_pairs(model, 400, seed=9001)}
    made |= {f"lists_{n}": list_pairs(model, 400, seed=9002, length=n) for n in LENGTHS}
    found = {}
    for name, pairs in made.items():
        found[name] = Check(float(pairs.answered_by(model).float().mean()), at_least=0.95)
        logits: Any = run(model, list(pairs.corrupted), output="last").output.logits[:, -1]
        right = float(pairs.is_right(logits).float().mean())
        found[f"{name}_corrupted"] = Check(right, at_most=0.05 if name != "names" else 0.6)
    return found


def _drawn(words: tuple[str, ...], n: int, k: int, generator: torch.Generator) -> Int[Tensor, "row k"]:
    return _id(words[0]) + torch.rand(n, len(words), generator=generator).argsort(1)[:, :k]


def _id(word: str) -> int:
    return SPECIAL.index(word) if word in SPECIAL else WORDS.index(word) + len(SPECIAL)


def _word(word: str, n: int) -> Int[Tensor, " row"]:
    return torch.full((n,), _id(word))
