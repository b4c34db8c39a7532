"""Lengths are compared where both answers are finished, accuracy everywhere; both are paired by prompt."""

import copy
from typing import Any

import pytest
import torch

import inscape as ins
from inscape.core.nulls import mcnemar
from inscape.read.behaviour.lengths import Answers, answers, length_report
from inscape.tasks.chains import answer_of
from tests.common.small import direction, gpt2

PROMPTS = [[5, 9, 11], [3, 4, 8, 20, 21], [33, 7], [50, 41, 12, 13]]


def made(lengths: list[int], said: list[int], finished: list[bool] | None = None) -> Answers:
    flags = torch.tensor(finished if finished is not None else [True] * len(lengths))
    return Answers(tuple(f"answer {a}" for a in said), torch.tensor(lengths), flags)


def ending(end: int) -> ins.Model:
    module: Any = copy.deepcopy(gpt2().module)
    module.generation_config.eos_token_id = end
    module.generation_config.pad_token_id = 0
    return ins.open(module)


def test_what_is_saved_lost_and_cut_off_is_as_on_paper():
    truth = [1, 2, 3, 4, 5]
    plain = made([10, 20, 30, 40, 99], [1, 2, 3, 0, 5], [True, True, True, True, False])
    edited = made([5, 10, 99, 20, 10], [1, 2, 3, 4, 5], [True, True, False, True, True])
    report = length_report(plain, edited, answer_of, truth)
    assert report.n_finished == 3
    assert report.tokens == (pytest.approx(70 / 3), pytest.approx(35 / 3))
    assert report.saved is not None
    assert report.saved.value == pytest.approx(0.5)
    assert (report.saved.low, report.saved.high) == (pytest.approx(0.5), pytest.approx(0.5))  # half of each
    assert report.n_right == 2
    assert report.saved_where_right is not None
    assert report.saved_where_right.value == pytest.approx(0.5)
    assert [a.value for a in report.accuracy] == [pytest.approx(3 / 5), pytest.approx(4 / 5)]  # cut off is wrong
    assert report.lost.value == pytest.approx(-1 / 5)
    assert report.lost_p == mcnemar([1, 1, 1, 0, 0], [1, 1, 0, 1, 1])
    assert [u.value for u in report.unfinished] == [pytest.approx(1 / 5)] * 2
    assert "0.5 [0.5, 0.5] saved" in str(report)
    assert report.warnings == ()


def test_answers_that_grow_save_less_than_nothing():
    report = length_report(made([10, 20], [1, 2]), made([20, 40], [1, 2]), answer_of, [1, 2])
    assert report.saved is not None
    assert report.saved.value == pytest.approx(-1.0)


def test_giving_up_and_cutting_off_are_said():
    n = 40
    plain = made([30] * n, [1] * n)
    silent = made([2] * n, [0] * n)
    assert any("they give up" in w for w in length_report(plain, silent, answer_of, [1] * n).warnings)
    endless = made([99] * n, [1] * n, [False] * n)
    report = length_report(plain, endless, answer_of, [1] * n)
    assert report.saved is None
    assert report.saved_where_right is None
    assert any("100% of the edited answers are cut off" in w for w in report.warnings)
    assert any("too few to compare" in w for w in report.warnings)


@pytest.mark.parametrize("edits", [(), [ins.add(direction(), 2.0, at="newest")]])
def test_answers_are_counted_up_to_their_end_alone_and_in_batches(edits):
    tokens = ins.generate(gpt2(), PROMPTS, edits, max_new_tokens=12).tokens
    end = int(tokens[1, 4])
    model = ending(end)
    found = answers(model, PROMPTS, edits, max_new_tokens=12, batch=3)
    assert bool(found.is_finished.any())
    for i, prompt in enumerate(PROMPTS):
        alone = ins.generate(model, [prompt], edits, max_new_tokens=12).tokens[0].tolist()
        is_there = end in alone
        assert bool(found.is_finished[i]) == is_there
        assert int(found.tokens[i]) == (alone.index(end) + 1 if is_there else 12)


def test_sampling_follows_the_seed_and_leaves_torch_as_it_was():
    model, state = ending(63), torch.random.get_rng_state()
    drawn = [answers(model, PROMPTS, max_new_tokens=8, do_sample=True, seed=s).tokens for s in (1, 1)]
    assert torch.equal(*drawn)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ins.ShapeError, match="2 plain answers, 1 edited ones and 2 right ones"):
        length_report(made([1, 2], [1, 2]), made([1], [1]), answer_of, [1, 2])
    with pytest.raises(ins.InputError, match="takes two at least"):
        length_report(made([1], [1]), made([1], [1]), answer_of, [1])
    with pytest.raises(ins.InputError, match="a list of prompts"):
        answers(ending(63), [])
    with pytest.raises(ins.ModelError, match="knows no token that ends a text"):
        answers(gpt2(), PROMPTS)
