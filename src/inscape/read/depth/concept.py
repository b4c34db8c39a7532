"""At which depth a labelled property of texts can be read out of a model, beside what could be read without it.

1. One pass over the texts keeps the state of one position at every site.
2. A probe a site and fold; every score is of items whose group the probe has not seen.
3. The same on shuffled labels, on counts of the tokens, on the mean embedding, and on labels drawn at random for each
   group with groups torn apart (the control task, whose distance is the selectivity).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError, ModelError, NotFiniteError, ShapeError
from inscape.core.nulls import Intervals
from inscape.core.progress import Progress, tell
from inscape.core.readout import Labels, Rows, classes_of, labels_of, shuffled
from inscape.engine.forward import run
from inscape.models.model import Model
from inscape.read.depth.held_out import held_out
from inscape.read.depth.summary import Points, points_of
from inscape.read.probes.logistic import LogisticProbe
from inscape.read.probes.ridge import RidgeProbe
from inscape.read.probes.scoring import check_metrics, codes, r2, scored
from inscape.read.probes.selectivity import control_labels
from inscape.read.probes.splits import folds_of

BATCH_TOKENS = 4096
N_WORDS = 2000  # the commonest tokens that are counted


@dataclass(frozen=True, eq=False)
class DepthProfile:
    """Scores of a probe at every site, on items it has not seen, with what stands beside them.

    scores: metric -> [site] with 95 % intervals by group. shuffled: metric -> [site], labels in another order.
    words, embedding: metric -> score of the same probe on counts of tokens, and on the mean of the embeddings: what
    needs no layer. selectivity: accuracy minus that on labels drawn for each group, [site]; None where every group is
    one item. per_item: 1 where right, or minus the squared error over the variance, [site, item]. classes: () for
    numbers. folds: on which the items were tested.
    """

    sites: tuple[str, ...]
    classes: tuple[Any, ...]
    scores: dict[str, Intervals]
    shuffled: dict[str, Float[Tensor, " site"]]
    words: dict[str, float]
    embedding: dict[str, float]
    selectivity: Float[Tensor, " site"] | None
    per_item: Float[Tensor, "site item"]
    groups: Int[Tensor, " item"]
    position: str
    about: str = field(default="")
    folds: int = 5

    def curve(self, metric: str | None = None) -> Float[Tensor, " site"]:
        """Scores of a metric, the first one when left out."""
        return self.scores[metric or next(iter(self.scores))].value

    def points(self, *, metric: str | None = None, jump: float = 1.1, flat: float = 0.03) -> Points:
        """Jump, converging and peak point of the curve, see `points_of`."""
        return points_of(self.curve(metric).tolist(), jump=jump, flat=flat)

    @property
    def acquired(self) -> bool:
        """Does the best site beat words, embedding and every shuffled score, its interval wholly above all of them?"""
        name, made = next(iter(self.scores.items()))
        beside = max(self.words[name], self.embedding[name], float(self.shuffled[name].max()))
        return float(made.low[int(made.value.argmax())]) > beside

    def rows(self) -> list[dict[str, Any]]:
        """One row a site, for tables."""
        out = []
        for i, site in enumerate(self.sites):
            row: dict[str, Any] = {"site": site}
            for name, made in self.scores.items():
                row |= {name: float(made.value[i]), f"{name}_low": float(made.low[i]), f"{name}_high":
                        float(made.high[i]), f"{name}_shuffled": float(self.shuffled[name][i])}  # fmt: skip
            row["selectivity"] = None if self.selectivity is None else float(self.selectivity[i])
            out.append(row)
        return out


def depth_profile(
    model: Model,
    texts: Sequence[Any],
    labels: Labels,
    site: Any = "layers.*.resid_post",
    position: Any = "last",
    *,
    probe: Any = None,
    cv: int = 5,
    metrics: Sequence[str] = (),
    groups: Labels | None = None,
    template: str = "",
    seed: int = 0,
    progress: Progress = None,
) -> DepthProfile:
    """Probe every site for a label of the texts: at which depth can it be read linearly, and was it there before?

    labels: names or whole numbers are classes; floats are numbers, probed by ridge regression. position: "last",
    "mean", or a position among real tokens. probe: a readout with `fit` and `transform`; `LogisticProbe(C=1)` on
    standardised units when left out, `RidgeProbe` for numbers. metrics: "accuracy", "f1", "auc" (two classes); "r2" for
    numbers; the first of them when left out. groups: items that belong together (the same city, word, pair of names):
    they stay in one fold, and intervals draw them whole. template: kept in the result.
    Choose `profile_of` for states that are recorded already; `compare_profiles` for noise, rounding or tuning.
    Cost: one forward a text without the head, then (3 x cv) probes a site, solved together for the default probe.
    Raises: InputError for one class or fewer groups than folds, NotFiniteError for states that are not finite.
    Source: Jin et al. 2024, arXiv:2404.07066; the block's output by default where their code reads the normed input of
    the MLP (`site="layers.*.mlp.in"`), folds in place of one split, and the controls.
    """
    sites = list(model.sites(*([site] if isinstance(site, str) else site)).names)
    tell(progress, f"reading {len(sites)} sites of {len(texts)} texts", 0.0)
    first = f"{model.blocks[0].name}.resid_pre"
    if first not in model.sites:
        raise ModelError(f"{type(model.module).__name__} has no {first}, so there is no embedding to compare with.")
    states, embedded, counts = text_states(model, texts, sites, position, first)
    made = profile_of(states, labels, probe=probe, cv=cv, metrics=metrics, groups=groups, seed=seed, words=counts,
                      embedding=embedded, progress=progress)  # fmt: skip
    return replace(made, position=str(position), about=template)


def profile_of(
    states: Mapping[str, Rows],
    labels: Labels,
    *,
    words: Rows,
    embedding: Rows,
    probe: Any = None,
    cv: int = 5,
    metrics: Sequence[str] = (),
    groups: Labels | None = None,
    seed: int = 0,
    progress: Progress = None,
) -> DepthProfile:
    """The same from states that are there: tensors or columns of a store, one row an item.

    words, embedding: rows of the same items that need no layer, such as counts of tokens and mean embeddings.
    Raises: as `depth_profile`; ShapeError where rows and labels differ in number.
    """
    n = len(next(iter(states.values())))
    held = labels_of(labels, n)
    names = np.arange(n) if groups is None else labels_of(groups, n, "groups")
    _, group = np.unique(names, return_inverse=True)
    is_number = held.dtype.kind == "f"
    chosen = tuple(metrics) or (("r2",) if is_number else ("accuracy",))
    check_metrics(chosen, ("r2",) if is_number else ("accuracy", "f1", "auc"))
    classes, target = (np.array([]), torch.from_numpy(held).double()) if is_number else classes_of(held, n)
    probe = probe or (RidgeProbe() if is_number else LogisticProbe(tol=1e-6))
    folds = folds_of(target.numpy(), cv, groups=names, stratify=not is_number, seed=seed)
    dark = _shuffled(target, names, seed)
    task, shuffled_values = held_out(states, [target, dark], classes, folds, probe, progress=progress)
    beside = {name: held_out({name: x}, [target], classes, folds, probe)[0] for name, x in
              (("words", words), ("embedding", embedding))}  # fmt: skip

    def plain(metric: str, z: Tensor, truth: Tensor) -> Float[Tensor, " site"]:
        if metric == "accuracy":
            return (codes(z) == truth).double().mean(1)
        if metric == "r2":
            return torch.tensor([r2(truth[:, None], one) for one in z], dtype=torch.float64)
        return scored(metric, z, truth).value

    truth = target[:, None] if is_number else target
    scores = {m: scored(m, task, truth, by=group, seed=seed) for m in chosen}
    low = {name: {m: float(plain(m, z, target)[0]) for m in chosen} for name, z in beside.items()}
    if is_number:
        per_item = -(task[..., 0] - target).square() / target.var(correction=0).clamp(min=1e-12)
    else:
        per_item = (codes(task) == target).double()
    selectivity = None if is_number else _selectivity(states, target, names, classes, cv, probe, per_item, seed)
    return DepthProfile(tuple(states), tuple(classes.tolist()), scores,
                        {m: plain(m, shuffled_values, dark) for m in chosen}, low["words"], low["embedding"],
                        selectivity, per_item, torch.from_numpy(group), "as given", folds=cv)  # fmt: skip


def _selectivity(
    states: Mapping[str, Rows], target: Tensor, names: np.ndarray, classes: np.ndarray, cv: int, probe: Any,
    right: Float[Tensor, "site n"], seed: int,
) -> Float[Tensor, " site"] | None:  # fmt: skip
    """Accuracy minus that on a label drawn for each group, where rows of a group are on both sides."""
    if len(set(names.tolist())) == len(names):
        return None
    drawn = torch.from_numpy(control_labels(names, target.numpy(), seed=seed + 1))
    if len(drawn.unique()) < len(classes):
        return None
    folds = folds_of(drawn.numpy(), cv, seed=seed)
    (values,) = held_out(states, [drawn], classes, folds, probe)
    return right.mean(1) - (codes(values) == drawn).double().mean(1)


def _shuffled(target: Tensor, names: np.ndarray, seed: int) -> Tensor:
    """Labels in another order; whole groups change theirs where every group has one label."""
    first = dict(zip(names.tolist(), target.tolist(), strict=True))
    is_whole = all(first[name] == value for name, value in zip(names.tolist(), target.tolist(), strict=True))
    return shuffled(target, seed, by=names) if is_whole else shuffled(target, seed)


def text_states(
    model: Model, texts: Sequence[Any], sites: Sequence[str], position: Any, first: str
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """States of one position at every site, mean of the embeddings, and counts of the commonest tokens, by text."""
    if not len(texts):
        raise InputError("there are no texts to read.")
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    read: dict[str, Any] = {s: (s, [position] if isinstance(position, int) else position) for s in sites}
    read["mean embedding"] = (first, "mean")
    parts: dict[str, list[Tensor]] = {name: [] for name in read}
    bags: list[Tensor] = []
    step = 32
    for start in range(0, len(order), step):
        batch = [texts[i] for i in order[start : start + step]]
        trace = run(model, batch, read=read)
        if trace.tokens is None or trace.mask is None:
            raise InputError("these inputs are no tokens, so their words cannot be counted.")
        for name in read:
            value = trace[name].float()
            parts[name].append(value.reshape(len(batch), -1).cpu())
        bags += [t[m.bool()].cpu() for t, m in zip(trace.tokens, trace.mask, strict=True)]
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    whole = {name: torch.cat(x)[back] for name, x in parts.items()}
    for name, x in whole.items():
        if x.shape[0] != len(texts):
            raise ShapeError(f"{name} gave {x.shape[0]} states for {len(texts)} texts.")
        bad = ~torch.isfinite(x).all(1)
        if bool(bad.any()):
            raise NotFiniteError(f"the state of text {int(bad.nonzero()[0])} at {name} is not finite.")
    return {s: whole[s] for s in sites}, whole["mean embedding"], _counts([bags[i] for i in back.tolist()])


def _counts(bags: Sequence[Tensor]) -> Float[Tensor, "n word"]:
    """How often each of the commonest tokens is in each text."""
    seen, total = torch.cat(list(bags)).unique(return_counts=True)
    kept = seen[total.argsort(descending=True)[:N_WORDS]].sort().values
    out = torch.zeros(len(bags), len(kept))
    for row, bag in enumerate(bags):
        place = torch.searchsorted(kept, bag).clamp(max=len(kept) - 1)
        known = kept[place] == bag
        out[row].index_add_(0, place[known], torch.ones(int(known.sum())))
    return out
