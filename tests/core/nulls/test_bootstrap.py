"""Intervals: what they are on paper, that they cover, and that they agree with scipy."""

import numpy as np
import pytest
import torch
from scipy import stats

from inscape.core.errors import InputError, ShapeError
from inscape.core.nulls import bootstrap, bootstrap_each, share
from inscape.core.nulls.bootstrap import tails_of


def drawn(seed: int, n: int, kind: str = "normal") -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.exponential(size=n) if kind == "exponential" else rng.normal(size=n)


@pytest.mark.parametrize("method", ["bca", "percentile"])
@pytest.mark.parametrize("statistic", [None, np.median], ids=["mean", "median"])
def test_intervals_agree_with_scipy(method, statistic):
    x = drawn(0, 60, "exponential")
    ours = bootstrap(x, statistic, method=method, n=4000, seed=1)
    theirs = stats.bootstrap(
        (x,), statistic or np.mean, n_resamples=20_000, method="BCa" if method == "bca" else method, rng=2,
        confidence_level=1 - 2 * tails_of(0.95, len(x))[0],
    ).confidence_interval  # fmt: skip
    width = theirs.high - theirs.low
    assert ours.value == pytest.approx((statistic or np.mean)(x))
    assert ours.low == pytest.approx(theirs.low, abs=0.06 * width)  # two bootstraps of 4,000 and 20,000 resamples
    assert ours.high == pytest.approx(theirs.high, abs=0.06 * width)


@pytest.mark.parametrize(("kind", "truth"), [("normal", 0.0), ("exponential", 1.0)])
def test_a_95_percent_interval_holds_the_truth_in_about_95_of_100_samples(kind, truth):
    seeds, n_items = 400, 40
    samples = np.stack([drawn(seed, n_items, kind) for seed in range(seeds)], axis=1)
    each = bootstrap_each(samples, n=800)
    covered = ((each.low <= truth) & (truth <= each.high)).double().mean()
    # Binomial: 0.95 +- 3 standard errors is +- 0.033; a bootstrap of 40 skewed items is known to fall a little short.
    assert 0.89 <= float(covered) <= 0.98


def test_bca_covers_skewed_data_better_than_percentile():
    samples = np.stack([drawn(seed, 20, "exponential") for seed in range(400)], axis=1)

    def missed(method):
        each = bootstrap_each(samples, n=600, method=method)
        return float(((each.low > 1.0) | (each.high < 1.0)).double().mean())

    assert missed("bca") < missed("percentile")


def test_rows_of_one_item_are_drawn_together():
    """Ten copies of each of 20 items say no more than the items do."""
    x = drawn(3, 20)
    plain, copied = bootstrap(x), bootstrap(np.repeat(x, 10), by=np.repeat(np.arange(20), 10))
    assert (copied.value, copied.low, copied.high) == pytest.approx((plain.value, plain.low, plain.high))
    assert copied.n_items == 20
    ignorant = bootstrap(np.repeat(x, 10))
    assert ignorant.high - ignorant.low < 0.5 * (copied.high - copied.low)


def test_a_statistic_of_the_mean_equals_the_mean():
    x = drawn(4, 30)
    a, b = bootstrap(x, np.mean, n=3000), bootstrap(x, n=3000, seed=9)
    assert (a.low, a.high) == pytest.approx((b.low, b.high), abs=0.05)


def test_two_columns_are_drawn_together_and_keep_their_type():
    a = torch.from_numpy(drawn(5, 50)).abs() + 1
    ratio = bootstrap((3 * a, a), lambda x, y: (x.mean() / y.mean()).float(), n=200)
    assert (ratio.low, ratio.high) == pytest.approx((3.0, 3.0))  # only if the same rows were drawn from both


def test_paired_differences_are_tighter_than_the_conditions():
    base = drawn(6, 100) * 10
    a, b = base + 1 + 0.1 * drawn(7, 100), base
    difference = bootstrap(a - b)
    assert difference.excludes(0.0)
    assert not bootstrap(a).excludes(0.0)


def test_many_means_equal_one_by_one():
    x = torch.from_numpy(np.stack([drawn(seed, 25) for seed in range(6)], 1)).reshape(25, 2, 3)
    each = bootstrap_each(x, n=500, seed=3)
    assert each.value.shape == (2, 3)
    one = bootstrap(x[:, 1, 2], n=500, seed=int(np.random.default_rng(3).integers(2**62)))
    assert (float(each.low[1, 2]), float(each.high[1, 2])) == pytest.approx((one.low, one.high))


def test_the_same_seed_gives_the_same_interval_and_another_another():
    x = drawn(8, 30)
    assert bootstrap(x, seed=1) == bootstrap(x, seed=1)
    assert bootstrap(x, seed=1) != bootstrap(x, seed=2)


def test_equal_items_have_an_interval_without_width():
    flat = bootstrap([0.25] * 8)
    assert (flat.low, flat.value, flat.high) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(("right", "n"), [(0, 20), (1, 20), (13, 20), (20, 20), (700, 1000)])
def test_a_share_has_wilsons_interval(right, n):
    ours = share([True] * right + [False] * (n - right))
    theirs = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_an_interval_says_itself():
    assert str(share([1, 0])) == "0.5 [0.09453, 0.9055]"


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: bootstrap([]), InputError, "values is empty"),
        (lambda: bootstrap([1.0, float("nan"), 2.0]), InputError, "1 of 3 values that are NaN or infinite"),
        (lambda: bootstrap([1.0]), InputError, "two items or more, and there is one"),
        (lambda: bootstrap([1.0, 2.0], by=[7, 7]), InputError, "there is one in `by`"),
        (lambda: bootstrap([1.0, 2.0], by=[7]), ShapeError, "give one label an item"),
        (lambda: bootstrap(([1.0, 2.0], [1.0]), lambda a, b: 0.0), ShapeError, "2, 1 items; all need the same"),
        (lambda: bootstrap([[1.0], [2.0]]), ShapeError, "take bootstrap_each"),
        (lambda: bootstrap([1.0, 2.0], method="t"), InputError, "'bca' and 'percentile'"),
        (lambda: bootstrap([1.0, 2.0], n=0), InputError, "n=0 resamples"),
        (lambda: bootstrap([1.0, 2.0], level=95.0), InputError, "level=95.0 is no share"),
        (lambda: bootstrap([1.0, 0.0], lambda x: 1 / x.sum() if x.sum() else np.inf), InputError, "on a resample"),
        (lambda: share([0.5, 1]), InputError, "yes or no .* and holds 0.5"),
    ],
)
def test_bad_input_says_what_is_wrong(call, error, says):
    with pytest.raises(error, match=says):
        call()


@pytest.mark.parametrize("method", ["bca", "percentile"])
@pytest.mark.parametrize("n", [15, 30, 100])
def test_few_items_keep_the_level(n: int, method: str) -> None:
    """With the tails of many items 91, 93 and 94.5 of 100 intervals would hold the truth."""
    draws = torch.randn(n, 4000, generator=torch.Generator().manual_seed(n))
    each = bootstrap_each(draws, n=1000, method=method)
    held = ((each.low <= 0) & (each.high >= 0)).double().mean()
    assert 0.94 <= float(held) <= 0.965


def test_tails_are_those_of_students_t() -> None:
    for n in (6, 30, 1000):
        low, high = tails_of(0.9, n)
        t = float(stats.t.ppf(0.95, n - 1)) * (n / (n - 1)) ** 0.5
        assert low == pytest.approx(float(stats.norm.cdf(-t)), rel=0.01)
        assert high == pytest.approx(1 - low)


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_two_items_have_an_interval_as_wide_as_their_resamples(method: str) -> None:
    found = bootstrap(np.array([1.0, 3.0]), method=method)
    assert (found.low, found.high) == (1.0, 3.0)
