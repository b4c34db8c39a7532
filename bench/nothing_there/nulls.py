"""The null kit itself: intervals, tests, corrections, matched sets, surrogates, breaks and fitted laws."""

import torch
from torch import Tensor

from bench.nothing_there.case import Case, above, found, rows
from inscape.core import curves, nulls


def of_kit(kind: str) -> Case:
    """The plain tests, on 60 items."""

    def case(seed: int, effect: float) -> float:
        x, y = rows(seed, effect, n=60)
        score = x[:, 0]
        if kind == "auc":
            return nulls.auc(score, y, n=199, seed=seed).p
        if kind == "correlation":
            return nulls.correlation(score, y.double() + 0.1 * x[:, 1], n=199, seed=seed).p
        if kind == "sign flip":
            return nulls.sign_flip_test(x[:, 1] + effect, n=199, seed=seed).p
        if kind == "permutation":
            test = nulls.permutation_test(
                lambda labels: score[labels].mean() - score[~labels].mean(), y, n=199, seed=seed
            )
            return test.p
        return found(nulls.bootstrap(x[:, 1] + effect, seed=seed).excludes(0.0))

    return case


def auc_of_equal_length(seed: int, effect: float) -> float:
    """The score and the label grow with the length; only pairs of about equal length count."""
    x, _ = rows(seed, 0, n=200)
    length = torch.arange(200) // 20
    y = x[:, 1] + length > 4.5
    return nulls.auc(x[:, 0] + length + 2 * effect * y, y, by=length, n=199, seed=seed).p


def correlation_within(seed: int, effect: float) -> float:
    """Both scores differ between four groups."""
    x, _ = rows(seed, 0, n=60)
    group = torch.arange(60) % 4
    return nulls.correlation(
        x[:, 0] + 3 * group, x[:, 1] + 3 * group + effect * x[:, 0], within=group, n=199, seed=seed
    ).p


def share(seed: int, effect: float) -> float:
    """Wilson's interval of sixty throws of a coin lies above a half (one side of 95 %: 0.025)."""
    thrown = torch.rand(60, generator=torch.Generator().manual_seed(seed)) < 0.5 + 0.25 * effect
    return found(nulls.share(thrown).low > 0.5)


def mcnemar(seed: int, effect: float) -> float:
    right = torch.rand(2, 80, generator=torch.Generator().manual_seed(seed)) < torch.tensor(
        [[0.5], [0.5 + 0.3 * effect]]
    )
    return nulls.mcnemar(right[1], right[0])


def bootstrap_by(seed: int, effect: float) -> float:
    """Five rows of each of 60 items that share most of their value; whole items are drawn."""
    g = torch.Generator().manual_seed(seed)
    item = torch.arange(60).repeat_interleave(5)
    value = torch.randn(60, generator=g)[item] + 0.3 * torch.randn(300, generator=g) + effect
    return found(nulls.bootstrap(value, by=item, n=500, seed=seed).excludes(0.0))


def of_family(how: str) -> Case:
    """Twenty heads on 24 items, of which one has an effect: the smallest p after all were looked at."""

    def case(seed: int, effect: float) -> float:
        x = torch.randn(24, 20, generator=torch.Generator().manual_seed(seed))
        x[:, 3] += 1.2 * effect
        if how == "max":
            return float(nulls.max_over_family(x.mean(0), nulls.sign_flipped(x, n=199, seed=seed)).p.min())
        each = nulls.permutation_p(x.mean(0), nulls.sign_flipped(x, n=999, seed=seed))
        return float(nulls.benjamini_hochberg(each).min())

    return case


def of_slope(grouped: bool) -> Case:
    """Being right follows a number; grouped: five rows of each of 20 items with the same number and much in common."""

    def case(seed: int, effect: float) -> float:
        g = torch.Generator().manual_seed(seed)
        item = torch.arange(20).repeat_interleave(5) if grouped else torch.arange(60)
        x = torch.randn(len(item.unique()), generator=g)[item]
        hard = torch.randn(len(item.unique()), generator=g)[item] if grouped else 0.0
        right = torch.rand(len(item), generator=g) < torch.sigmoid(2.5 * effect * x + hard)
        return nulls.logistic_slope(x, right, by=item if grouped else None, n=99, seed=seed).p

    return case


def of_changepoint(shape: str, items: int) -> Case:
    """A single curve of independent errors, or eight whose neighbouring points depend on each other."""

    def case(seed: int, effect: float) -> float:
        noise = torch.randn(items, 20, generator=torch.Generator().manual_seed(seed))
        if items > 1:
            noise = noise.cumsum(1) / 2
        at = torch.arange(20.0)
        bend = (at - 10).clamp(min=0) * 0.6 if shape == "line" else (at >= 10) * 2.0
        curve = 0.3 * at * (shape == "line") + noise + effect * bend * (3 if items > 1 else 1)
        return nulls.changepoint(curve if items > 1 else curve[0], shape=shape, n=199, seed=seed).p

    return case


def _walk(seed: int, d: int = 2) -> Tensor:
    """Independent units, each alike its own past."""
    noise = torch.randn(80, d, generator=torch.Generator().manual_seed(seed))
    out = [noise[0]]
    for e in noise[1:]:
        out.append(0.6 * out[-1] + e)
    return torch.stack(out)


def of_surrogate(kind: str) -> Case:
    """What each surrogate takes away, measured beside 39 of them: order, a skew in time, a relation of units."""

    def case(seed: int, effect: float) -> float:
        g = torch.Generator().manual_seed(seed)
        if kind == "time":
            x = _walk(seed) if effect else torch.randn(80, 2, generator=g)
            measure = lambda v: float((v[1:, 0] * v[:-1, 0]).mean())  # noqa: E731
        elif kind == "phase":  # linear and Gaussian, or slow to rise and quick to fall
            x = _walk(seed) + effect * 2 * (torch.arange(80) % 8)[:, None]
            measure = lambda v: abs(float(v.diff(dim=0)[:, 0].pow(3).mean()))  # noqa: E731
        else:
            x = _walk(seed)
            x[:, 1] += effect * x[:, 0]
            measure = lambda v: abs(float(torch.corrcoef(v.T)[0, 1]))  # noqa: E731
        return above(measure(x), [measure(nulls.surrogate(x, kind, seed=100 * seed + i)) for i in range(39)])

    return case


def _heads(seed: int, effect: float) -> tuple[list[tuple[int, int]], Tensor]:
    """Six chosen of 4 x 12 heads, mostly late ones, and which heads matter: late ones too, or those chosen."""
    g = torch.Generator().manual_seed(seed)
    late = torch.arange(4).double().repeat_interleave(12) + 0.2
    chosen = torch.multinomial(late, 6, generator=g)
    matter = torch.zeros(48)
    matter[torch.multinomial(late, 12, generator=g)] = 1
    matter[chosen[: round(5 * effect)]] = 1
    return [(int(i) // 12, int(i) % 12) for i in chosen], matter.reshape(4, 12)


def of_sets(how: str) -> Case:
    """Overlap of a chosen set (or order) with another, beside sets of the same layers."""

    def case(seed: int, effect: float) -> float:
        chosen, matter = _heads(seed, effect)

        def overlap(units: tuple[tuple[int, int], ...] | list[tuple[int, int]]) -> float:
            hit = torch.tensor([float(matter[u]) for u in units])
            return float(hit.cumsum(0).sum() if how == "orders" else hit.sum())

        if how == "orders":
            drawn = nulls.layer_matched_orders(chosen, 12, n=99, seed=seed)
        else:
            size = torch.rand(4, 12, generator=torch.Generator().manual_seed(seed + 1)) if how == "size" else None
            by = None if size is None else list(size)
            drawn = nulls.layer_matched_sets(chosen, 12, n=99, size=by, seed=seed)
        return above(overlap(chosen), [overlap(d) for d in drawn])

    return case


def directions(seed: int, effect: float) -> float:
    """A direction tells labels apart, beside 99 that vary as the data do."""
    x, y = rows(seed, 2 * effect, n=80)
    x = x @ torch.randn(8, 8, generator=torch.Generator().manual_seed(seed + 1))
    mine = x[y].mean(0) - x[~y].mean(0) if effect else nulls.random_directions(x[0], data=x, seed=seed + 5000)[0]
    tells = lambda d: abs(float((x[y] @ d).mean() - (x[~y] @ d).mean()))  # noqa: E731
    drawn = nulls.random_directions(mine, 99, data=x, seed=seed)
    return above(tells(mine), [tells(d) for d in drawn])


def of_curve(law: str, interval: str) -> Case:
    """Does the interval of a parameter leave out its true value (5 in 100)? Planted: another value is asked for."""

    def case(seed: int, effect: float) -> float:
        noise = torch.randn(24, generator=torch.Generator().manual_seed(seed)).double()
        t = torch.arange(1, 25).double()
        how = {"interval": interval, "n": 99, "seed": seed, "restarts": 8}
        if law == "line":
            fitted = curves.fit(
                t, 1 + 0.2 * effect * t + noise, lambda t, a, b: a + b * t, names=("a", "b"),
                starts={"a": (-2, 2), "b": (-1, 1)}, **how,
            )  # fmt: skip
            return found(fitted.params["b"].excludes(0.0))
        fitted = curves.fit(t, 2 - t ** -(0.5 + 0.5 * effect) + 0.02 * noise, law, **how)
        return found(fitted.params["alpha"].excludes(0.5))

    return case


CASES: dict[str, Case] = {
    "nulls.auc": of_kit("auc"),
    "nulls.auc, pairs of equal length": auc_of_equal_length,
    "nulls.correlation": of_kit("correlation"),
    "nulls.correlation, within groups": correlation_within,
    "nulls.sign_flip_test": of_kit("sign flip"),
    "nulls.permutation_test": of_kit("permutation"),
    "nulls.bootstrap, 95 % interval without 0": of_kit("bootstrap"),
    "nulls.bootstrap, rows of items, 95 % interval without 0": bootstrap_by,
    "nulls.share, interval above a half": share,
    "nulls.mcnemar": mcnemar,
    "nulls.max_over_family, best of 20": of_family("max"),
    "nulls.benjamini_hochberg, any of 20": of_family("bh"),
    "nulls.logistic_slope": of_slope(False),
    "nulls.logistic_slope, rows of items": of_slope(True),
    "nulls.changepoint, line, a single curve": of_changepoint("line", 1),
    "nulls.changepoint, step, a single curve": of_changepoint("step", 1),
    "nulls.changepoint, line, eight walks": of_changepoint("line", 8),
    "nulls.surrogate, time": of_surrogate("time"),
    "nulls.surrogate, phase": of_surrogate("phase"),
    "nulls.surrogate, units": of_surrogate("units"),
    "nulls.layer_matched_sets, overlap": of_sets("sets"),
    "nulls.layer_matched_sets of like size, overlap": of_sets("size"),
    "nulls.layer_matched_orders, area": of_sets("orders"),
    "nulls.random_directions, as the data vary": directions,
    "curves.fit, line, Jacobian interval without the truth": of_curve("line", "jacobian"),
    "curves.fit, line, bootstrap interval without the truth": of_curve("line", "bootstrap"),
    "curves.fit, power law, Jacobian interval without the truth": of_curve("power", "jacobian"),
}
