"""What holds for every task: it is drawn by its seed, its roles lie in the prompt, and its answers are checked."""

import functools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

import inscape as ins
from inscape import tasks
from inscape.tasks.drafts import collect
from inscape.tasks.tokens import Tokens
from tests.common.tokenizers import OpenWords, byte_tokenizer, words_of

WORDS = words_of(
    "moon river chair stone glass apple tree wind salt gold lake fire cup pin hat book ring ship road bird"
)
TASKS: dict[str, Callable[..., tasks.Pairs]] = {
    "ioi": tasks.ioi,
    "ioi, swapped": lambda m, n, **k: tasks.ioi(m, n, corrupted="swap", **k),
    "colored objects": tasks.colored_objects,
    "greater than": tasks.greater_than,
    "succession": tasks.succession,
    "agreement": tasks.agreement,
    "capitals": tasks.facts,
    "opposites": lambda m, n, **k: tasks.facts(m, n, relation="opposite", **k),
    "laundry list": tasks.laundry_list,
    "arithmetic": tasks.arithmetic,
    "arithmetic, verbal": lambda m, n, **k: tasks.arithmetic(m, n, operands=3, ops="+-", template="verbal", **k),
    "acronym": tasks.acronym,
    "counting": tasks.counting,
    "counting, length": lambda m, n, **k: tasks.counting(m, n, kind="length", **k),
    "cipher, swap": tasks.cipher,
    "cipher, sort": lambda m, n, **k: tasks.cipher(m, n, kind="sort", **k),
    "cipher, shift": lambda m, n, **k: tasks.cipher(m, n, kind="shift", **k),
    "name order": tasks.name_order,
    "induction": lambda m, n, **k: tasks.induction(m, n, length=8, **k),
    "graph, label": lambda m, n, **k: tasks.graph_text(m, n, **k).pairs,
    "graph, link": lambda m, n, **k: tasks.graph_text(m, n, ask="link", **k).pairs,
}


class SplitYears(OpenWords):
    """Two digits a token, so that a century can be continued."""

    def __call__(self, text: str, **options: Any) -> dict:
        spaced = re.sub(r"(?<=\d\d)(?=\d\d\b)", "\u2009", text)  # a thin space: it separates, and is no word
        made = super().__call__(spaced, **options)
        if "offset_mapping" in made:
            shift = [0]
            for c in spaced:
                shift.append(shift[-1] + (c == "\u2009"))
            made["offset_mapping"] = [(a - shift[a], b - shift[b]) for a, b in made["offset_mapping"]]
        return made


def tokenizer_for(name: str, **options: Any) -> OpenWords:
    return (SplitYears if name == "greater than" else OpenWords)(WORDS, **options)


@functools.cache
def drawn(name: str, seed: int = 1, is_fast: bool = True) -> tuple[tasks.Pairs, OpenWords]:
    """Twelve pairs and their tokenizer, made once."""
    tokenizer = tokenizer_for(name, is_fast=is_fast)
    return TASKS[name](tokenizer, 12, seed=seed), tokenizer


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_what_its_seed_draws(name: str) -> None:
    made, again, other = drawn(name)[0], TASKS[name](tokenizer_for(name), 12, seed=1), drawn(name, 2)[0]
    assert len(made) == 12
    assert (made.clean, made.corrupted, made.answers) == (again.clean, again.corrupted, again.answers)
    assert made.clean != other.clean
    assert len(set(made.clean_ids)) + len(set(made.corrupted_ids)) >= 12


@pytest.mark.parametrize("name", TASKS)
def test_answers_are_the_token_that_continues_the_prompt(name: str) -> None:
    made, tokenizer = drawn(name)
    for i in range(12):
        assert tokenizer(made.clean[i])["input_ids"] == list(made.clean_ids[i])
        assert tokenizer(made.clean[i] + made.answers[i])["input_ids"][-1] == int(made.answer_ids[i])
        assert tokenizer(made.clean[i] + made.wrong[i])["input_ids"][-1] == int(made.wrong_ids[i])
        assert len(made.clean_ids[i]) == len(made.corrupted_ids[i])
        assert made.clean_ids[i] != made.corrupted_ids[i]
    assert 0 < made.chance <= 0.7
    shares = [len(a) / len(c) for a, c in zip(made.answer_sets, made.candidate_sets, strict=True)]
    assert made.chance == pytest.approx(sum(shares) / 12)


@pytest.mark.parametrize("name", TASKS)
def test_a_guess_at_random_is_right_as_often_as_chance_says(name: str) -> None:
    made, _ = drawn(name)
    width = max(max(c) for c in made.candidate_sets) + 1
    generator = torch.Generator().manual_seed(0)
    right = torch.stack(
        [made.is_right(torch.rand(12, width, generator=generator), "candidates").float() for _ in range(100)]
    )
    spread = (made.chance * (1 - made.chance) / right.numel()) ** 0.5
    assert float(right.mean()) == pytest.approx(made.chance, abs=4 * spread)


@pytest.mark.parametrize("name", [name for name in TASKS if name != "greater than"])  # years are cut, not spelled
def test_a_tokenizer_without_offsets_gives_the_same_pairs(name: str) -> None:
    fast, slow = drawn(name)[0], drawn(name, is_fast=False)[0]
    assert fast.clean == slow.clean
    assert {r: x.tolist() for r, x in fast.roles.items()} == {r: x.tolist() for r, x in slow.roles.items()}


@pytest.mark.parametrize("name", TASKS)
def test_a_tokenizer_of_bytes_is_refused_with_pieces_or_served(name: str) -> None:
    if name in ("greater than", "arithmetic, verbal", "counting"):  # answers of one digit are there
        assert len(TASKS[name](byte_tokenizer(), 3)) == 3
        return
    if name in ("arithmetic",):
        assert set(TASKS[name](byte_tokenizer(), 3).answers) <= set("0123456789")
        return
    with pytest.raises(ins.TokenError, match=r"'\|'|are words by themselves|the clean prompt has"):
        TASKS[name](byte_tokenizer(), 3)


def test_no_pair_at_all_is_refused() -> None:
    with pytest.raises(ins.TokenError, match=r"none of 0 pairs fits(.|\n)*there was nothing to try"):
        collect("empty", Tokens(OpenWords()), [], None)


@pytest.mark.real
@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_made_for_a_real_vocabulary(name: str, gemma: "ins.Model") -> None:
    made = TASKS[name](gemma, 6)
    for i in range(6):
        assert gemma.tokenizer(made.clean[i])["input_ids"] == list(made.clean_ids[i])
        assert gemma.tokenizer(made.clean[i] + made.answers[i])["input_ids"] == [
            *made.clean_ids[i],
            int(made.answer_ids[i]),
        ]
        assert gemma.tokenizer(made.clean[i] + made.wrong[i])["input_ids"] == [
            *made.clean_ids[i],
            int(made.wrong_ids[i]),
        ]
    assert made.roles["end"].tolist() == [[len(ids) - 1] for ids in made.clean_ids]
    assert f"end {len(made.clean_ids[0]) - 1}" in made.describe(gemma)
