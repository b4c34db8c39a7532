"""A learned controller with what it adds where: its edits, its decisions, and its file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.directions import Directions
from inscape.core.edit import Edit
from inscape.core.edits.add import add
from inscape.core.edits.control import Controller, controlled
from inscape.core.errors import FileError, InputError
from inscape.core.tensor_file import read_tensors, write_tensors
from inscape.models.model import Model
from inscape.steer.given_states import given_states, joined
from inscape.steer.pooled import Pooled
from inscape.train.history import History

VERSION = 1


@dataclass(frozen=True, eq=False)
class Decisions:
    """What a controller says of inputs: the strength, one an input, and the weights of the sites."""

    strength: Float[Tensor, " n"]
    weights: Float[Tensor, "n site"]
    sites: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class SteeringController:
    """A controller with what it adds where: what `fit_controller` finds. One small file.

    directions: one an acting site. alpha: what strengths are multiplied by. history: of the training from labels;
    through_model: of the training through the model, where there was one.
    """

    controller: Controller
    directions: Directions
    alpha: float = 1.0
    source: str = ""
    model: str = ""
    history: History | None = None
    through_model: History | None = None

    def edits(self, scale: float = 1.0, *, at: Any = "newest", model: Model | None = None, **places: Any) -> list[Edit]:
        """`x + scale alpha strength weight v` at the last token of the prompt and every new one, unless `at` says else.

        Savable. For a further condition: `ins.when(condition, edits)`. Raises: ModelError for another model; InputError
        for timing="ahead", whose edits are of inputs: `edits_for`.
        """
        if model is not None:
            self.check(model)
        if self.controller.timing == "ahead":
            raise InputError(
                "this controller decides ahead, in a forward of its own: its edits are those of some inputs.\n"
                "  take .edits_for(model, inputs), in the order in which these inputs are run."
            )
        return controlled(self.controller, list(self.directions.values()), scale * self.alpha, at=at, **places)

    def edits_for(
        self, model: Model, inputs: Any, scale: float = 1.0, *, at: Any = "newest", **places: Any
    ) -> list[Edit]:
        """The same for these inputs alone, decided now and kept: a number a row, so they fit a run of these rows only.

        Nothing is observed while they act, so that sites may be changed which come before the observed ones. Savable.
        inputs, cost: as `score`. Raises: ModelError for another model.
        """
        found = self.score(model, inputs)
        force = scale * self.alpha * found.strength[:, None] * found.weights
        return [add(d, force[:, i], at=at, **places) for i, d in enumerate(self.directions.values())]

    def score(self, model: Model, inputs: Any, *, batch_tokens: int = 4096) -> Decisions:
        """What it decides at the last token of each input. inputs: texts, ids, or states as in `fit_controller`.

        Cost: a forward up to the last observed site; of states none.
        """
        self.check(model)
        seen = self.controller.observe
        if isinstance(inputs, Mapping) and set(seen) <= set(inputs):
            states = given_states(inputs, seen, "inputs")
        else:
            read = Pooled.of(model, inputs, seen, "last", "inputs", batch_tokens=batch_tokens, at_least=1)
            states = read.states()
        numbers = self.controller.numbers(joined(states, seen)).detach().cpu()
        return Decisions(numbers[:, 0], numbers[:, 1:], self.directions.sites)

    def check(self, model: Model) -> None:
        """Raises: ModelError where it was fitted on another model."""
        model.check_meant(self.model, "this controller is")

    def save(self, path: str | Path) -> None:
        """Write it as one safetensors file."""
        c = self.controller
        about = {"kind": "controller", "version": VERSION, "observe": list(c.observe), "strength": c.strength,
                 "timing": c.timing, "key": c.key, "alpha": self.alpha, "source": self.source,
                 "model": self.model,
                 "act": [{"site": d.site, "source": d.source, "model": d.model}
                         for d in self.directions.values()]}  # fmt: skip
        vectors = {f"vector.{i}": d.vector for i, d in enumerate(self.directions.values())}
        write_tensors(path, c.tensors | vectors, {"inscape": json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path) -> "SteeringController":
        """Read what `save` wrote. Raises: FileError for anything else."""
        tensors, about = read_tensors(path, "controller", VERSION)
        try:
            network = {name: tensors[name] for name in ("inward", "bias", "outward", "offset")}
            controller = Controller(
                tuple(about["observe"]), **network, strength=about["strength"], timing=about["timing"], key=about["key"]
            )
            made = [Direction(one["site"], tensors[f"vector.{i}"], one["source"], one["model"])
                    for i, one in enumerate(about["act"])]  # fmt: skip
            return cls(controller, Directions.of(*made), float(about["alpha"]), about["source"], about["model"])
        except (KeyError, TypeError) as error:
            raise FileError(f"{str(path)!r} is damaged: {type(error).__name__} {error}.") from error
