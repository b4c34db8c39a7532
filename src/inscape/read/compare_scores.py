"""Does a number say something about an outcome: is it above chance, above the simple thing, above its surrogates?"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from inscape.core.errors import InputError, ShapeError
from inscape.core.interval import Interval
from inscape.core.nulls import benjamini_hochberg, permutation_p
from inscape.core.nulls.bootstrap import interval_of
from inscape.core.nulls.values import Values, array, flags, generator, groups, resamples, shuffles
from inscape.core.progress import Progress, tell
from inscape.tasks.split import folds


@dataclass(frozen=True, eq=False)
class ComparedScore:
    """What one score is worth. auc: cross-validated, 0.5 at chance. p: of shuffled labels; adjusted: for the number of
    scores looked at (Benjamini & Hochberg). gain: auc minus that of the score it is compared with; None for that score
    itself, or where there is none."""

    auc: Interval
    p: float
    adjusted: float
    gain: Interval | None

    @property
    def counts(self) -> bool:
        """Is it above chance, and above what it is compared with?"""
        return self.adjusted < 0.05 and (self.gain is None or self.gain.low > 0)


def compare_scores(
    scores: Mapping[str, Values],
    labels: Values,
    *,
    against: str | None = None,
    by: Values | None = None,
    n_folds: int = 5,
    repeats: int = 5,
    n: int = 500,
    level: float = 0.95,
    seed: int = 0,
    progress: Progress = None,
) -> dict[str, ComparedScore]:
    """How well each score tells a yes from a no on items it was not fitted on, beside chance and beside another score.

    A score is one number an item, or a few ([n, k], a representation). On the training folds its columns are scaled
    and weighed by the difference of the two classes' means; the AUC is that of the held-out folds, averaged over folds
    and repeats. For one number this only decides which way is up, as any monotone fit would.
    labels: yes or no an item. against: the score that the others have to beat. by: items that belong together are
    never on both sides of a fold, are drawn together, and labels are shuffled among whole groups where a group has one
    label, else inside groups. n: shuffles, and resamples.
    Cost: n x folds x repeats small products a score. Raises: InputError, ShapeError.
    Source: the three criteria of arXiv:2506.22516 (above chance, above a plain representation, above surrogates: give
    the surrogates' score as `against`); difference of means in place of logistic regression.
    """
    if not scores or (against is not None and against not in scores):
        raise InputError(f"against={against!r} is none of the scores {', '.join(scores) or '(none given)'}.")
    first = array(next(iter(scores.values())), "scores")
    yes = flags(labels, "labels", len(first)).astype(bool)
    columns = {name: _columns(value, name, len(yes)) for name, value in scores.items()}
    group = groups(by, "by", len(yes))
    places = [folds(yes, None if by is None else group, n=n_folds, seed=seed + r).numpy() for r in range(repeats)]
    draws = np.concatenate([yes[None], _shuffled(yes, group, n, generator(seed))])
    drawn = np.concatenate(list(resamples(int(group.max()) + 1, n, generator(seed + 1))))[:, group]
    null, boot = {}, {}
    for index, (name, x) in enumerate(columns.items()):
        tell(progress, f"how much {name} says", index / len(columns))
        null[name] = np.mean([_areas(x, draws, f) for f in places], axis=0)
        boot[name] = np.mean([_resampled(x, yes, f, drawn) for f in places], axis=0)
    p = {name: float(permutation_p(float(v[0]), v[1:])) for name, v in null.items()}
    adjusted = dict(zip(p, benjamini_hochberg(list(p.values())).tolist(), strict=True))
    out = {}
    for name, value in null.items():
        gain = None
        if against is not None and name != against:
            gain = interval_of(float(value[0] - null[against][0]), boot[name] - boot[against], level, len(yes))
        auc = interval_of(float(value[0]), boot[name], level, len(yes))
        out[name] = ComparedScore(auc, p[name], adjusted[name], gain)
    return out


def _columns(value: Values, name: str, n: int) -> Float[np.ndarray, "n k"]:
    held = array(value, name)
    held = held[:, None] if held.ndim == 1 else held
    if held.ndim != 2 or len(held) != n:
        raise ShapeError(f"{name} has the shape {held.shape} for {n} labels: one number or one row of numbers an item.")
    return held


def _shuffled(
    yes: Bool[np.ndarray, " n"], group: Int[np.ndarray, " n"], n: int, rng: np.random.Generator
) -> Bool[np.ndarray, "draws n"]:
    """Labels in other orders: among whole groups where each has one label, else inside groups."""
    size = np.bincount(group)
    share = np.bincount(group, weights=yes) / size
    if bool(((share == 0) | (share == 1)).all()):
        return np.stack([(share > 0.5)[rng.permutation(len(size))][group] for _ in range(n)])
    return np.concatenate([yes[order] for order in shuffles(n, group, rng)])


def _areas(
    x: Float[np.ndarray, "n k"], draws: Bool[np.ndarray, "draws n"], fold: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " draws"]:
    """The held-out AUC of each labelling: a mean over folds that hold both kinds."""
    total, count = np.zeros(len(draws)), np.zeros(len(draws))
    for i in np.unique(fold):
        test = fold == i
        score = _held_out(x, draws, test)
        y = draws[:, test]
        pairs = y.sum(1) * (~y).sum(1)
        rank = _ranks(score)
        won = (rank * y).sum(1) - y.sum(1) * (y.sum(1) + 1) / 2
        here = pairs > 0
        total += np.where(here, won / np.maximum(pairs, 1), 0.0)
        count += here
    return np.where(count > 0, total / np.maximum(count, 1), 0.5)


def _held_out(
    x: Float[np.ndarray, "n k"], draws: Bool[np.ndarray, "draws n"], test: Bool[np.ndarray, " n"]
) -> Float[np.ndarray, "draws m"]:
    """Scores of the test items, by the difference of means of scaled columns on the others."""
    mean, spread = x[~test].mean(0), x[~test].std(0)
    scaled = (x - mean) / np.where(spread > 0, spread, 1.0)
    y = draws[:, ~test].astype(float)
    positive, negative = y.sum(1, keepdims=True), (1 - y).sum(1, keepdims=True)
    weight = y @ scaled[~test] / np.maximum(positive, 1) - (1 - y) @ scaled[~test] / np.maximum(negative, 1)
    return weight @ scaled[test].T


def _resampled(
    x: Float[np.ndarray, "n k"],
    yes: Bool[np.ndarray, " n"],
    fold: Int[np.ndarray, " n"],
    drawn: Float[np.ndarray, "draws n"],
) -> Float[np.ndarray, " draws"]:
    """The AUC of held-out scores when items count as often as they were drawn."""
    total, count = np.zeros(len(drawn)), np.zeros(len(drawn))
    for i in np.unique(fold):
        test = fold == i
        score, y = _held_out(x, yes[None], test)[0], yes[test]
        above = (score[y][:, None] > score[~y][None]) + 0.5 * (score[y][:, None] == score[~y][None])
        w_yes, w_no = drawn[:, test][:, y], drawn[:, test][:, ~y]
        pairs = w_yes.sum(1) * w_no.sum(1)
        won = np.einsum("by,yn,bn->b", w_yes, above, w_no, optimize=True)
        total += np.where(pairs > 0, won / np.maximum(pairs, 1), 0.0)
        count += pairs > 0
    return np.where(count > 0, total / np.maximum(count, 1), 0.5)


def _ranks(score: Float[np.ndarray, "draws m"]) -> Float[np.ndarray, "draws m"]:
    """Ranks from 1 in each row, ties in the middle."""
    less = (score[:, None, :] < score[:, :, None]).sum(2)
    same = (score[:, None, :] == score[:, :, None]).sum(2)
    return less + (same + 1) / 2
