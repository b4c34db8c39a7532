"""Chains are worked out right, said in both styles, and read again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.tasks.chains import MODULUS, WORDS, Chain, answer_of, chains, first_slip, sentences_of, steps_of

ONE = Chain(7, (("+", 5), ("*", 3), ("-", 18)))


def test_a_chain_is_worked_out_from_left_to_right():
    assert ONE.values == (12, 17, 18)
    assert ONE.prompt == "start 7 , a + 5 , b * 3 , c - 18 ?"
    assert ONE.rationale("terse") == "a + 5 = 12 ; b * 3 = 17 ; c - 18 = 18 ; answer 18"
    assert ONE.rationale().startswith("now step a : we have 7 , plus 5 that makes 12 .")


@given(seed=st.integers(0, 2**31), style=st.sampled_from(["wordy", "terse"]))
def test_what_is_written_is_read(seed, style):
    (chain,) = chains(1, seed=seed)
    text = chain.rationale(style, seed=seed)
    assert set(text.split()) | set(chain.prompt.split()) <= set(WORDS)
    assert steps_of(text) == list(chain.values)
    assert answer_of(text) == chain.answer
    assert first_slip(chain, text) is None
    value = chain.start
    for (sign, k), after in zip(chain.steps, chain.values, strict=True):
        assert after == {"+": value + k, "-": value - k, "*": value * k}[sign] % MODULUS
        value = after


@given(seed=st.integers(0, 2**31), rate=st.floats(0, 1))
def test_mixed_rationales_are_right_and_read_too(seed, rate):
    (chain,) = chains(1, (2, 5), largest=9, seed=seed)
    assert all(k <= 9 for _, k in chain.steps)
    text = chain.mixed(rate, seed=seed)
    assert set(text.split()) <= set(WORDS)
    assert steps_of(text) == list(chain.values)
    assert answer_of(text) == chain.answer
    assert len(sentences_of(text)) == len(chain.steps) + text.count("so far")


def test_mixed_rationales_have_the_rate_asked_for():
    assert ONE.mixed(0.0) == ONE.rationale("terse")
    assert sentences_of(ONE.mixed(0.0)) == [False] * 3
    assert all(sentences_of(ONE.mixed(1.0, seed=3)))
    said = [chain.mixed(0.6, seed=i) for i, chain in enumerate(chains(400, 5, seed=2))]
    terse = sum(text.count(";") for text in said) / 2000
    again = sum(text.count("so far") for text in said) / 2000
    assert terse == pytest.approx(0.4, abs=0.04)
    assert again == pytest.approx(0.3, abs=0.04)


def test_the_first_wrong_step_is_found_and_so_is_a_missing_one():
    assert first_slip(ONE, "a + 5 = 12 ; b * 3 = 16 ; c - 18 = 18 ; answer 18") == 1
    assert first_slip(ONE, "a + 5 = 12 ;") == 1
    assert answer_of("a + 5 = 12 ;") is None


def test_the_same_seed_gives_the_same_chains_of_the_length_asked_for():
    assert chains(5, 4, seed=1) == chains(5, 4, seed=1)
    assert {len(c.steps) for c in chains(50, (2, 3), seed=1)} == {2, 3}
    for call in (lambda: chains(0), lambda: chains(3, 11)):
        with pytest.raises(ins.InputError, match="at least one, of 1 to 10 steps"):
            call()
    with pytest.raises(ins.InputError, match="numbers from 1 to at most 18"):
        chains(3, largest=19)
    with pytest.raises(ins.InputError, match="from 0 to 1"):
        ONE.mixed(1.5)
    with pytest.raises(ins.InputError, match="a rationale is 'wordy' or 'terse'"):
        ONE.rationale("brief")
