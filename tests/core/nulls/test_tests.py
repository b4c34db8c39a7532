"""p values: known ones, agreement with scipy, and false finds at the rate they promise."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from inscape.core.errors import InputError, ShapeError
from inscape.core.nulls import (
    benjamini_hochberg,
    max_over_family,
    mcnemar,
    permutation_p,
    permutation_test,
    permuted,
    sign_flip_test,
)

SEEDS = 200  # 5 % of 200 is 10; three standard errors are 9 more


def test_a_p_value_counts_the_observation_itself():
    null = torch.arange(99.0)
    assert float(permutation_p(1000.0, null)) == 1 / 100
    assert float(permutation_p(1000.0, null, "less")) == 1.0
    assert float(permutation_p(1000.0, null, "two-sided")) == 2 / 100
    assert float(permutation_p(-1000.0, null)) == 1.0


def test_ties_count_as_extreme_whatever_the_order_of_summing():
    values = np.random.default_rng(0).normal(size=1000)
    assert float(permutation_p(values.sum(), [values[::-1].sum(), sum(values)])) == 1.0


def test_p_values_of_many_are_those_of_each():
    rng = np.random.default_rng(1)
    seen, null = rng.normal(size=(2, 3)), rng.normal(size=(50, 2, 3))
    every = permutation_p(seen, null, "two-sided")
    assert float(every[1, 2]) == float(permutation_p(seen[1, 2], null[:, 1, 2], "two-sided"))


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_a_permutation_test_agrees_with_scipy(alternative):
    rng = np.random.default_rng(2)
    x = np.r_[rng.normal(0.4, 1, 25), rng.normal(0, 1, 30)]
    label = np.r_[np.ones(25), np.zeros(30)]
    ours = permutation_test(lambda y: x[y == 1].mean() - x[y == 0].mean(), label, n=2000, alternative=alternative)
    theirs = stats.permutation_test(
        (x[:25], x[25:]), lambda a, b: a.mean() - b.mean(), n_resamples=5000, alternative=alternative, rng=3
    )
    assert ours.observed == pytest.approx(theirs.statistic)
    assert ours.p == pytest.approx(theirs.pvalue, abs=0.04)
    assert ours.quantile(0.95) == pytest.approx(np.quantile(theirs.null_distribution, 0.95), abs=0.05)


def test_labels_that_mean_nothing_are_found_in_5_of_100():
    found = 0
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        x, label = rng.normal(size=20), rng.permutation(np.repeat([0, 1], 10))
        found += permutation_test(lambda y, x=x: x[y == 1].mean(), label, n=99, seed=seed).p <= 0.05
    assert found <= 19


def test_shuffling_within_groups_keeps_what_the_groups_explain():
    """The score follows the group only: shuffled over all it looks real, within groups it is nothing."""
    rng = np.random.default_rng(4)
    group = np.repeat([0, 1], 50)
    label, score = (rng.random(100) < 0.2 + 0.6 * group).astype(int), group + 0.1 * rng.normal(size=100)

    def gap(y):
        return score[y == 1].mean() - score[y == 0].mean()

    assert permutation_test(gap, label, n=500).p < 0.01
    assert permutation_test(gap, label, within=group, n=500).p > 0.05


def test_shuffled_labels_stay_in_their_groups_and_keep_their_type():
    label, group = torch.tensor([1, 2, 3, 4, 5, 6]), ["a", "a", "a", "b", "b", "b"]
    out = permuted(lambda y: y.float(), label, within=group, n=40)
    assert out.shape == (40, 6)
    assert torch.equal(out[:, :3].sort(1).values, torch.tensor([1.0, 2, 3]).double().expand(40, 3))
    assert len(out.unique(dim=0)) > 10


def test_flipping_few_signs_is_exact():
    tested = sign_flip_test([1.0, 2.0, 3.0, 4.0], alternative="greater")
    assert len(tested.null) == 16
    assert tested.p == 1 / 16  # only the observed choice of signs gives a mean as high
    assert sign_flip_test([1.0, 2.0, 3.0, 4.0]).p == 2 / 16


def test_flipping_signs_agrees_with_scipy():
    d = np.random.default_rng(0).normal(0.35, 1, 40)
    ours = sign_flip_test(d, n=4000)
    theirs = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=4000, rng=6)
    assert ours.p == pytest.approx(theirs.pvalue, abs=0.02)


def test_rows_of_one_item_flip_together():
    d = np.random.default_rng(6).normal(0.5, 1, 12)
    copied = sign_flip_test(np.repeat(d, 5), by=np.repeat(np.arange(12), 5))
    assert copied.p == pytest.approx(sign_flip_test(d).p)


def test_equal_conditions_are_told_apart_in_5_of_100():
    found = sum(
        sign_flip_test(np.random.default_rng(s).standard_t(3, size=15), n=400, seed=s).p <= 0.05 for s in range(SEEDS)
    )
    assert found <= 19


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_mcnemar_is_the_binomial_test_of_the_items_that_differ(pairs):
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    ours, differ = sum(x and not y for x, y in pairs), sum(x != y for x, y in pairs)
    for alternative in ("two-sided", "greater", "less"):
        known = stats.binomtest(ours, differ, 0.5, alternative).pvalue if differ else 1.0
        assert mcnemar(a, b, alternative=alternative) == pytest.approx(known)


def test_mcnemar_of_a_known_table():
    """Ten items only a gets right, two only b: 2 (1 + 12 + 66) / 4096."""
    a, b = [1] * 10 + [0] * 2 + [1] * 30, [0] * 10 + [1] * 2 + [1] * 30
    assert mcnemar(a, b) == pytest.approx(2 * 79 / 4096)


def test_independent_members_are_corrected_as_on_paper():
    """The best of m independent scores is below x with probability F(x)^m."""
    rng = np.random.default_rng(7)
    p = max_over_family([2.5, *[-9.0] * 9], rng.normal(size=(20_000, 10))).p
    assert float(p[0]) == pytest.approx(1 - stats.norm.cdf(2.5) ** 10, abs=0.006)
    assert float(p[1]) == pytest.approx(1.0, abs=1e-3)


def test_copies_of_one_member_cost_nothing():
    null = np.random.default_rng(8).normal(size=(500, 1))
    alone = permutation_p([1.5], null)
    copied = max_over_family([1.5] * 20, np.repeat(null, 20, axis=1)).p
    torch.testing.assert_close(copied, alone.expand(20))


def test_a_family_of_nothing_has_a_find_in_5_of_100():
    for step_down in (True, False):
        found = 0
        for seed in range(SEEDS):
            rng = np.random.default_rng(seed)
            draws = rng.normal(size=(200, 12)) @ rng.normal(size=(12, 12))  # members that depend on each other
            found += float(max_over_family(draws[0], draws[1:], step_down=step_down, standardise=True).p.min()) <= 0.05
        assert found <= 19


def test_stepping_down_finds_no_less_and_the_best_member_alike():
    rng = np.random.default_rng(9)
    seen, null = rng.normal(size=(3, 4)) + 2, rng.normal(size=(300, 3, 4))
    down, single = (max_over_family(seen, null, step_down=s) for s in (True, False))
    assert bool((down.p <= single.p).all())
    assert float(down.p.min()) == float(single.p.min())
    assert down.p.shape == (3, 4)
    assert single.threshold(0.5) == pytest.approx(float(null.max((1, 2)).mean()), abs=0.3)


def test_members_of_other_scales_are_compared_in_their_own_spread():
    rng = np.random.default_rng(10)
    null = rng.normal(size=(2000, 2)) * [1.0, 1000.0]
    plain, standard = (float(max_over_family([6.0, 0.0], null, standardise=s).p[0]) for s in (False, True))
    assert plain > 0.4
    assert standard < 0.01


@pytest.mark.parametrize("alternative", ["less", "two-sided"])
def test_sides_of_a_family(alternative):
    null = np.random.default_rng(11).normal(size=(999, 3))
    p = max_over_family([-9.0, 0.0, 0.0], null, alternative=alternative).p
    assert float(p[0]) == 1 / 1000


def test_the_false_discovery_rate_agrees_with_scipy():
    p = np.random.default_rng(12).random(40) ** 3
    np.testing.assert_allclose(benjamini_hochberg(p).numpy(), stats.false_discovery_control(p))
    assert benjamini_hochberg(p.reshape(5, 8)).shape == (5, 8)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: permutation_p([1.0, 2.0], torch.zeros(9)), ShapeError, "for an observation of shape"),
        (lambda: permutation_p(1.0, torch.zeros(9), "up"), InputError, "'greater', 'less' and 'two-sided'"),
        (lambda: permuted(sum, [1]), InputError, "one label cannot be shuffled"),
        (lambda: permuted(sum, [1, 2], within=[0, 1]), InputError, "holds one item"),
        (lambda: permutation_test(lambda y: y, [1.0, 2.0]), ShapeError, "take permuted"),
        (lambda: sign_flip_test([]), InputError, "differences is empty"),
        (lambda: mcnemar([1], [1, 0]), ShapeError, "2 items where there are 1"),
        (lambda: mcnemar([1], [1], alternative="up"), InputError, "is no side"),
        (lambda: max_over_family([1.0], torch.zeros(9, 2)), ShapeError, "for a family of shape"),
        (lambda: max_over_family([1.0], torch.zeros(9, 1), alternative="up"), InputError, "is no side"),
        (lambda: benjamini_hochberg([0.1, 1.2]), InputError, "between 0 and 1"),
    ],
)
def test_bad_input_says_what_is_wrong(call, error, says):
    with pytest.raises(error, match=says):
        call()
