"""Which layer knows this? A probe at every site, in shared passes, scored on held-out rows beside shuffled labels.

1. Rows are divided into folds (or one split) in which no group is on both sides.
2. Labels in another order (inside each fold) are a second column of labels, and folds are further sets of rows: for
   `LogisticProbe` all of these are problems of one batch, which share every pass over the rows and leave as they are
   solved. Other probes are fitted one by one.
3. Every row is scored once, by the probe that has not seen it; intervals are drawn by group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.errors import InputError, ShapeError, SiteError
from inscape.core.nulls import Intervals, max_over_family
from inscape.core.progress import Progress, tell
from inscape.core.readout import Labels, Rows, classes_of, labels_of, picked, real_rows, shuffled, units_of
from inscape.core.trace import Trace
from inscape.read.probes.batched import held_out_values
from inscape.read.probes.logistic import LogisticProbe
from inscape.read.probes.scoring import check_metrics, codes, majority, r2, scored
from inscape.read.probes.selectivity import control_labels
from inscape.read.probes.splits import folds_of, split_of


@dataclass(frozen=True, eq=False)
class SiteScores:
    """How well a probe of each site does on held-out rows, beside the same with labels that mean nothing.

    scores: by metric, a value and interval a site. null: the first metric with labels shuffled, [shuffle, site].
    control_task: accuracy on labels drawn by type, where types were given. chance: what always saying the most
    frequent class gets (0 for numbers). probes: fitted on all rows (on the training rows of one split), by site.
    gradient: what each site's probe was solved to (largest entry), where it was iterated.
    """

    sites: tuple[str, ...]
    scores: dict[str, Intervals]
    null: Float[Tensor, "shuffle site"] | None
    control_task: Float[Tensor, " site"] | None
    chance: float
    probes: dict[str, Any] = field(repr=False)
    n: int
    n_held_out: int
    gradient: Float[Tensor, " site"] | None = None

    @property
    def metric(self) -> str:
        """The first metric: what the null and `best` are of."""
        return next(iter(self.scores))

    @property
    def value(self) -> Float[Tensor, " site"]:
        """The first metric, by site."""
        return self.scores[self.metric].value

    @property
    def best(self) -> str:
        """The site that scores highest; the first of equals."""
        return self.sites[int(self.value.argmax())]

    @property
    def control(self) -> Float[Tensor, " site"]:
        """The first metric with shuffled labels, mean over shuffles."""
        if self.null is None:
            raise InputError("no shuffled labels were fitted (control=None).")
        return self.null.mean(0)

    @property
    def p(self) -> Float[Tensor, " site"]:
        """How often shuffled labels do as well at their best site: corrected for looking at all of them.

        Needs shuffles=19 or more to say anything at 5 %.
        """
        if self.null is None:
            raise InputError("no shuffled labels were fitted (control=None).")
        return max_over_family(self.value, self.null).p

    @property
    def selectivity(self) -> Float[Tensor, " site"]:
        """Accuracy above that on the control task (Hewitt & Liang 2019)."""
        if self.control_task is None:
            raise InputError("there is no control task: give types=, a word or an entity a row.")
        return self.scores["accuracy"].value - self.control_task

    def direction(self, site: str, **named: Any) -> Direction:
        """What the probe of a site found, as a direction: `ins.add(scores.direction(scores.best), 4)`."""
        if site not in self.probes:
            raise SiteError(f"no probe was fitted at {site!r}; there are {', '.join(self.sites)}.")
        probe = self.probes[site]
        return probe.direction(named.pop("site", "") or getattr(probe, "site_", "") or site, **named)

    def __str__(self) -> str:
        rows = [f"{self.metric} on {self.n_held_out:,} held-out rows of {self.n:,}; chance {self.chance:.3f}"]
        width = max(map(len, self.sites))
        of = self.scores[self.metric]
        for i, site in enumerate(self.sites):
            null = "" if self.null is None else f"   shuffled {float(self.control[i]):.3f}"
            rows.append(f"{site:<{width}}  {of.value[i]:.3f} [{of.low[i]:.3f}, {of.high[i]:.3f}]{null}")
        return "\n".join(rows)


def probe_sites(
    rows: Mapping[str, Rows] | Any,
    labels: Labels,
    *,
    sites: str | Sequence[str] | None = None,
    probe: Any = None,
    folds: int = 5,
    test: Labels | None = None,
    groups: Labels | None = None,
    types: Labels | None = None,
    metrics: Sequence[str] | None = None,
    control: str | None = "shuffle",
    shuffles: int = 1,
    level: float = 0.95,
    seed: int = 0,
    progress: Progress = None,
) -> SiteScores:
    """A probe at every site of a store (or of a trace, or of {site: rows}), on the same held-out rows.

    rows: a `Store`, a `Trace` (its real tokens; labels of prompts are dealt to their tokens), or tensors and columns
        by site, all of the same rows. sites: a pattern or names; left out, all of them.
    labels: one a row. probe: settings, `LogisticProbe(tol=1e-6)` when left out; `RidgeProbe` for numbers.
    folds: each row is held out once. test: in place of folds, the mask or numbers of the rows to hold out.
    groups: of each row; rows of one group (a prompt, a city, a pair) are never on both sides, change labels together
        where they share one, and are drawn together for intervals.
    types: of each row, a word or entity, for the control task behind `selectivity`.
    metrics: "accuracy" when left out ("r2" for numbers); also "f1" and, for two classes, "auc".
    control: "shuffle", or None for no null. shuffles: 19 and more give `p`, corrected for the number of sites.
    Cost: for `LogisticProbe`, as one probe of all sites together: a Hessian is made where it pays, columns of labels
    and folds share all passes over rows, sites leave once solved. Others: sites x folds x columns fits.
    Raises: InputError for splits that cannot be, as the probe's fit; ShapeError for sites of unlike rows.
    Source: Alain & Bengio 2016, arXiv:1610.01644; the control as in Hewitt & Liang 2019, arXiv:1909.03368.
    """
    labels, groups, found = _given(rows, labels, groups, sites)
    probe = probe if probe is not None else LogisticProbe(tol=1e-6)
    n = len(next(iter(found.values())))
    if control not in (None, "shuffle"):
        raise InputError(f"control={control!r} is none of probe_sites; it can be 'shuffle' or None.")
    is_numbers = getattr(type(probe), "target", "") in ("numbers", "rows")
    if is_numbers:
        truth = torch.from_numpy(labels_of(labels, n).astype("float64"))
        classes = np.array([])
    else:
        classes, truth = classes_of(labels, n)
    metrics = tuple(metrics) if metrics is not None else ("r2",) if is_numbers else ("accuracy",)
    check_metrics(metrics, ("r2",) if is_numbers else ("accuracy", "f1", "auc"))
    if test is not None:
        splits = [split_of(test, n, groups)]
    else:
        fold = folds_of(truth.numpy(), folds, groups=groups, stratify=not is_numbers, seed=seed)
        splits = [((fold != k).nonzero()[:, 0], (fold == k).nonzero()[:, 0]) for k in range(folds)]
    side = np.zeros(n, int)  # of each row: the fold that holds it out; 0 for rows that are only learned from
    for k, (_, rows_out) in enumerate(splits):
        side[rows_out.numpy()] = k + 1
    columns = [truth]
    columns += [_another(truth, seed + i, groups, side) for i in range(shuffles if control else 0)]
    n_null = len(columns) - 1
    if types is not None:
        columns.append(torch.from_numpy(control_labels(types, truth.numpy(), seed=seed)))
    held = torch.cat([rows for _, rows in splits]).sort().values
    for k, (train, _) in enumerate(splits):
        if not is_numbers and len(truth[train].unique()) < len(classes):
            raise InputError(f"split {k} has not every class among its training rows: take fewer folds.")
    made = _batched if isinstance(probe, LogisticProbe) else _one_by_one
    values, probes, gradient = made(found, probe, columns, classes, splits, held, progress)
    by = None if groups is None else labels_of(groups, n, "groups")[held.numpy()]
    scores = {
        m: scored(m, values[0], columns[0][held] if not is_numbers else columns[0][held, None], by=by, level=level)
        for m in metrics
    }
    null = None
    if n_null:
        null = torch.stack([_plain(metrics[0], values[1 + i], columns[1 + i][held], seed) for i in range(n_null)])
    task = None
    if types is not None and not is_numbers:
        task = (codes(values[-1]) == columns[-1][held]).double().mean(1)
    chance = 0.0 if is_numbers else 0.5 if metrics[0] == "auc" else majority(truth[held])
    return SiteScores(tuple(found), scores, null, task, chance, probes, n, len(held), gradient)


def _given(
    rows: Any, labels: Labels, groups: Labels | None, sites: str | Sequence[str] | None
) -> tuple[Labels, Labels | None, dict[str, Rows]]:
    """Rows by site, from a store, a trace or a mapping."""
    names = list(rows.sites) if hasattr(rows, "sites") and not isinstance(rows, Mapping) else list(rows)
    if sites is not None:
        wanted = [sites] if isinstance(sites, str) else list(sites)
        names = [name for name in names if any(fnmatchcase(name, pattern) for pattern in wanted)]
    if not names:
        there = ", ".join(list(rows)[:8])
        raise SiteError(f"there is no site to probe{f' like {sites!r}' if sites else ''}; the rows are of {there}.")
    found: dict[str, Rows] = {name: rows[name] for name in names}
    if isinstance(rows, Trace) and rows.mask is not None and next(iter(found.values())).ndim > 2:
        real = {name: real_rows(rows[name], rows.mask) for name in names}
        prompt = next(iter(real.values()))[1]
        found = {name: x for name, (x, _) in real.items()}
        if len(labels) == len(rows.mask) != len(prompt):
            labels = labels_of(labels, len(rows.mask))[prompt.numpy()]
            groups = prompt if groups is None else labels_of(groups, len(rows.mask), "groups")[prompt.numpy()]
    n = len(found[names[0]])
    for name, x in found.items():
        units_of(x, name)
        if len(x) != n:
            raise ShapeError(f"{name} has {len(x):,} rows and {names[0]} has {n:,}: all sites need the same rows.")
    return labels, groups, found


def _another(truth: Tensor, seed: int, groups: Labels | None, side: np.ndarray) -> Tensor:
    """Labels in another order: those of whole groups where a group has one, else inside groups.

    Every fold keeps the labels it has, where it has several: folds are made (and splits chosen) so that all hold about
    as many of each class. Labels shuffled over all rows would not be spread like that, which costs accuracy, and the
    null would be lower than what labels without any meaning give: p would be too small.
    """
    if all(len(truth[torch.from_numpy(side == k)].unique()) < 2 for k in np.unique(side)):
        side = np.zeros_like(side)  # such as one group a fold
    if groups is None:
        return shuffled(truth, seed, within=side)
    named = labels_of(groups, len(truth), "groups")
    out = truth.clone()
    try:
        for k in np.unique(side):
            rows = torch.from_numpy(np.flatnonzero(side == k))
            out[rows] = shuffled(truth[rows], seed + 1_000_003 * int(k), by=named[rows.numpy()])
    except InputError:
        return shuffled(truth, seed, within=groups)
    return out


def _plain(metric: str, z: Tensor, truth: Tensor, seed: int) -> Float[Tensor, " site"]:
    if metric == "accuracy":
        return (codes(z) == truth).double().mean(1)
    if metric == "r2":
        return torch.tensor([r2(truth[:, None], one) for one in z], dtype=torch.float64)
    return scored(metric, z, truth, seed=seed).value


def _batched(
    found: dict[str, Rows], probe: LogisticProbe, columns: list[Tensor], classes: np.ndarray, splits: list,
    held: Tensor, progress: Progress,
) -> tuple[list[Tensor], dict[str, Any], Tensor]:  # fmt: skip
    by_width: dict[int, dict[str, Rows]] = {}
    for name, x in found.items():
        by_width.setdefault(units_of(x, name), {})[name] = x
    parts = {}
    probes: dict[str, Any] = {}
    for same in by_width.values():
        one = held_out_values(same, probe, columns, classes, splits, held, progress)
        parts |= dict(zip(same, zip(one.values, one.gradient, strict=True), strict=True))
        probes |= one.probes
    values = [torch.stack([parts[name][0][c] for name in found]) for c in range(len(columns))]
    return values, {name: probes[name] for name in found}, torch.stack([parts[name][1] for name in found])


def _one_by_one(
    found: dict[str, Rows], probe: Any, columns: list[Tensor], classes: np.ndarray, splits: list, held: Tensor,
    progress: Progress,
) -> tuple[list[Tensor], dict[str, Any], None]:  # fmt: skip
    """Any probe: its values on held-out rows, by column of labels and site."""
    place = torch.full((int(held.max()) + 1,), -1)
    place[held] = torch.arange(len(held))
    by_name = len(classes) and getattr(type(probe), "target", "") == "classes"
    out: list[list[Tensor]] = [[] for _ in columns]
    probes: dict[str, Any] = {}
    for i, (name, x) in enumerate(found.items()):
        tell(progress, f"probing {name}", i / len(found))
        for c, code in enumerate(columns):
            y = classes[code.numpy()] if by_name else code
            z: Tensor | None = None
            for train, rows in splits:
                fitted = replace(probe).fit(picked(x, train), y[train])
                one = fitted.transform(picked(x, rows)).double().reshape(len(rows), -1)
                if len(classes) == 2 and one.shape[1] == 2:
                    one = one[:, 1:] - one[:, :1]
                z = torch.zeros(len(held), one.shape[1], dtype=torch.float64) if z is None else z
                z[place[rows]] = one
                if c == 0 and len(splits) == 1:
                    probes[name] = fitted
            assert z is not None
            out[c].append(z)
        if len(splits) > 1:
            probes[name] = replace(probe).fit(x, classes[columns[0].numpy()] if by_name else columns[0])
    return [torch.stack(zs) for zs in out], probes, None
