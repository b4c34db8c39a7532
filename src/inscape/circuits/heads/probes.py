"""What the kinds of heads are measured on; made when it is first asked for, and shared by the kinds that ask for it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.circuits.heads.attention import Looks, looks, pattern_sites, probe_length
from inscape.core.errors import InputError
from inscape.core.progress import Progress, tell
from inscape.models.model import Model
from inscape.tasks.induction import repeated_probe
from inscape.tasks.ioi import ioi
from inscape.tasks.pairs import Pairs

N_PAIRS = 16


@dataclass(eq=False)
class Probes:
    """One model and its probes. draws: of every null. given: pairs of the caller's own."""

    model: Model
    length: int
    rows: int
    draws: int
    seed: int
    given: Pairs | None = None
    roles: tuple[str, str] = ("io", "s2")
    progress: Progress = None
    _made: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def patterns(self) -> list[str]:
        return pattern_sites(self.model)

    @cached_property
    def layers(self) -> tuple[str, ...]:
        return tuple(name.removesuffix(".attn.pattern") for name in self.patterns)

    @cached_property
    def ids(self) -> Int[Tensor, "row pos"]:
        """Random tokens that come twice."""
        self.length = probe_length(self.model, self.length)
        return repeated_probe(self.model, self.length, self.rows, self.seed)

    @cached_property
    def repeated(self) -> Looks:
        tell(self.progress, "attention on tokens that come twice", 0.0)
        return looks(self.model, self.patterns, self.ids, self.length, draws=self.draws, seed=self.seed)

    @cached_property
    def shuffled(self) -> Looks:
        """The same tokens, the second time in another order; twice as many rows, so that draws of them differ."""
        tell(self.progress, "attention on the same tokens in another order", 0.15)
        ids = repeated_probe(self.model, self.ids.shape[1] // 2, 2 * self.rows, self.seed, shuffle=True)
        return looks(self.model, self.patterns, ids, self.length)

    @cached_property
    def pairs(self) -> Pairs:
        """Two names, of which the one that was not said again is the answer; or the pairs that were given."""
        made = self.given if self.given is not None else ioi(self.model, N_PAIRS, seed=self.seed)
        missing = [role for role in self.roles if role not in made.roles]
        if missing:
            raise InputError(
                f"the pairs have no role {missing[0]!r}; they have {', '.join(made.roles)}.\n"
                "  say which of them are the answer and the repeated word: roles=('io', 's2')."
            )
        return made

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, made on the first call with this name: kinds share their parts."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def placed(self, layer: str, head: int) -> tuple[int, int] | None:
        """Where a head stands in arrays [layer, head]."""
        return (self.layers.index(layer), head) if layer in self.layers else None

    def array(self, names: list[tuple[str, int]], values: Float[Tensor, "*draw member"]) -> Float[Tensor, "*draw l h"]:
        """Values of heads (layer, head), listed, as an array over all of them; NaN for the others."""
        heads = self.repeated.scores["first"].shape[2]
        out = torch.full((*values.shape[:-1], len(self.layers), heads), torch.nan)
        for i, (layer, head) in enumerate(names):
            at = self.placed(layer, head)
            if at is not None and at[1] < heads:
                out[..., at[0], at[1]] = values[..., i].float()
        return out
