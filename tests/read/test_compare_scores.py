"""Scores beside chance, beside another and beside shuffled labels."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from inscape.core.errors import InputError, ShapeError
from inscape.read.compare_scores import _areas, compare_scores


def planted(n: int, seed: int, strength: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    yes = rng.random(n) < 0.5
    return strength * yes + rng.normal(size=n), yes


def test_a_score_that_says_something_is_told_from_one_that_does_not():
    good, yes = planted(200, 0, 2.0)
    noise = np.random.default_rng(9).normal(size=(200, 3))
    found = compare_scores({"good": -good, "noise": noise}, yes, against="noise", n=200)
    assert found["good"].auc.value == pytest.approx(roc_auc_score(yes, good), abs=0.02)  # whichever way is up
    assert found["good"].counts
    assert found["good"].gain.low > 0
    assert not found["noise"].counts
    assert found["noise"].gain is None
    assert found["noise"].p > 0.05
    assert found["noise"].auc.low < 0.5 < found["noise"].auc.high + 0.1


def test_held_out_areas_are_those_of_scikit_learn():
    good, yes = planted(60, 3, 1.0)
    fold = np.arange(60) % 3
    mine = float(_areas(good[:, None], yes[None], fold)[0])
    assert mine == pytest.approx(np.mean([roc_auc_score(yes[fold == i], good[fold == i]) for i in range(3)]))


def test_nothing_is_found_in_noise_more_often_than_said():
    hits = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        found = compare_scores({"noise": rng.normal(size=(60, 2))}, rng.random(60) < 0.5, repeats=1, n=100, seed=seed)
        hits += found["noise"].p < 0.05
    assert hits <= 6  # 40 at 5 %: 2 expected, more than 6 in 0.3 % of cases


def test_groups_are_shuffled_whole():
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(12), 10)
    yes = np.repeat(rng.permutation(12) < 6, 10)
    names = rng.normal(size=12)[group] + 0.01 * rng.normal(size=120)  # knows the group, not the label
    alone, together = (compare_scores({"x": names}, yes, by=b, n_folds=3, n=200)["x"] for b in (None, group))
    assert alone.auc.high - alone.auc.low < together.auc.high - together.auc.low
    assert together.p > 0.05


def test_errors_say_what_is_wrong():
    with pytest.raises(InputError, match="against='length' is none of the scores phi"):
        compare_scores({"phi": [1.0, 2.0]}, [0, 1], against="length")
    with pytest.raises(ShapeError, match="for 4 labels"):
        compare_scores({"phi": np.zeros(4), "span": np.zeros((3, 2))}, [0, 1, 0, 1])
