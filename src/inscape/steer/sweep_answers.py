"""Vectors at several strengths, judged on a closed list of answers: chosen on some prompts, tested on others.

`dose_response` judges generated texts; this looks at the next token alone, which is exact, takes one forward a strength
and shows how the distribution bends: accuracy, mass of right and other answers, KL, entropy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.directions import Directions
from inscape.core.edit import Edit, listed
from inscape.core.edits.add import add
from inscape.core.errors import InputError
from inscape.core.interval import Interval
from inscape.core.nulls import Intervals, bootstrap, bootstrap_each, random_directions
from inscape.core.progress import Progress, tell
from inscape.models.model import Model
from inscape.steer.calibrate import check_model
from inscape.steer.closed_answers import MEASURES, Answered, ClosedAnswers, closed_answers
from inscape.steer.dose_curves import doses_of

CONTROLS = ("random", "flipped")
COLUMNS = ("kl", "entropy", "right", "mass", "others")
Vector = Direction | Directions


@dataclass(frozen=True, eq=False)
class Tested:
    """A strength on prompts that it was not chosen on (`on` says which), all means with intervals by prompt.

    base, steered: the measure without and with steering; change: their paired difference. also: the changes of all
    measures.
    """

    curve: str
    alpha: float
    measure: str
    on: str
    base: Interval
    steered: Interval
    change: Interval
    also: dict[str, Interval]


@dataclass(frozen=True, eq=False)
class AnswerSweep:
    """What each curve does at each strength: kl, entropy, right, mass and others, [curve, alpha, prompt].

    The measures are those of `closed_answers.Answered`. curves: names, in order, of `vectors`, then the controls'.
    """

    vectors: dict[str, Vector]
    alphas: tuple[float, ...]
    answers: tuple[str, ...]
    prompts: frozenset[tuple[int, ...]]
    how: dict[str, Any]
    kl: Float[Tensor, "curve alpha prompt"]
    entropy: Float[Tensor, "curve alpha prompt"]
    right: Float[Tensor, "curve alpha prompt"]
    mass: Float[Tensor, "curve alpha prompt"]
    others: Float[Tensor, "curve alpha prompt"]

    @property
    def curves(self) -> tuple[str, ...]:
        return tuple(self.vectors)

    @cached_property
    def share(self) -> Float[Tensor, "curve alpha prompt"]:
        return self.mass / (self.mass + self.others).clamp(min=1e-30)

    def mean(self, measure: str) -> Intervals:
        """Of a measure, [curve, alpha], with intervals by prompt."""
        return bootstrap_each(self._values(measure).permute(2, 0, 1), method="percentile")

    def edits(self, curve: str, alpha: float) -> list[Edit]:
        """The edits of a curve at any strength."""
        return listed(add(self.vectors[self._known(curve)], alpha, **self.how))

    def best(self, curve: str = "", measure: str = "right", kl_budget: float | None = None) -> float:
        """The strength of the largest mean of a measure within a budget of mean KL; of equal ones the nearest to 0.

        What it says of these prompts is too good, the more strengths there were: `test` it on others.
        Raises: InputError for a measure or curve that is none, or a budget that is not above 0.
        """
        if kl_budget is not None and not kl_budget > 0:
            raise InputError(f"kl_budget={kl_budget}: it is a KL in nats, above 0.")
        c = self.curves.index(self._known(curve))
        mean, kl = self._values(measure)[c].mean(-1).tolist(), self.kl[c].mean(-1).tolist()
        allowed = [i for i, a in enumerate(self.alphas) if a == 0 or kl_budget is None or kl[i] <= kl_budget]
        return self.alphas[max(allowed, key=lambda i: (mean[i], -abs(self.alphas[i])))]

    def test(
        self, model: Model, prompts: Any, right: Sequence[str] = (), *, curve: str = "", measure: str = "right",
        alpha: float | None = None, kl_budget: float | None = None, force: bool = False, batch_rows: int = 64,
    ) -> Tested:  # fmt: skip
        """The best strength (or `alpha`) on other prompts than it was chosen on, beside the model as it is.

        prompts: with their right answers; or what `closed_answers` made of them, to test several curves on.
        Raises: InputError for prompts that are among those of the sweep, unless forced; as `best` and `closed_answers`.
        """
        name = self._known(curve)
        chosen = self.best(name, measure, kl_budget) if alpha is None else float(alpha)
        asked = prompts
        if not isinstance(asked, ClosedAnswers):
            asked = closed_answers(model, prompts, right, self.answers, batch_rows=batch_rows)
        same = sum(p in self.prompts for p in asked.prompts)
        if same and not force:
            raise InputError(
                f"{same} of {len(asked)} prompts are those that the strength was chosen on, which makes small gains of "
                "none.\n  test on other prompts, or pass force=True and say that you did."
            )
        before, after = asked.plain, asked.of(self.edits(name, chosen))
        moved = {m: getattr(after, m) - getattr(before, m) for m in MEASURES}
        means = [mean_of(getattr(said, measure)) for said in (before, after)]
        every = {m: mean_of(x) for m, x in moved.items()}
        on = "the same prompts" if same else "other prompts"
        return Tested(name, chosen, measure, on, means[0], means[1], every[measure], every)

    def rows(self) -> list[dict[str, Any]]:
        """One row a curve and strength, for tables."""
        found = {measure: self.mean(measure) for measure in MEASURES}
        return [
            {"curve": curve, "alpha": alpha}
            | {k: float(v) for m, x in found.items()
               for k, v in ((m, x.value[c, a]), (f"{m}_low", x.low[c, a]), (f"{m}_high", x.high[c, a]))}
            for c, curve in enumerate(self.curves) for a, alpha in enumerate(self.alphas)
        ]  # fmt: skip

    def _values(self, measure: str) -> Float[Tensor, "curve alpha prompt"]:
        if measure not in MEASURES:
            raise InputError(f"measure={measure!r} is none of {', '.join(map(repr, MEASURES))}.")
        return getattr(self, measure)

    def _known(self, curve: str) -> str:
        if curve and curve not in self.vectors:
            raise InputError(f"no curve is called {curve!r}; there are {', '.join(self.curves)}.")
        return curve or self.curves[0]


def sweep_answers(
    model: Model, vectors: Vector | Mapping[str, Vector], prompts: Any, right: Sequence[str], answers: Sequence[str],
    alphas: Sequence[float], *, controls: Sequence[str] = CONTROLS, unit: str = "vector", at: Any = None,
    keep_norm: bool = False, batch_rows: int = 64, seed: int = 0, progress: Progress = None,
) -> AnswerSweep:  # fmt: skip
    """How answers out of a closed list change with the strength of vectors; look at `.rows()`, `.best()`, `.test(...)`.

    vectors: one, or several by name (a vector of another task, of shuffled pairs), each a curve. controls: of the first
    of them, "random", one drawn vector of its length, and "flipped". Vectors of one length differ much in KL: beside
    many random ones at the same KL they are put by `equal_kl.beside_random`.
    right, answers: the right answer a prompt, out of a closed list, told by their first tokens (`closed_answers`).
    alphas: strengths of `ins.add(vector, alpha, unit=unit, at=at, keep_norm=keep_norm)`; 0 is added.
    Cost: a forward of every prompt, the head at its last token, a curve and strength; a strength of 0, and a flipped
    one that is among the strengths, are not run again.
    Raises: InputError for strengths or controls that are none; ModelError for a vector of another model; as
    `closed_answers`.
    """
    made: dict[str, Vector] = dict(vectors) if _is_named(vectors) else {"direction": vectors}  # type: ignore[arg-type, dict-item]
    grid = doses_of(alphas)
    if wrong := [c for c in controls if c not in CONTROLS]:
        raise InputError(f"controls={wrong}: there are {', '.join(map(repr, CONTROLS))}; give others as vectors.")
    first = next(iter(made.values()))
    made |= {c: _random(first, seed) if c == "random" else -first for c in CONTROLS if c in controls}
    for vector in made.values():
        check_model(vector, model)
    asked = closed_answers(model, prompts, right, answers, batch_rows=batch_rows)
    how: dict[str, Any] = {"unit": unit, "at": at, "keep_norm": keep_norm}
    found: dict[tuple[str, float], Answered] = {}
    for k, (name, vector) in enumerate(made.items()):
        tell(progress, name, k / len(made))
        for alpha in grid:
            if alpha == 0:
                found[name, alpha] = asked.plain
            elif name == "flipped" and name in controls and -alpha in grid:
                found[name, alpha] = found[next(iter(made)), -alpha]
            else:
                found[name, alpha] = asked.of(add(vector, alpha, **how))
    tables = {
        column: torch.stack([torch.stack([getattr(found[name, a], column) for a in grid]) for name in made])
        for column in COLUMNS
    }
    return AnswerSweep(made, grid, tuple(answers), frozenset(asked.prompts), how, **tables)


def mean_of(values: Float[Tensor, " n"]) -> Interval:
    """The mean with its interval by prompt."""
    return bootstrap(values, method="percentile")


def random_like(vector: Vector, n: int, seed: int) -> list[Vector]:
    """n vectors of the same lengths at the same sites, any direction as likely as any other."""
    parts = Directions.of(vector) if isinstance(vector, Direction) else vector
    drawn = {s: random_directions(d.vector, n, seed=seed + 7919 * i) for i, (s, d) in enumerate(parts.items())}
    made = [Directions.of(*(Direction(s, v[k], f"random {k}") for s, v in drawn.items())) for k in range(n)]
    return [next(iter(m.values())) for m in made] if isinstance(vector, Direction) else list(made)


def _random(vector: Vector, seed: int) -> Vector:
    return random_like(vector, 1, seed)[0]


def _is_named(vectors: Any) -> bool:
    if isinstance(vectors, Direction | Directions):
        return False
    if not isinstance(vectors, Mapping) or not vectors:
        raise InputError("vectors: give a Direction or Directions, or several by name: {'mean': d, 'other task': e}.")
    return True
