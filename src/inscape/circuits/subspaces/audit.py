"""Is a direction that flips an answer one that the model uses? Five signs of an illusion, and a verdict.

A direction can flip the output though the model does not use it: one part of it goes along with the feature and is
seen by nobody (null), another drives the output and is silent on real inputs (dormant). The signs:
1. null share     much of V lies outside what the reader reads;
2. row test       the part that is read, exchanged alone, loses most of the effect;
3. beyond full    exchanging V does more than exchanging the whole site;
4. separation     the feature lies in the null part and not in the part that is read;
5. dormant share  much of the effect runs through directions in which real inputs hardly vary.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.circuits.subspaces.contrast import Contrast, Effect, effect, gradients, scores, values
from inscape.circuits.subspaces.das import Subspace
from inscape.circuits.subspaces.natural import dormant_share
from inscape.circuits.subspaces.readers import Split, reader_of, split
from inscape.core.direction import Direction
from inscape.core.edit import Edit
from inscape.core.errors import InputError, ModelError, ShapeError
from inscape.core.nulls import auc, random_directions
from inscape.models.model import Model
from inscape.tasks.pairs import Pairs

VERDICTS = ("supported", "illusion-like", "inconclusive")


@dataclass(frozen=True)
class Thresholds:
    """Bounds of the verdict.

    effect: least share of the score that V must take away. kept, lost: the part that is read keeps at least, or less
    than, this share of V's effect. beyond: V takes away this much more than the whole site. dormant: share of the
    effect through directions that real inputs do not use. null: |V_null| / |V|.
    """

    effect: float = 0.1
    kept: float = 0.8
    lost: float = 0.5
    beyond: float = 0.2
    dormant: float = 0.6
    null: float = 0.3


@dataclass(frozen=True, eq=False)
class Audit:
    """What an audit found. effects: of V, of its parts "row" and "null", of the whole site ("full").

    random: share lost by each random direction of the site; the effect of V has to be larger than their mean size (in a
    site of few dimensions a random direction does a good deal).
    row_test: "kept", "lost", "between", or "uninformative" where the reader has no more dimensions than V (its part
    that is read is then the read-out itself). separation: |2 AUC - 1| of the feature along each part, with V. dormant:
    see `dormant_share`; dormant_full: the same of the whole exchange, which real inputs do make: what it is by chance.
    reasons: the signs that led to the verdict.
    """

    site: str
    reader: str
    split: Split
    effects: dict[str, Effect]
    random: Float[Tensor, " n"]
    row_test: str
    separation: dict[str, float]
    dormant: float
    dormant_full: float
    n_natural: int
    verdict: str
    reasons: tuple[str, ...]
    thresholds: Thresholds = field(default_factory=Thresholds)

    def __str__(self) -> str:
        e = self.effects
        by_chance = float(self.random.abs().mean())
        lines = [
            f"{self.site}: {self.verdict}",
            f"  share lost    V {e['V'].lost.value:.3f}, part read {_said(e.get('row'))}, part not read "
            f"{_said(e.get('null'))}, whole site {e['full'].lost.value:.3f}, random {by_chance:.3f} on average",
            f"  |V_null|/|V|  {self.split.null_share:.3f} (reader: {self.reader}, rank {self.split.rank})",
            f"  row test      {self.row_test}",
            f"  dormant       {self.dormant:.3f} (whole exchange {self.dormant_full:.3f}; natural directions "
            f"{self.n_natural})",
            "  separation    " + ", ".join(f"{name} {value:.3f}" for name, value in self.separation.items()),
            *(f"  because       {reason}" for reason in self.reasons),
        ]
        return "\n".join(lines)


def audit(
    model: Model, site: str, V: Direction | Subspace | Tensor, pairs: Pairs | Contrast, *, reader: Any = "auto",
    at: str | int = "end", labels: Tensor | None = None, data: Float[Tensor, "row *axes"] | None = None,
    thresholds: Thresholds | None = None, n_random: int = 8, tol: float | None = None, batch: int = 32, seed: int = 0,
) -> Audit:  # fmt: skip
    """Check whether a direction (or subspace) that flips an answer is one the model uses; see the module's docstring.

    V: from anywhere: a search, a probe, a difference of means. reader: who reads the site, see `readers.reader_of`;
    "auto" takes the weights that follow an MLP's neurons or heads' z, and asks for more elsewhere.
    labels: the class of each pair, for the separation; base against source when left out. data: values of the site on
    ordinary inputs, which say in which directions it varies; the pairs' own when left out.
    Cost: 3 + n_random runs of the base from the position of exchange on, three whole ones, two of the source, one
    gradient, and the reader's.
    Raises: InputError for pairs whose answers do not differ; EditError for V without full rank; ModelError for V of
    another model, or a site without a linear reader.
    Source: Makelov et al. 2023, arXiv:2311.17030; the dormant share is ours.
    """
    bounds = thresholds or Thresholds()
    contrast = Contrast.of(pairs, at)
    v = _columns(V, site, model)
    base, source = values(model, contrast, site, batch)
    if base[0].numel() != len(v):
        raise ShapeError(f"{site} has {base[0].numel()} units, V has {len(v)}.")
    before, _ = scores(model, contrast, batch=batch)
    after_source, _ = scores(model, _turned(contrast), batch=batch)
    if float(before.mean()) <= max(0.0, float(after_source.mean()) + 1e-6):
        raise InputError(
            "these pairs are no contrast for this model: the base's answer is ahead by "
            f"{float(before.mean()):.3g} on the base and by {float(after_source.mean()):.3g} on the source.\n"
            "  nothing can be taken away; keep the pairs that the model answers right, pairs.answered_by(model)."
        )
    found = reader_of(model, site, reader, contrast, tol=tol)
    prefix = contrast.prefix(model, batch)
    parts = split(v, found)

    def exchanged(along: Tensor | None) -> Effect:
        kept = along.to(base.dtype) if along is not None else None

        def put(part: Contrast, rows: Any) -> Edit:
            return part.put(site, source[rows], kept)

        return effect(before, *scores(model, contrast, put, batch, prefix), seed)

    effects = {"V": exchanged(v), "full": exchanged(None)}
    effects |= {n: exchanged(part) for n, part in (("row", parts.row), ("null", parts.null)) if part.shape[1]}
    drawn = random_directions(v[:, 0], n_random * v.shape[1], seed=seed).reshape(n_random, v.shape[1], -1)
    random = torch.tensor([exchanged(d.T).lost.value for d in drawn])
    flat_base, flat_source = (x.flatten(1).double().cpu() for x in (base, source))
    natural = torch.cat([flat_base, flat_source]) if data is None else data.flatten(1).double().cpu()
    slope = gradients(model, contrast, site, batch).flatten(1).double().cpu()
    dormant, whole, n_natural = dormant_share(v, flat_source - flat_base, slope, natural)
    separation = _separation({"V": v, "row": parts.row, "null": parts.null}, flat_base, flat_source, labels)
    row_test = _row_test(effects, parts, v.shape[1], bounds)
    verdict, reasons = judged(effects, parts, row_test, float(random.abs().mean()), dormant, bounds)
    return Audit(
        site, found.what, parts, effects, random, row_test, separation, dormant, whole, n_natural, verdict, reasons,
        bounds,
    )  # fmt: skip


def judged(
    effects: dict[str, Effect], parts: Split, row_test: str, random: float, dormant: float, bounds: Thresholds
) -> tuple[str, tuple[str, ...]]:
    """The verdict on the signs, and its reasons."""
    v, full = effects["V"].lost.value, effects["full"].lost.value
    if v < bounds.effect or v <= random:
        return "inconclusive", (f"V takes away {v:.3f} of the score, random directions {random:.3f} on average",)
    signs = {
        f"the part that is read keeps {_kept(effects):.2f} of the effect": row_test == "lost",
        f"V does {v - full:.2f} more than the whole site": v - full > bounds.beyond,
        f"{dormant:.2f} of the effect runs through directions that real inputs do not use": dormant > bounds.dormant,
    }
    against = tuple(reason for reason, is_there in signs.items() if is_there)
    heavy = row_test == "lost" or dormant > bounds.dormant or parts.null_share > bounds.null
    if against and heavy and (row_test != "kept" or len(against) > 1):
        return "illusion-like", against
    if not against and row_test in ("kept", "uninformative"):
        kept = f"the part that is read keeps {_kept(effects):.2f} of the effect"
        return "supported", ((kept,) if row_test == "kept" else ()) + (
            f"V does no more than the whole site ({v:.2f} and {full:.2f})",
            f"{dormant:.2f} of the effect runs through directions that real inputs do not use",
        )
    return "inconclusive", against or (f"row test: {row_test}",)


def _columns(V: Direction | Subspace | Tensor, site: str, model: Model) -> Float[Tensor, "d k"]:
    if isinstance(V, (Direction, Subspace)):
        if V.site != site:
            raise InputError(f"V lives at {V.site}, and {site} was to be audited.")
        if V.model and V.model != model.fingerprint:
            raise ModelError(f"V was found on another model ({V.model}); this one is {model.fingerprint}.")
    if isinstance(V, Direction):
        v = V.vector.reshape(-1, 1)
    else:
        v = V.V if isinstance(V, Subspace) else V.reshape(len(V), -1)
    if int(torch.linalg.matrix_rank(v.double())) < v.shape[1]:
        raise InputError(f"V has {v.shape[1]} columns that are not independent: its rank is lower.")
    return v.detach().cpu().float()


def _turned(contrast: Contrast) -> Contrast:
    """The sources as bases, scored for the base's answer."""
    return Contrast(
        contrast.source,
        contrast.base,
        contrast.source_at,
        contrast.at,
        contrast.answer,
        contrast.wrong,
        contrast.metric,
    )


def _separation(parts: dict[str, Tensor], base: Tensor, source: Tensor, labels: Tensor | None) -> dict[str, float]:
    """|2 AUC - 1| along the first axis of each part: 0 no separation, 1 perfect."""
    if labels is None:
        x, label = torch.cat([base, source]), torch.cat([torch.zeros(len(base)), torch.ones(len(source))])
    else:
        x, label = base, torch.as_tensor(labels)
    out = {}
    for name, part in parts.items():
        if part.shape[1] == 0:
            continue
        along = x @ part.double()
        if part.shape[1] > 1:  # the direction that tells the classes apart within the part
            along = along @ (along[label == 1].mean(0) - along[label == 0].mean(0))
        out[name] = abs(2 * float(auc(along.flatten(), label, n=100)) - 1)
    return out


def _row_test(effects: dict[str, Effect], parts: Split, k: int, bounds: Thresholds) -> str:
    if parts.rank <= k:
        return "uninformative"
    kept = _kept(effects)
    return "kept" if kept >= bounds.kept else "lost" if kept < bounds.lost else "between"


def _kept(effects: dict[str, Effect]) -> float:
    """The share of V's effect that its part that is read has alone."""
    return effects["row"].lost.value / effects["V"].lost.value if "row" in effects else 0.0


def _said(found: Effect | None) -> str:
    return "none" if found is None else f"{found.lost.value:.3f}"
