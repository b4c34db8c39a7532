"""What steering did at each dose: its effect, what it cost, and what controls of the same size did."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, log
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.directions import Directions
from inscape.core.edit import Edit
from inscape.core.edits.add import add
from inscape.core.errors import EditError, FileError, InputError
from inscape.core.interval import Interval
from inscape.core.nulls import Intervals, bootstrap, bootstrap_each
from inscape.core.tensor_file import read_tensors, write_tensors

VERSION = 1
TWICE = log(2)  # nats a token: text twice as perplexing
REPEATED = 0.2  # more repeated pairs of tokens than without steering, as a share
MEASURES = ("scores", "kls", "losses", "repeats")


@dataclass(frozen=True, eq=False)
class Best:
    """The dose that was chosen, with what it does on prompts that it was not chosen on (`on` says which they are).

    effect, base: the judge's mean score with and without steering; change: their paired difference; kl: nats a token;
    fluency, base_fluency: nats a token of the generated texts under the unsteered model; controls: the mean score of
    each control at this dose.
    """

    dose: float
    on: str
    effect: Interval
    base: Interval
    change: Interval
    kl: Interval
    fluency: Interval
    base_fluency: Interval
    controls: dict[str, Interval]
    edits: list[Edit]


@dataclass(frozen=True, eq=False)
class Dose:
    """A dose-response: what the judge said, KL, fluency and repetition, by curve ("direction", controls) and dose.

    scores [curve, dose, prompt]: the judge's. kls: nats a token along the unsteered continuation. losses: nats a token
    of the generated text under the unsteered model. repeats: share of pairs of neighbouring tokens that came before.
    neutral [curve, dose, text]: nats a token of other texts under steering; retention [curve, dose]: another task's
    score. texts[curve][dose]: what was generated, by prompt. validation: prompts that `best` chooses on. goal: whether
    the score should "raise" or "lower". notes: what was left out, and why.
    """

    curves: tuple[str, ...]
    doses: tuple[float, ...]
    unit: str
    at: Any
    direction: Directions
    judge: str
    goal: str
    prompts: tuple[str, ...]
    texts: tuple[tuple[tuple[str, ...], ...], ...]
    scores: Float[Tensor, "curve dose prompt"]
    kls: Float[Tensor, "curve dose prompt"]
    losses: Float[Tensor, "curve dose prompt"]
    repeats: Float[Tensor, "curve dose prompt"]
    neutral_losses: Float[Tensor, "curve dose text"] | None
    retention: Float[Tensor, "curve dose"] | None
    validation: Bool[Tensor, " prompt"]
    notes: tuple[str, ...] = ()

    @cached_property
    def effect(self) -> Intervals:
        """The judge's mean score, [curve, dose], with its interval by prompt."""
        return _means(self.scores)

    @cached_property
    def kl(self) -> Intervals:
        """KL(unsteered || steered) in nats a token, [curve, dose]."""
        return _means(self.kls)

    @cached_property
    def fluency(self) -> Intervals:
        """Cross-entropy of the generated text under the unsteered model, nats a token, [curve, dose]."""
        return _means(self.losses)

    @property
    def perplexity(self) -> Float[Tensor, "curve dose"]:
        """exp of `fluency`: lower is more fluent, though text that repeats itself is lowest."""
        return self.fluency.value.exp()

    @cached_property
    def repetition(self) -> Intervals:
        """Share of repeated pairs of tokens, [curve, dose]."""
        return _means(self.repeats)

    @cached_property
    def neutral(self) -> Intervals | None:
        """Cross-entropy of the unrelated texts under steering, nats a token, [curve, dose]."""
        return None if self.neutral_losses is None else _means(self.neutral_losses)

    def index(self, dose: float) -> int:
        """Where a dose stands among `doses`. Raises: InputError for one that was not given."""
        near = min(range(len(self.doses)), key=lambda i: abs(self.doses[i] - dose))
        if abs(self.doses[near] - dose) > 1e-9 * max(1.0, abs(dose)):
            raise InputError(f"there is no dose {dose:g}; there are {', '.join(f'{d:g}' for d in self.doses)}.")
        return near

    def edits(self, dose: float) -> list[Edit]:
        """The edits of a dose, this or any other, ready for a run."""
        return add(self.direction, dose, unit=self.unit, at=self.at)

    def best(self, kl_budget: float | None = None, *, force: bool = False) -> Best:
        """The dose of the largest effect within a budget of mean KL: chosen on some prompts, measured on others.

        Without a budget any KL will do. Dose 0 is always among them. force: choose and measure on the same prompts,
        where all are for measuring; the effect is then too good, the more doses there are.
        Raises: InputError for a budget that is not above 0, or without prompts to choose on.
        """
        if kl_budget is not None and not kl_budget > 0:
            raise InputError(f"kl_budget={kl_budget}: it is a KL in nats a token, above 0.")
        held = bool(self.validation.any()) and not bool(self.validation.all())
        if not held and not force:
            raise InputError(
                "the dose would be chosen and tested on the same prompts, which makes small gains of none.\n"
                "  call dose_response with validation=0.5, or pass force=True and say that you did."
            )
        chosen_on = self.validation if held else torch.ones_like(self.validation)
        mine, kl = self.scores[0][:, chosen_on].mean(1), self.kls[0][:, chosen_on].mean(1)
        allowed = kl <= (kl_budget if kl_budget is not None else float("inf"))
        allowed[self.index(0.0)] = True
        best = int(torch.where(allowed, self._sign * mine, -torch.inf).argmax())
        test = ~chosen_on if held else chosen_on
        zero = self.index(0.0)
        row = {name: getattr(self, name)[:, :, test] for name in MEASURES}
        return Best(
            self.doses[best], "other prompts" if held else "the same prompts",
            _mean(row["scores"][0, best]), _mean(row["scores"][0, zero]),
            _mean(row["scores"][0, best] - row["scores"][0, zero]),
            _mean(row["kls"][0, best]), _mean(row["losses"][0, best]), _mean(row["losses"][0, zero]),
            {name: _mean(row["scores"][i, best]) for i, name in enumerate(self.curves) if i},
            self.edits(self.doses[best]) if self.doses[best] else [],
        )  # fmt: skip

    @property
    def _sign(self) -> int:
        return 1 if self.goal == "raise" else -1

    @cached_property
    def strongest(self) -> float:
        """The dose at which the direction's mean score changed most the way it should."""
        change = self._sign * (self.scores[0] - self.scores[0, self.index(0.0)]).mean(1)
        change[self.index(0.0)] = -torch.inf
        return self.doses[int(change.argmax())]

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against the direction, in words: no effect, a control that does as well, broken text."""
        return (*self.notes, *self._findings())

    def _findings(self) -> Iterator[str]:
        dose, zero = self.strongest, self.index(0.0)
        i = self.index(dose)
        change = self._sign * (self.scores[0, i] - self.scores[0, zero])
        found = _mean(change)
        if not found.low > 0:
            yield f"no dose changes the score beyond chance: at {dose:g}, where most, by {found}."
        for k, name in enumerate(self.curves[1:], 1):
            if name == "flipped":
                turned = _mean(self._sign * (self.scores[k, i] - self.scores[k, zero]))
                if turned.low > 0:
                    yield f"the flipped direction moves the score the same way at dose {dose:g}, by {turned}."
                continue
            ahead = _mean(self._sign * (self.scores[0, i] - self.scores[k, i]))
            if not ahead.low > 0:
                yield f"the {name} control does as well at dose {dose:g}: the direction is ahead by {ahead}."
        rise = _mean(self.losses[0, i] - self.losses[0, zero])
        if rise.value > TWICE:
            yield f"at dose {dose:g} the text is {exp(rise.value):.1f} times as perplexing to the unsteered model."
        again = float((self.repeats[0, i] - self.repeats[0, zero]).mean())
        if again > REPEATED:
            yield f"at dose {dose:g} the text repeats itself: {again:.0%} more pairs of tokens came before."

    def examples(self, dose: float, n: int = 3, curve: str = "direction") -> list[tuple[str, str, str]]:
        """(prompt, what was generated without steering, what with it) of the first prompts: read some."""
        if curve not in self.curves:
            raise InputError(f"no curve is called {curve!r}; there are {', '.join(self.curves)}.")
        plain, steered = self.texts[0][self.index(0.0)], self.texts[self.curves.index(curve)][self.index(dose)]
        return list(zip(self.prompts, plain, steered, strict=True))[:n]

    def rows(self) -> list[dict[str, Any]]:
        """One row a curve and dose, for tables."""
        out = []
        for c, curve in enumerate(self.curves):
            for d, dose in enumerate(self.doses):
                row: dict[str, Any] = {"curve": curve, "dose": dose}
                for name in ("effect", "kl", "fluency", "repetition", "neutral"):
                    found = getattr(self, name)
                    if found is not None:
                        row |= {name: float(found.value[c, d]), f"{name}_low": float(found.low[c, d]),
                                f"{name}_high": float(found.high[c, d])}  # fmt: skip
                if self.retention is not None:
                    row["retention"] = float(self.retention[c, d])
                out.append(row)
        return out

    def draw(self, title: str = "") -> dict[str, Any]:
        """The figure, a Vega-Lite spec: effect, KL, fluency, and what repeats or is retained, with all controls."""
        from inscape.steer.dose_figure import figure

        return figure(self, title)

    def save(self, path: str | Path) -> None:
        """Write it as one safetensors file. Raises: EditError for positions (at=) that a file cannot say."""
        about: dict[str, Any] = {
            "kind": "dose", "version": VERSION, "model": self.direction.model,
            "sources": {d.site: d.source for d in self.direction.values()},
        }  # fmt: skip
        about |= {name: getattr(self, name) for name in SAID}
        try:
            text = json.dumps(about)
        except TypeError as error:
            raise EditError(
                f"at={self.at!r} cannot be written to a file; use positions that are plain values."
            ) from error
        tensors = {name: getattr(self, name) for name in (*MEASURES, "validation")}
        tensors |= {n: x for n in ("neutral_losses", "retention") if (x := getattr(self, n)) is not None}
        tensors |= {f"direction/{d.site}": d.vector for d in self.direction.values()}
        write_tensors(path, tensors, {"inscape": text})

    @classmethod
    def load(cls, path: str | Path) -> "Dose":
        """Read what `save` wrote; FileError says what is wrong with anything else."""
        tensors, about = read_tensors(path, "dose", VERSION)
        try:
            made = Directions.of(
                *(Direction(site, tensors[f"direction/{site}"], str(source), str(about["model"]))
                  for site, source in about["sources"].items())
            )  # fmt: skip
            given: dict[str, Any] = {name: _tuples(about[name]) for name in SAID}
            given |= {name: tensors[name] for name in (*MEASURES, "validation")}
        except (KeyError, TypeError, AttributeError) as error:
            raise FileError(f"{str(path)!r} is damaged: it lacks {error}.") from error
        given |= {name: tensors.get(name) for name in ("neutral_losses", "retention")}
        return cls(direction=made, **given)


SAID = ("curves", "doses", "unit", "at", "judge", "goal", "prompts", "texts", "notes")


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _means(values: Float[Tensor, "curve dose item"]) -> Intervals:
    return bootstrap_each(values.permute(2, 0, 1), method="percentile")


def _mean(values: Sequence[float] | Tensor) -> Interval:
    return bootstrap(torch.as_tensor(values), method="percentile")
