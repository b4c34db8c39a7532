"""Vectors beside random ones that move predictions as far: at the same KL, not at the same length.

Random vectors of a fitted vector's length often move a model many times as far in KL, or hardly at all; what they do to
answers is then no fair comparison.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.edits.add import add
from inscape.core.errors import InputError, NotConvergedError
from inscape.core.progress import Progress, tell
from inscape.models.model import Model
from inscape.steer.calibrate import check_model
from inscape.steer.closed_answers import MEASURES, Answered, closed_answers
from inscape.steer.kl_search import search_strength
from inscape.steer.sweep_answers import Vector, random_like

SLACK = 0.05  # of the KL


@dataclass(frozen=True, eq=False)
class EqualKl:
    """Vectors and random ones, each at the strength where the mean KL is the same.

    plain: the model as it is. vectors, random: what it answers under each. strengths: of the vectors by name;
    random_strengths. A vector that never moves predictions so far has the strength NaN, and is left out of the answers.
    """

    kl: float
    plain: Answered
    vectors: dict[str, Answered]
    random: list[Answered]
    strengths: dict[str, float]
    random_strengths: list[float]

    def change(self, name: str, measure: str = "mass") -> float:
        """How much a vector changes the mean of a measure; NaN of one that never moves predictions so far."""
        if name not in self.strengths:
            raise InputError(f"no vector is called {name!r}; there are {', '.join(self.strengths)}.")
        return self._change(self.vectors[name], measure) if name in self.vectors else float("nan")

    def random_changes(self, measure: str = "mass") -> Float[Tensor, " random"]:
        return torch.tensor([self._change(one, measure) for one in self.random], dtype=torch.float64)

    def rank(self, name: str, measure: str = "mass") -> int:
        """The vector's place among the random ones and itself: 1 where it raises the measure more than all of them.

        The last of one that never moves predictions so far.
        """
        mine = self.change(name, measure)
        return 1 + (int((self.random_changes(measure) >= mine).sum()) if mine == mine else len(self.random_strengths))

    def _change(self, found: Answered, measure: str) -> float:
        if measure not in MEASURES:
            raise InputError(f"measure={measure!r} is none of {', '.join(map(repr, MEASURES))}.")
        return float((getattr(found, measure) - getattr(self.plain, measure)).mean())


def beside_random(
    model: Model, vectors: Mapping[str, Vector], prompts: Any, right: Sequence[str], answers: Sequence[str],
    kl: float, *, n: int = 20, unit: str = "vector", at: Any = None, keep_norm: bool = False, batch_rows: int = 64,
    seed: int = 0, progress: Progress = None,
) -> EqualKl:  # fmt: skip
    """What vectors do to answers out of a closed list beside `n` random ones, all at the same mean KL (to 2 %).

    vectors: by name, all at the same sites; give `-vector` under a name of its own for the other sign.
    Cost: about eight forwards of every prompt for each vector and each random one.
    Raises: InputError for a KL that is not above 0, no vectors, or n below 1; as `closed_answers`.
    """
    if not kl > 0 or n < 1 or not vectors:
        raise InputError(f"beside_random({len(vectors)} vectors, kl={kl}, n={n}): a KL above 0, and one of each.")
    for vector in vectors.values():
        check_model(vector, model)
    asked = closed_answers(model, prompts, right, answers, batch_rows=batch_rows)

    def at_kl(vector: Vector, first: float) -> tuple[float, Answered | None]:
        seen: dict[float, Answered] = {}

        def measure(alpha: float) -> float:
            seen[alpha] = asked.of(add(vector, alpha, unit=unit, at=at, keep_norm=keep_norm))
            return float(seen[alpha].kl.mean())

        try:
            alpha = search_strength(measure, kl, first=first)
        except NotConvergedError:
            return float("nan"), None
        if alpha not in seen or float(seen[alpha].kl.mean()) < (1 - SLACK) * kl:  # it jumps over it
            return float("nan"), None
        return alpha, seen[alpha]

    found: dict[str, tuple[float, Answered | None]] = {}
    for k, (name, vector) in enumerate(vectors.items()):
        tell(progress, f"{name} at {kl:g} nats", k / (n + len(vectors)))
        found[name] = at_kl(vector, 1.0)
    drawn: list[tuple[float, Answered | None]] = []
    for k, vector in enumerate(random_like(next(iter(vectors.values())), n, seed)):
        tell(progress, f"random vector {k + 1} of {n}", (k + len(vectors)) / (n + len(vectors)))
        known = [s for s, _ in (*found.values(), *drawn) if s == s]
        drawn.append(at_kl(vector, known[-1] if known else 1.0))
    return EqualKl(
        kl, asked.plain, {name: a for name, (_, a) in found.items() if a is not None},
        [a for _, a in drawn if a is not None], {name: s for name, (s, _) in found.items()}, [s for s, _ in drawn],
    )  # fmt: skip
