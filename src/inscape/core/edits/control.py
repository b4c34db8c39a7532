"""Steering by a learned controller: a small network reads states and says how strongly vectors are added, and where.

Two kinds of edits that belong together: one `decide`, where the last observed site is met, and an `controlled_add` at
every site that is changed. What was decided travels in the step, so that the network stands in a file once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.edit import ELSEWHERE, Edit, make_edit
from inscape.core.edits.strength import for_rows
from inscape.core.edits.vectors import checked, refuse_empty
from inscape.core.errors import EditError, NotFiniteError, ShapeError
from inscape.core.step import Step

STRENGTHS = ("raw", "sigmoid", "relu")
TIMINGS = ("prompt", "each", "ahead")


@dataclass(frozen=True, eq=False)
class Controller:
    """`outward relu(inward x + bias) + offset`: of its outputs the first is a strength, the others one weight a site.

    x: the states of the observed sites, one behind the other. strength: the first output as it is ("raw", of either
    sign), its "sigmoid" or its "relu"; weights are sigmoids. timing: "prompt", decided once a row, at the last token of
    its prompt, and kept for all that is generated; "each", for every token by itself, which what was steered before
    feeds back on; "ahead", before the run, by whoever makes its edits. Tensors that require grad are learned.
    Raises: ShapeError, EditError, NotFiniteError.
    """

    observe: tuple[str, ...]
    inward: Float[Tensor, "hidden width"]
    bias: Float[Tensor, " n_bias"]
    outward: Float[Tensor, "n_out n_hidden"]
    offset: Float[Tensor, " n_offset"]
    strength: str = "raw"
    timing: str = "prompt"
    key: str = "controller"

    def __post_init__(self) -> None:
        for name, value, known in (("strength", self.strength, STRENGTHS), ("timing", self.timing, TIMINGS)):
            if value not in known:
                raise EditError(f"Controller({name}={value!r}): it can be {' or '.join(map(repr, known))}.")
        hidden, outputs = len(self.inward), len(self.outward)
        if self.bias.shape != (hidden,) or self.outward.shape[1] != hidden or self.offset.shape != (outputs,):
            raise ShapeError(
                f"Controller: inward {tuple(self.inward.shape)}, bias {tuple(self.bias.shape)}, outward "
                f"{tuple(self.outward.shape)}, offset {tuple(self.offset.shape)} are [hidden, width], [hidden], "
                "[1 + sites, hidden], [1 + sites]."
            )
        if not self.observe or any("*" in site or "[" in site for site in self.observe) or outputs < 2:
            raise EditError(
                "a controller observes sites by name and has an output a site; got "
                f"{', '.join(self.observe) or 'none'} and {outputs} outputs."
            )
        if not all(bool(torch.isfinite(t.detach()).all()) for t in self.tensors.values()):
            raise NotFiniteError("a controller's tensors are not finite: train it with a smaller lr.")

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {"inward": self.inward, "bias": self.bias, "outward": self.outward, "offset": self.offset}

    def outputs(self, x: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead n_out"]:
        """The network's outputs as they are, in float32."""
        if x.shape[-1] != self.inward.shape[1]:
            raise ShapeError(
                f"the controller reads {self.inward.shape[1]} numbers, its sites {', '.join(self.observe)} have "
                f"{x.shape[-1]}."
            )
        inward, bias, outward, offset = (t.to(x.device, torch.float32) for t in self.tensors.values())
        return torch.relu(x.float() @ inward.T + bias) @ outward.T + offset

    def numbers(self, x: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead n_out"]:
        """The strength and the weights of the sites."""
        out = self.outputs(x)
        first = {"raw": lambda s: s, "sigmoid": torch.sigmoid, "relu": torch.relu}[self.strength](out[..., :1])
        return torch.cat([first, torch.sigmoid(out[..., 1:])], -1)


def decide(controller: Controller, **places: Any) -> Edit:
    """Look at the observed sites and decide; nothing is changed. It stands at the last of them in a forward pass.

    A place with one token a row (`at=`) says at which token a row is decided, in place of the prompt's last.
    Cost: the network once a row, or with timing="each" once a token.
    """
    if controller.timing == "ahead":
        raise EditError(
            "a controller with timing='ahead' decides before a run, not in it: see `SteeringController.edits_for`."
        )
    *before, site = controller.observe
    key = ("controller", controller.key)

    def fn(x: Tensor, step: Step) -> Tensor:
        once = controller.timing == "prompt"
        if once and step.start >= step.prompt:
            return x
        seen = [*(step.held[ELSEWHERE + name] for name in before), x]
        if any(v.ndim != 3 or v.shape[:2] != x.shape[:2] for v in seen):
            raise ShapeError(
                f"a controller observes sites of [batch, pos, d] of one stack; got "
                f"{', '.join(str(tuple(v.shape)) for v in seen)} at {', '.join(controller.observe)}."
            )
        if once:
            at = _column(x, step)
            rows = torch.arange(len(x), device=x.device)
            step.kept[key] = controller.numbers(torch.cat([v[rows, at].float() for v in seen], -1))
        else:
            step.memo[key] = controller.numbers(torch.cat([v.float() for v in seen], -1))
        return x

    spec = {"kind": "decide", "observe": list(controller.observe), "key": controller.key}
    spec |= {"strength": controller.strength, "timing": controller.timing}
    needs = tuple(ELSEWHERE + name for name in before)
    label = f"decide by {', '.join(controller.observe)}"
    return make_edit(site, fn, label, contextual=True, needs=needs, spec=spec, tensors=controller.tensors, **places)


def controlled_add(
    direction: Direction, index: int, alpha: float = 1.0, *, key: str = "controller", **places: Any
) -> Edit:
    """`x + alpha strength weight v`, with the strength and the weight number `index` that the controller `key` decided.

    float32 inside where the model is in half precision. Raises: EditError where nothing was decided in this pass.
    """
    vector = checked(direction, "controlled_add").vector
    if vector.ndim != 1:
        raise ShapeError(f"controlled_add takes one vector (d,); got {tuple(vector.shape)}.")
    refuse_empty(vector, "controlled_add", direction.source)
    name = ("controller", key)

    def fn(x: Tensor, step: Step) -> Tensor:
        numbers = step.memo.get(name)
        if numbers is None:
            kept = step.kept.get(name)
            if not isinstance(kept, Tensor):
                raise EditError(
                    f"nothing was decided for the edit at {step.site} yet in this forward pass.\n"
                    "  put the controller's `decide` before it in edits=, at a site before its own, and feed the "
                    "prompt under it too."
                )
            numbers = for_rows(kept, x.shape[0], step, "the controller's strengths")[:, None]
        if x.shape[-1] != len(vector) or x.ndim != 3 or numbers.shape[1] not in (1, x.shape[1]):
            raise ShapeError(
                f"controlled_add at {step.site}: a vector of {len(vector)} and strengths {tuple(numbers.shape)} do not "
                f"fit an activation {tuple(x.shape)}."
            )
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        force = alpha * numbers[..., :1] * numbers[..., 1 + index : 2 + index]
        return (wide + force.to(wide) * vector.to(wide)).to(x.dtype)

    spec = {"kind": "controlled_add", "index": index, "alpha": float(alpha), "key": key}
    spec |= {"source": direction.source, "model": direction.model}
    label = f"+ {direction.source or 'direction'}, as decided"
    return make_edit(direction.site, fn, label, contextual=True, spec=spec, tensors={"vector": vector}, **places)


def controlled(
    controller: Controller, directions: Sequence[Direction], alpha: float = 1.0, *, decide_at: Any = None, **places: Any
) -> list[Edit]:
    """All edits of a controller, in the order they belong in. decide_at: see `decide`."""
    if len(directions) != len(controller.offset) - 1:
        raise ShapeError(f"the controller has {len(controller.offset) - 1} weights for {len(directions)} directions.")
    adds = [controlled_add(d, i, alpha, key=controller.key, **places) for i, d in enumerate(directions)]
    return [decide(controller) if decide_at is None else decide(controller, at=decide_at), *adds]


def _column(x: Tensor, step: Step) -> Tensor:
    """Where a row is decided: the one place that the edit was given, or the last token of its prompt."""
    if isinstance(step.place, Tensor):
        marked = step.place.expand(x.shape[0], x.shape[1], 1)[..., 0].to(x.device)
        return (marked * torch.arange(x.shape[1], device=x.device)).amax(1)
    final = step.real[:, : step.prompt].amax(1, keepdim=True)
    return (step.real[:, step.start :] == final).long().argmax(1).to(x.device)
