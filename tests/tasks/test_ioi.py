"""Indirect object identification: the answer is the name said once, and roles stand where the names do."""

import pytest

import inscape as ins
from inscape import tasks
from inscape.tasks.ioi import TEMPLATES
from inscape.tasks.words import GIFTS, NAMES, PLACES
from tests.common.tokenizers import byte_tokenizer, word_tokenizer, words_of

TOKENIZER = word_tokenizer(words_of(*(t.replace("{NAMES}", "and") for t in TEMPLATES), *NAMES, *PLACES, *GIFTS))


def names_in(tokenizer, pairs: tasks.Pairs, role: str, which: str = "clean") -> list[str]:
    ids = getattr(pairs, f"{which}_ids")
    return [tokenizer.decode([row[at]]) for row, at in zip(ids, pairs.roles[role][:, 0].tolist(), strict=True)]


@pytest.mark.parametrize("kind", ["ABBA", "BABA", "mixed"])
def test_roles_hold_the_names_and_the_answer_is_the_one_said_once(kind: str) -> None:
    made = tasks.ioi(TOKENIZER, 20, kind=kind)
    io, s1, s2 = (names_in(TOKENIZER, made, role) for role in ("io", "s1", "s2"))
    assert s1 == s2
    assert [f" {x}" for x in io] == list(made.answers)
    assert [f" {x}" for x in s1] == list(made.wrong)
    for text, a, b in zip(made.clean, io, s1, strict=True):
        assert (text.split().count(a), len(text.split(b))) == (1, 3)
    first = (made.roles["io"] < made.roles["s1"])[:, 0].tolist()
    assert first == [k == "ABBA" for k in made.facts["kind"]]
    if kind == "mixed":
        assert sum(first) == 10
    assert bool((made.roles["s1_plus_1"] == made.roles["s1"] + 1).all())
    assert made.chance == 0.5


def test_the_abc_prompt_repeats_no_name_and_shares_none() -> None:
    made = tasks.ioi(TOKENIZER, 20, corrupted="abc")
    others = list(zip(*(names_in(TOKENIZER, made, r, "corrupted") for r in ("io", "s1", "s2")), strict=True))
    assert all(
        len({*three, a.strip(), w.strip()}) == 5 for three, a, w in zip(others, made.answers, made.wrong, strict=True)
    )


def test_the_swapped_prompt_makes_the_other_name_right() -> None:
    made = tasks.ioi(TOKENIZER, 20, corrupted="swap")
    assert [f" {x}" for x in names_in(TOKENIZER, made, "s2", "corrupted")] == list(made.answers)
    differs = [
        sum(a != b for a, b in zip(x, y, strict=True)) for x, y in zip(made.clean_ids, made.corrupted_ids, strict=True)
    ]
    assert differs == [1] * 20


def test_the_same_seed_gives_the_same_pairs_and_another_gives_others() -> None:
    assert tasks.ioi(TOKENIZER, 8, seed=3).clean == tasks.ioi(TOKENIZER, 8, seed=3).clean
    assert tasks.ioi(TOKENIZER, 8, seed=3).clean != tasks.ioi(TOKENIZER, 8, seed=4).clean
    assert tasks.ioi(TOKENIZER, 8, seed=3).clean == tasks.ioi(TOKENIZER, 16, seed=3).clean[:8]


def test_one_template_gives_every_role_one_position_in_each_order() -> None:
    made = tasks.ioi(TOKENIZER, 8, kind="ABBA", templates=1)
    assert {len(x.unique()) for x in made.roles.values()} == {1}


def test_too_few_names_of_one_token_are_refused_with_their_pieces() -> None:
    with pytest.raises(ins.TokenError, match=r"0 of 50 names are one token.*'Mary' is ' '\|'M'\|'a'\|'r'\|'y'"):
        tasks.ioi(byte_tokenizer(), 4)
    few = tasks.ioi(word_tokenizer(words_of(*TEMPLATES, *NAMES[:6], *PLACES, *GIFTS)), 4)
    assert "44 of 50 names are not one token" in few.notes[0]


def test_another_kind_is_refused() -> None:
    with pytest.raises(ins.InputError, match=r"kind='ABB'.*'ABBA', 'BABA' or 'mixed'"):
        tasks.ioi(TOKENIZER, 4, kind="ABB")
    with pytest.raises(ins.InputError, match="'abc' or 'swap'"):
        tasks.ioi(TOKENIZER, 4, corrupted="zero")
    with pytest.raises(ins.InputError, match="at least one sentence form"):
        tasks.ioi(TOKENIZER, 4, templates=0)
    with pytest.raises(ins.InputError, match=r"must have \{NAMES\}, \{s2\}, \{_place\}, \{_gift\}"):
        tasks.ioi(TOKENIZER, 4, templates=["{NAMES} met, and {who} gave a {_gift} to"])


@pytest.mark.real
def test_gemma_answers_most_of_it(gemma: "ins.Model") -> None:
    made = tasks.ioi(gemma, 16)
    assert float(made.answered_by(gemma, among="candidates").float().mean()) > 0.8
    assert float(made.answered_by(gemma).float().mean()) > 0.6
