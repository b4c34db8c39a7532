"""Controllers that are learned: when to steer, how strongly and where, decided for every input (WAS).

1. The states of the observed sites are read once, at the last token of every prompt.
2. A two-layer network learns from them which prompts call for it: its first output is the strength's logit.
3. Where asked for it is trained on through the frozen model: wanted answers made likely, others left as they were.
"""

import hashlib
import json
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from inscape.core.direction import Direction
from inscape.core.directions import Directions
from inscape.core.edit import Edit
from inscape.core.edits.control import STRENGTHS, TIMINGS, Controller, controlled
from inscape.core.errors import FileError, InputError, ModelError, ShapeError
from inscape.core.progress import Progress
from inscape.core.tensor_file import read_tensors, write_tensors
from inscape.engine.generate import generate
from inscape.models.model import Model
from inscape.steer.pooled import Pooled, sites_of
from inscape.steer.states import check_texts
from inscape.steer.targets import Examples, frozen
from inscape.train.history import History
from inscape.train.loop import fit
from inscape.train.schedule import cosine

VERSION = 1
TRAININGS = ("labels", "end_to_end")


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

        Savable. For a further condition: `ins.when(condition, edits)`. Raises: ModelError for another model.
        """
        if model is not None:
            self.check(model)
        return controlled(self.controller, list(self.directions.values()), scale * self.alpha, at=at, **places)

    def score(self, model: Model, inputs: Sequence[Any], *, batch_tokens: int = 4096) -> Decisions:
        """What it decides at the last token of each input. Cost: a forward up to the last observed site."""
        self.check(model)
        states = Pooled.of(
            model, inputs, self.controller.observe, "last", "inputs", batch_tokens=batch_tokens, at_least=1
        )
        numbers = self.controller.numbers(_joined(states.states(), self.controller.observe)).detach().cpu()
        return Decisions(numbers[:, 0], numbers[:, 1:], self.directions.sites)

    def check(self, model: Model) -> None:
        """Raises: ModelError where it was fitted on another model."""
        if self.model and self.model != model.fingerprint:
            raise ModelError(
                f"this controller is for the model {self.model}, this one is {model.fingerprint}.\n  fit one there."
            )

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


def fit_controller(
    model: Model,
    directions: Direction | Directions,
    positive: Sequence[Any],
    negative: Sequence[Any],
    observe: Any,
    *,
    alpha: float = 1.0,
    hidden: int = 256,
    strength: str = "raw",
    timing: str = "prompt",
    training: str = "labels",
    targets: Sequence[Any] | str | None = None,
    own_tokens: int = 8,
    steps: int = 400,
    model_steps: int = 100,
    lr: float = 1e-3,
    batch_rows: int = 16,
    control: str | None = None,
    seed: int = 0,
    batch_tokens: int = 4096,
    max_length: int | None = None,
    progress: Progress = None,
) -> SteeringController:
    """Learn which inputs to steer (positive) and which not (negative), and how strongly at which sites.

    A vector alone steers every input alike; a condition (`ins.when`) switches it by one threshold on one direction.
    This learns a strength from several sites, in one forward, without changing weights. directions: one an acting site,
    in their own length; alpha multiplies them (the paper: unit vectors, 4). observe: sites that are read, none behind
    an acting one: a pass cannot be changed before it was looked at.

    training: "labels": from states read once, cross-entropy of the strength's logit. The weights of the sites get no
    gradient but that of a regulariser, so they stay near a half, and a raw strength of a negative input is below 0: it
    is pushed the other way ("sigmoid" or "relu" leave it alone). "end_to_end": then also through the frozen model, for
    `model_steps`: nats a token of each positive's answer in `targets` (one for all, or one each), plus the KL from the
    model as it is on negatives, over `own_tokens` of its own greedy continuation; this trains the weights as well.
    control: "shuffle" deals the inputs to both sides anew. timing: see `Controller`. lr falls as a cosine.

    Cost: a forward an input; a small network's training; through the model 2 forwards and a backward of batch_rows
    texts a step. Raises: InputError, ShapeError, ModelError, NotFiniteError. Warns without negatives.
    Source: Hegazy et al. 2025, arXiv:2505.20309. Ours: inputs are standardised (folded into the first layer), batches
    are mixed, the regulariser is theirs.
    """
    made = Directions.of(directions) if isinstance(directions, Direction) else directions
    _check(strength, timing, training, control, targets, hidden, steps, batch_rows)
    if made.model and made.model != model.fingerprint:
        raise ModelError(f"these directions are for the model {made.model}, this one is {model.fingerprint}.")
    seen = sites_of(model, observe)
    _check_order(model, seen, made)
    high, low = check_texts(positive, "positive"), list(negative)
    if not low:
        warnings.warn("there are no negative inputs: no discrimination is learned, all are steered.", stacklevel=2)
    options: dict[str, Any] = {"batch_tokens": batch_tokens, "max_length": max_length}
    given = [*high, *low]
    states = Pooled.of(model, given, (*seen, *(s for s in made.sites if s not in seen)), "last", "inputs", **options)
    values = states.states()
    for site, d in made.items():
        if values[site].shape[1:] != d.vector.shape:
            raise ShapeError(
                f"the direction at {site} has shape {tuple(d.vector.shape)}; a state there has {values[site].shape[1]} "
                "units."
            )
    x = _joined(values, seen)
    label = torch.cat([torch.ones(len(high)), torch.zeros(len(low))]).to(x.device)
    if control == "shuffle":
        order = torch.randperm(len(label), generator=torch.Generator().manual_seed(seed))
        label = label[order.to(label.device)]
        both = [given[i] for i in order.argsort().tolist()]
        high, low = both[: len(high)], both[len(high) :]
    net = Network(x, hidden, 1 + len(made), seed)
    network = partial(_controller, seen, strength, timing, "training")

    def from_labels(module: Network, rows: Tensor) -> Tensor:
        out, y = network(module).outputs(x[rows]), label[rows]
        loss = F.binary_cross_entropy_with_logits(out[:, 0], y)
        weights = torch.sigmoid(out[:, 1:])[y > 0.5]
        if len(weights):
            loss = loss + 0.1 * ((weights - 0.5).abs().mean() + 0.01 * weights.mean())
        return loss

    history = fit(net, partial(_drawn, len(given), min(batch_rows, len(given)), seed), from_labels, steps=steps, lr=lr,
                  optimizer=partial(torch.optim.AdamW, weight_decay=0.01), schedule=cosine, seed=seed,
                  progress=progress)  # fmt: skip
    further = None
    if training == "end_to_end":
        wanted = [targets] * len(high) if isinstance(targets, str) else list(targets or ())
        steering = partial(_steered, network, made, alpha)
        further = _through(
            model, net, steering, (high, low), wanted, own_tokens, model_steps, lr, batch_rows, seed, progress
        )
    trained = network(net)
    plain = {name: t.detach().cpu() for name, t in trained.tensors.items()}
    key = hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in plain.values())).hexdigest()[:12]
    about = f"{f'{control} control of ' if control else ''}controller of {len(high)} inputs against {len(low)}"
    controller = Controller(seen, **plain, strength=strength, timing=timing, key=key)
    return SteeringController(controller, made, alpha, about, model.fingerprint, history, further)


class Network(nn.Module):
    """The two layers, on standardised inputs."""

    def __init__(self, x: Float[Tensor, "n width"], hidden: int, outputs: int, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.mean, self.spread = x.mean(0), x.std(0) if len(x) > 1 else torch.ones_like(x[0])
        self.spread = self.spread.clamp(min=max(1e-3 * float(self.spread.median()), 1e-12))

        def drawn(n: int, m: int) -> nn.Parameter:
            return nn.Parameter((torch.rand(n, m, generator=draw) * 2 - 1).to(x.device) / m**0.5)

        self.inward, self.outward = drawn(hidden, x.shape[1]), drawn(outputs, hidden)
        self.bias = nn.Parameter(torch.zeros(hidden, device=x.device))
        self.offset = nn.Parameter(torch.zeros(outputs, device=x.device))

    def tensors(self) -> dict[str, Tensor]:
        """The network for inputs as they are."""
        inward = self.inward / self.spread
        return {
            "inward": inward,
            "bias": self.bias - inward @ self.mean,
            "outward": self.outward,
            "offset": self.offset,
        }


def _controller(observe: tuple[str, ...], strength: str, timing: str, key: str, net: Network) -> Controller:
    return Controller(observe, **net.tensors(), strength=strength, timing=timing, key=key)


def _steered(network: Any, directions: Directions, alpha: float, net: Network, batch: Any) -> list[Edit]:
    """The edits while training: decided at the prompt's last token, acting where the answer is predicted."""
    return controlled(network(net), list(directions.values()), alpha, decide_at=batch.places("last"),
                      at=batch.places("predicting"))  # fmt: skip


def _through(
    model: Model, net: Network, steering: Any, sides: tuple[list[Any], list[Any]], wanted: list[Any], own_tokens: int,
    steps: int, lr: float, batch_rows: int, seed: int, progress: Progress,
) -> History:  # fmt: skip
    high, low = sides
    if len(wanted) != len(high):
        raise InputError(f"{len(wanted)} targets for {len(high)} positive inputs: give one for all, or one each.")
    asked = Examples.of(model, high, wanted)
    kept = _own(model, low, own_tokens) if low else None

    def loss(module: Network, step: int) -> tuple[Tensor, dict[str, float]]:
        batch = asked.batch(_rows(len(asked), batch_rows, seed, step))
        nats = asked.losses(batch, steering(module, batch), grad=True).mean()
        if kept is None:
            return nats, {"nats": float(nats.detach())}
        batch = kept.batch(_rows(len(kept), batch_rows, seed + 1, step))
        with torch.no_grad():
            plain = kept.scores(batch, []).log_softmax(-1)
        now = kept.scores(batch, steering(module, batch), grad=True).log_softmax(-1)
        moved = (plain.exp() * (plain - now)).sum(-1).mean()
        return nats + moved, {"nats": float(nats.detach()), "kl": float(moved.detach())}

    with frozen(model):
        return fit(net, lambda step: step, loss, steps=steps, lr=lr, schedule=cosine, seed=seed, progress=progress)


def _own(model: Model, prompts: list[Any], n: int) -> Examples:
    """Prompts with the model's own greedy continuation."""
    said = []
    for start in range(0, len(prompts), 32):
        part = prompts[start : start + 32]
        said += generate(model, part, max_new_tokens=n, do_sample=False).tokens.tolist()
    return Examples.of(model, prompts, said)


def _joined(states: dict[str, Tensor], sites: tuple[str, ...]) -> Float[Tensor, "n width"]:
    return torch.cat([states[site].float() for site in sites], -1)


def _drawn(n: int, size: int, seed: int, step: int) -> Tensor:
    return torch.tensor(_rows(n, size, seed, step))


def _rows(n: int, size: int, seed: int, step: int) -> list[int]:
    """The inputs of a step, drawn without putting back."""
    return random.Random((seed << 32) + step).sample(range(n), min(n, size))


def _check(
    strength: str, timing: str, training: str, control: str | None, targets: Any, hidden: int, steps: int, rows: int
) -> None:
    for name, value, known in (
        ("strength", strength, STRENGTHS),
        ("timing", timing, TIMINGS),
        ("training", training, TRAININGS),
    ):
        if value not in known:
            raise InputError(f"{name}={value!r} is none of {', '.join(map(repr, known))}.")
    if control not in (None, "shuffle"):
        raise InputError(f"control={control!r} can be 'shuffle' or None.")
    if (training == "end_to_end") != (targets is not None):
        raise InputError("training='end_to_end' and targets= belong together: what positives are to be answered with.")
    if min(hidden, steps, rows) < 1:
        raise InputError(f"{hidden=}, {steps=}, batch_rows={rows}: all are 1 at least.")


def _check_order(model: Model, seen: tuple[str, ...], directions: Directions) -> None:
    order = {name: i for i, name in enumerate(model.points)}
    acting = sites_of(model, list(directions.sites))
    if acting != directions.sites:
        directions_by = ", ".join(directions.sites[:3])
        raise InputError(f"the directions stand at {directions_by}, ...: give them in the order of a forward pass.")
    early = next((site for site in acting if order.get(site, 0) < order.get(seen[-1], 0)), None)
    if early is not None:
        raise InputError(
            f"{seen[-1]} is observed, and {early} is to be changed, which comes before it in a forward pass.\n"
            "  observe earlier sites, or act at later ones."
        )
