"""AUC within strata, rank correlation and logistic slopes: known values, other libraries, false finds and coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from inscape.core.errors import InputError, ShapeError
from inscape.core.nulls import auc, correlation, logistic_slope, rank_correlation
from inscape.core.nulls.auc import _areas
from inscape.core.nulls.ranks import Ordered

SEEDS = 200


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 2)), min_size=4, max_size=40))
def test_auc_is_the_share_of_pairs_in_the_same_stratum(items):
    score, label, by = (
        np.array(c, dtype=t) for c, t in zip(zip(*items, strict=True), (float, float, int), strict=True)
    )
    pairs = [
        (score[i] > score[j]) + 0.5 * (score[i] == score[j])
        for i in range(len(items))
        for j in range(len(items))
        if label[i] and not label[j] and by[i] == by[j]
    ]
    (value,), (n_pairs,) = _areas(Ordered(score, by), label, by, np.ones((1, len(items))))
    assert n_pairs == len(pairs)
    assert np.isnan(value) if not pairs else value == pytest.approx(np.mean(pairs))


def test_a_score_that_only_knows_the_length_is_at_chance_within_lengths():
    rng = np.random.default_rng(0)
    length = rng.integers(5, 100, 600)
    wrong = rng.random(600) < length / 105
    found = auc(length + 0.5 * rng.random(600), wrong, by=length, n_strata=100)
    assert found.plain > 0.75
    assert found.interval.low < 0.5 < found.interval.high
    assert found.p > 0.05
    coarse = auc(length * 1.0, wrong, by=length, n_strata=10)
    assert abs(coarse.value - 0.5) < 0.5 * (coarse.plain - 0.5)  # ten strata leave a little length inside each


def test_a_score_that_knows_more_than_length_stays():
    rng = np.random.default_rng(1)
    length, skill = rng.normal(size=500), rng.normal(size=500)
    score = length + skill
    label = score + 0.5 * rng.normal(size=500) > 0
    found = auc(score, label, by=length, n_strata=20)
    assert found.p < 0.01
    assert found.interval.excludes(0.5)
    assert found.plain == pytest.approx(roc_auc_score(label, score))
    assert float(found) > 0.8


def test_the_null_of_an_auc_is_that_of_shuffled_labels():
    rng = np.random.default_rng(2)
    score, label, by = rng.integers(0, 6, 60), rng.random(60) < 0.4, rng.integers(0, 3, 60)
    found = auc(score, label, by=by, n=400, seed=5)
    known = []
    for _ in range(400):
        moved = label.copy()
        for group in range(3):
            moved[by == group] = rng.permutation(label[by == group])
        known.append(auc(score, moved, by=by, n=1).value)
    assert float(found.null.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(found.null.std()) == pytest.approx(np.std(known), rel=0.15)
    plain = auc(score, label, n=2000)
    assert plain.p == pytest.approx(
        stats.mannwhitneyu(score[label], score[~label], alternative="greater").pvalue, abs=0.03
    )


def test_scores_of_nothing_are_found_in_5_of_100_and_intervals_cover():
    found = covered = 0
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        by = rng.normal(size=60)
        area = auc(rng.normal(size=60), rng.random(60) < 0.5, by=by, n_strata=4, n=199, seed=seed)
        found += area.p <= 0.05
        covered += area.interval.low <= 0.5 <= area.interval.high
    assert found <= 19
    assert covered >= 0.88 * SEEDS


@pytest.mark.parametrize("kind", ["spearman", "pearson"])
def test_a_correlation_agrees_with_scipy(kind):
    rng = np.random.default_rng(3)
    x = rng.integers(0, 8, 50)
    y = 0.1 * x + rng.normal(size=50)
    ours = correlation(x, y, kind=kind, n=4000)
    theirs = (stats.spearmanr if kind == "spearman" else stats.pearsonr)(x, y)
    assert ours.value == pytest.approx(theirs.statistic)
    assert ours.p == pytest.approx(theirs.pvalue, abs=0.03)
    known = stats.bootstrap(
        (x, y),
        lambda a, b: (stats.spearmanr if kind == "spearman" else stats.pearsonr)(a, b).statistic,
        paired=True, vectorized=False, n_resamples=1000, method="percentile", rng=4,
    ).confidence_interval  # fmt: skip
    assert (ours.interval.low, ours.interval.high) == pytest.approx((known.low, known.high), abs=0.05)


def test_ranks_do_not_see_a_monotone_change():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=40), rng.normal(size=40)
    assert correlation(x, y).value == pytest.approx(correlation(np.exp(3 * x), y).value)
    assert correlation(x, x**3).value == pytest.approx(1.0)
    assert correlation(x, -x).value == pytest.approx(-1.0)


def test_groups_that_differ_in_both_scores_are_no_agreement_within():
    rng = np.random.default_rng(5)
    group = np.repeat([0, 1], 40)
    x, y = 5 * group + rng.normal(size=80), 5 * group + rng.normal(size=80)
    assert correlation(x, y, n=500).p < 0.01
    assert correlation(x, y, within=group, n=500).p > 0.05


def test_unrelated_scores_are_found_in_5_of_100_and_intervals_cover():
    found = covered = 0
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        c = correlation(rng.normal(size=30), rng.normal(size=30), n=199, seed=seed)
        found += c.p <= 0.05
        covered += c.interval.low <= 0 <= c.interval.high
    assert found <= 19
    assert covered >= 0.88 * SEEDS


def logistic(seed: int, n: int, slope: float, other: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    x = 0.7 * z + rng.normal(size=n)
    return x, rng.random(n) < 1 / (1 + np.exp(-(0.3 + slope * x + other * z))), z


def test_a_plain_slope_agrees_with_scikit_learn():
    x, y, z = logistic(0, 150, 0.8, -0.5)
    alone = logistic_slope(10 * x + 3, y, firth=False, n=5).value
    assert alone == pytest.approx(LogisticRegression(C=1e10, tol=1e-10).fit(10 * x[:, None], y).coef_[0, 0], rel=1e-3)
    both = logistic_slope(x, y, z, firth=False, n=5).value
    known = LogisticRegression(C=1e10, tol=1e-10).fit(np.stack([x, z], 1), y).coef_[0, 0]
    assert both == pytest.approx(known, rel=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_a_penalised_slope_maximises_firths_likelihood(seed):
    x, y, _ = logistic(seed, 25, 1.5)
    design = np.stack([x, np.ones(25)], 1)

    def loss(beta):
        eta = design @ beta
        p = 1 / (1 + np.exp(-eta))
        information = design.T @ ((p * (1 - p))[:, None] * design)
        return -(y * eta - np.logaddexp(0, eta)).sum() - 0.5 * np.linalg.slogdet(information)[1]

    known = optimize.minimize(loss, [0.0, 0.0], method="BFGS", options={"gtol": 1e-8}).x[0]
    assert logistic_slope(x, y, n=5).value == pytest.approx(known, rel=1e-4)


def test_a_perfect_split_has_a_finite_slope_with_the_penalty_only():
    x, y = np.arange(20.0), np.arange(20) >= 10
    assert 0 < logistic_slope(x, y, n=200).value < 5
    with pytest.raises(InputError, match="the slope is infinite"):
        logistic_slope(x, y, firth=False, n=5)


def test_a_covariate_takes_what_is_its_own():
    x, y, z = logistic(1, 600, 0.0, 1.5)
    assert logistic_slope(x, y, n=200).interval.low > 0
    held = logistic_slope(x, y, z, n=200)
    assert not held.interval.excludes(0.0)
    assert held.p > 0.05


def test_slopes_of_nothing_are_found_in_5_of_100_and_intervals_cover():
    found = covered = 0
    for seed in range(100):
        x, y, z = logistic(seed, 80, 0.0, 1.0)
        null = logistic_slope(x, y, z, n=99, seed=seed)
        found += null.p <= 0.05
        x, y, z = logistic(seed, 80, 0.8, 0.0)
        interval = logistic_slope(x, y, n=200, seed=seed).interval
        covered += interval.low <= 0.8 <= interval.high
    assert found <= 12  # 5 and three standard errors
    assert covered >= 88


def test_rows_of_one_item_widen_the_interval_of_a_slope():
    x, y, _ = logistic(2, 60, 1.0)
    by = np.repeat(np.arange(60), 4)
    copied = [np.repeat(v, 4) for v in (x, y)]
    once, grouped, ignorant = (
        logistic_slope(*v, by=b, n=400).interval for v, b in (((x, y), None), (copied, by), (copied, None))
    )
    assert grouped.high - grouped.low > 1.5 * (ignorant.high - ignorant.low)
    assert grouped.n_items == once.n_items == 60


def test_rows_of_one_item_do_not_make_a_slope_of_nothing_look_rare():
    """Items differ in how often they are right, x does not matter, and every item has eight rows."""
    by = np.repeat(np.arange(30), 8)
    found = ignorant = varied = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x, log_odds = rng.standard_normal(30)[by], 2 * rng.standard_normal(30)[by]
        y = rng.random(240) < 1 / (1 + np.exp(-log_odds))
        found += logistic_slope(x, y, by=by, n=99, seed=seed).p <= 0.05
        ignorant += logistic_slope(x, y, n=99, seed=seed).p <= 0.05
        varied += logistic_slope(x + 0.5 * rng.standard_normal(240), y, by=by, n=99, seed=seed).p <= 0.05
    assert found <= 8  # 3 and three standard errors
    assert varied <= 8
    assert ignorant >= 15


def test_a_shuffle_without_a_slope_counts_as_one_as_large():
    x, right, other = [1.78, -2.55, -0.14, 1.01, 1.35, 0.65], [1, 0, 0, 0, 1, 1], [[1], [0], [0], [1], [0], [1]]
    found = logistic_slope(x, right, other, by=[2, 1, 2, 2, 1, 1], n=200, seed=6)
    assert found.null.isfinite().all()
    assert found.p >= float((found.null == found.value).double().mean()) > 0


def test_a_slope_inside_items_is_found_beside_shuffles_inside_them():
    rng = np.random.default_rng(0)
    by, x = np.repeat(np.arange(10), 20), rng.standard_normal(200)
    y = rng.random(200) < 1 / (1 + np.exp(-1.5 * x))
    slope = logistic_slope(x, y, by=by, n=199)
    assert slope.p <= 0.01
    assert abs(float(slope.null.mean())) < 0.1


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: auc([1.0, 2.0], [1, 1]), InputError, "all labels are alike"),
        (lambda: auc([1.0, 2.0], [1, 0], by=[0, 1]), InputError, "no stratum holds both"),
        (lambda: auc([1.0, 2.0], [1, 0, 1]), ShapeError, "label has 3 items where there are 2"),
        (lambda: auc([1.0, 2.0], [1, 0], n=100), InputError, "resamples of 2 items have no value"),
        (lambda: correlation([1, 2], [1, 2]), InputError, "2 items correlate always"),
        (lambda: correlation([1, 1, 1], [1, 2, 3]), InputError, "x is 1 for every item"),
        (lambda: correlation([1, 2, 3], [1, 2, 3], kind="kendall"), InputError, "none of 'spearman' and 'pearson'"),
        (lambda: logistic_slope([1.0, 2.0], [1, 1]), InputError, "all 2 items are right"),
        (lambda: logistic_slope([1.0, 1.0], [1, 0]), InputError, "x is constant"),
        (
            lambda: logistic_slope([1.0, 2.0, 3.0], [1, 0, 1], [2.0, 4.0, 6.0]),
            InputError,
            "follows from the covariates",
        ),
    ],
)
def test_bad_input_says_what_is_wrong(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_the_rank_correlation_of_a_few_points_is_scipys_and_refuses_flat_ones():
    scipy_stats = pytest.importorskip("scipy.stats")
    for y in ([1.0, 1.0, 2.0, 2.0], [3.0, 1.0, 2.0, 2.0], [1.0, 1.0, 1.0, 2.0]):
        expected = scipy_stats.spearmanr(range(4), y).statistic
        assert rank_correlation(np.arange(4), np.array(y)) == pytest.approx(expected)
    with pytest.raises(InputError, match=r"y has too few points that differ \(1 of 4\)"):
        rank_correlation(np.arange(4), np.ones(4))
