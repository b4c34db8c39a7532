"""Two runs that should answer differently, the place where one's activation is put into the other, and what it moves.

For every row: a base input, a source input, and a score that is high where the base's own answer is given (a logit
difference). What is put in place of the base's activation lowers it; 1 - after / before is the share that is lost.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.edits.sources import patch
from inscape.core.errors import InputError, ShapeError, TokenError
from inscape.core.interval import Interval
from inscape.core.nulls import bootstrap
from inscape.core.step import Step
from inscape.core.trace import Trace
from inscape.engine.forward import run
from inscape.engine.prefix import Prefix
from inscape.models.model import Model
from inscape.tasks.pairs import Pairs

Metric = Callable[[Any], Tensor]


@dataclass(frozen=True, eq=False)
class Contrast:
    """Base and source inputs, row by row, and the score of the base's answer.

    base, source: token ids row by row, or a tensor [row, ...] that the model takes. at, source_at: the one position a
    row where they are exchanged, [row]; None where the site has no positions.
    answer, wrong: ids of the base's answer and of the source's. metric: instead of these, a function of the model's
    output that gives one score a row.
    """

    base: Any
    source: Any
    at: Int[Tensor, " row"] | None = None
    source_at: Int[Tensor, " row"] | None = None
    answer: Int[Tensor, " row"] | None = None
    wrong: Int[Tensor, " row"] | None = None
    metric: Metric | None = None

    def __post_init__(self) -> None:
        if len(self.base) != len(self.source) or not len(self.base):
            raise InputError(f"{len(self.base)} base inputs and {len(self.source)} sources: give as many of each.")
        if self.metric is None and (self.answer is None or self.wrong is None):
            raise InputError("say what should flip: answer= and wrong= token ids, or metric=.")

    def __len__(self) -> int:
        return len(self.base)

    @classmethod
    def of(cls, pairs: "Pairs | Contrast", at: str | int = "end") -> "Contrast":
        """The contrast of prompt pairs: the clean prompt is the base, the corrupted one the source.

        at: a role of one token, or a position counted as in at=. Raises: InputError for a role that is not there, has
        several tokens, or pairs that are no contrast.
        """
        if isinstance(pairs, Contrast):
            return pairs
        same = [i for i, (a, b) in enumerate(zip(pairs.clean_ids, pairs.corrupted_ids, strict=True)) if a == b]
        if same:
            raise InputError(
                f"pair {same[0]} has no contrast: its clean and corrupted prompts are the same text"
                + (f" ({len(same)} such pairs).\n" if len(same) > 1 else ".\n")
                + "  what is exchanged between equal runs changes nothing; leave such pairs out."
            )
        own = _positions(pairs.roles, at, [len(ids) for ids in pairs.clean_ids])
        theirs = _positions(pairs.corrupted_roles, at, [len(ids) for ids in pairs.corrupted_ids])
        base, source = [list(ids) for ids in pairs.clean_ids], [list(ids) for ids in pairs.corrupted_ids]
        return cls(base, source, own, theirs, pairs.answer_ids, pairs.wrong_ids)

    def subset(self, rows: Sequence[int] | Int[Tensor, " row"]) -> "Contrast":
        """These rows, in this order."""
        index = torch.as_tensor(rows).long()

        def some(x: Any) -> Any:
            return x[index] if isinstance(x, Tensor) else None if x is None else [x[i] for i in index.tolist()]

        parts = (self.base, self.source, self.at, self.source_at, self.answer, self.wrong)
        return Contrast(*map(some, parts), metric=self.metric)

    def parts(self, batch: int) -> Iterator[tuple[slice, "Contrast"]]:
        """Batches of rows, with where they lie."""
        for start in range(0, len(self), batch):
            here = slice(start, min(start + batch, len(self)))
            yield here, self.subset(range(here.start, here.stop))

    def run(self, model: Model, which: str = "base", **options: Any) -> Trace:
        """Run the base or the source; the head at the last position alone where there is one."""
        output = options.pop("output", True if self.metric is not None else "last")
        return run(model, self.base if which == "base" else self.source, output=output, **options)

    def score(self, trace: Trace) -> Float[Tensor, " row"]:
        """The score of each row of a run: logit(answer) - logit(wrong), or the metric."""
        if self.metric is not None:
            value = self.metric(trace.output)
            if value.shape != (len(self),):
                raise ShapeError(f"metric= gave {tuple(value.shape)} for {len(self)} rows; it gives one score a row.")
            return value
        return self.score_of(trace.output.logits[:, -1])

    def score_of(self, logits: Float[Tensor, "row vocab"]) -> Float[Tensor, " row"]:
        """logit(answer) - logit(wrong) of each row."""
        assert self.answer is not None
        assert self.wrong is not None
        logits = logits.float()
        rows = torch.arange(len(self), device=logits.device)
        return logits[rows, self.answer.to(logits.device)] - logits[rows, self.wrong.to(logits.device)]

    def turned(self, trace: Trace) -> Bool[Tensor, " row"] | None:
        """Is the source's answer the top token? None without answers."""
        if self.metric is not None or self.wrong is None:
            return None
        return trace.output.logits[:, -1].argmax(-1).cpu() == self.wrong

    def prefix(self, model: Model, batch: int = 32) -> Prefix | None:
        """What all edited base runs share, to go on from; None for inputs or models with nothing to go on from."""
        if self.metric is not None or self.at is None or isinstance(self.base, Tensor):
            return None
        return Prefix.of(model, self.base, self.at.tolist(), batch)

    def value(self, trace: Trace, site: str, which: str = "base") -> Float[Tensor, "row *axes"]:
        """The site's value at the position of exchange."""
        x, at = trace[site], self.at if which == "base" else self.source_at
        if at is None:
            if x.shape[0] != len(self):
                raise ShapeError(f"{site} has {x.shape[0]} rows for {len(self)} inputs; say at which position.")
            return x
        step = Step.of_mask(trace.mask) if trace.mask is not None else Step.plain(x.shape[0], x.shape[1])
        real = step.real
        if x.ndim < 3 or x.shape[:2] != real.shape:
            raise ShapeError(f"{site} has the shape {tuple(x.shape)}, not one value for each position of a row.")
        column = (real == at[:, None]).long().argmax(1).to(x.device)
        return x[torch.arange(len(x), device=x.device), column]

    def put(self, site: str, value: Float[Tensor, "row *axes"], along: Tensor | None = None) -> Edit:
        """The edit that puts values at the position of exchange, whole or along a subspace."""
        if self.at is None:
            return patch(site, value, along=along)
        spread = value.new_zeros(len(value), int(self.at.max()) + 1, *value.shape[1:])
        spread[torch.arange(len(value)), self.at] = value
        return patch(site, spread, along=along, at=self.at[:, None])


@dataclass(frozen=True, eq=False)
class Effect:
    """What an exchange does. lost: 1 - mean score after / mean score before (FLDD), with its interval over rows: 0
    nothing, 1 gone, 2 turned round. interchange: share of rows whose top token is the source's answer. score: by row.
    """

    lost: Interval
    interchange: float | None
    score: Float[Tensor, " row"]


def values(
    model: Model, contrast: Contrast, site: str, batch: int = 32
) -> tuple[Float[Tensor, "row *axes"], Float[Tensor, "row *axes"]]:
    """The site's values at the position of exchange in the base runs and in the source runs."""
    found: dict[str, list[Tensor]] = {"base": [], "source": []}
    for _, part in contrast.parts(batch):
        for which, kept in found.items():
            kept.append(part.value(part.run(model, which, read=site, output=False), site, which))
    return torch.cat(found["base"]), torch.cat(found["source"])


def scores(
    model: Model, contrast: Contrast, edit: Callable[[Contrast, Any], Edit] | None = None, batch: int = 32,
    prefix: Prefix | None = None,
) -> tuple[Float[Tensor, " row"], Bool[Tensor, " row"] | None]:  # fmt: skip
    """The base runs' scores, with an edit made for each batch of rows, and whether the source's answer came out.

    edit: of some rows and their numbers. prefix: `contrast.prefix(model)`, where several edits are to be scored.
    """
    made, turned = [], []
    for here, part in contrast.parts(batch):
        if prefix is not None:
            logits = prefix.run(range(here.start, here.stop), edits_of(contrast, edit))
            made.append(part.score_of(logits).double().cpu())
            turned.append(logits.argmax(-1).cpu() == part.wrong)
            continue
        trace = part.run(model, edits=[edit(part, here)] if edit is not None else [])
        made.append(part.score(trace).double().cpu())
        turned.append(part.turned(trace))
    return torch.cat(made), None if turned[0] is None else torch.cat(turned)


def edits_of(
    contrast: Contrast, edit: Callable[[Contrast, Any], Edit] | None
) -> Callable[[list[int]], list[Edit]] | None:
    """An edit made for rows of the contrast, as `Prefix.run` asks for it."""
    return None if edit is None else lambda rows: [edit(contrast.subset(rows), rows)]


def gradients(model: Model, contrast: Contrast, site: str, batch: int = 32) -> Float[Tensor, "row *axes"]:
    """Gradient of each row's score at the position of exchange, in the base runs."""
    found = []
    for _, part in contrast.parts(batch):
        trace = part.run(model, read=site, grad=True, output=True if part.metric is not None else "last")
        (g,) = torch.autograd.grad(part.score(trace).sum(), trace[site])
        trace.values_[site] = g
        found.append(part.value(trace, site))
    return torch.cat(found)


def effect(
    before: Float[Tensor, " row"], after: Float[Tensor, " row"], turned: Bool[Tensor, " row"] | None, seed: int = 0
) -> Effect:
    """The share of the score that an exchange takes away, with its interval."""
    if len(before) < 2:
        whole = float(1 - after.mean() / before.mean())
        lost = Interval(whole, whole, whole, 0.95, len(before))
    else:
        lost = bootstrap((after, before), _share_lost, n=500, method="percentile", seed=seed)
    return Effect(lost, None if turned is None else float(turned.double().mean()), after)


def _share_lost(after: Tensor, before: Tensor) -> float:
    return float(1 - after.mean() / before.mean())


def _positions(roles: Any, at: str | int, lengths: Sequence[int]) -> Int[Tensor, " row"]:
    if isinstance(at, int):
        found = torch.tensor([at if at >= 0 else n + at for n in lengths])
        if bool((found < 0).any()) or bool((found >= torch.tensor(lengths)).any()):
            raise TokenError(f"at={at}: a prompt has {min(lengths)} tokens.")
        return found
    if at not in roles:
        raise InputError(f"there is no role {at!r}; these pairs have {', '.join(roles)}.")
    table = roles[at]
    if bool((table != table[:, :1]).any()):
        raise InputError(f"the role {at!r} has several tokens; an exchange happens at one position a row.")
    return table[:, 0]
