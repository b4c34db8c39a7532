"""Controllers that are learned: when to steer, how strongly and where, decided for every input (WAS).

1. The states of the observed sites are read once, at the last token of every prompt, or come from elsewhere.
2. A two-layer network learns from them which prompts call for it: its first output is the strength's logit.
3. Where asked for it is trained on through the frozen model: wanted answers made likely, others left as they were.
"""

import hashlib
import random
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from inscape.core.direction import Direction
from inscape.core.directions import Directions
from inscape.core.edit import Edit
from inscape.core.edits.control import STRENGTHS, TIMINGS, Controller, controlled
from inscape.core.errors import InputError, ShapeError
from inscape.core.progress import Progress
from inscape.engine.generate import generate
from inscape.models.model import Model
from inscape.steer.controller import SteeringController
from inscape.steer.given_states import given_states, joined
from inscape.steer.pooled import Pooled, sites_of
from inscape.steer.states import check_texts
from inscape.steer.targets import Examples, frozen
from inscape.train.history import History
from inscape.train.loop import fit
from inscape.train.schedule import cosine

TRAININGS = ("labels", "end_to_end")


def fit_controller(
    model: Model,
    directions: Direction | Directions,
    positive: Sequence[Any] | Mapping[str, Tensor],
    negative: Sequence[Any] | Mapping[str, Tensor],
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
    control: "shuffle" deals the inputs to both sides anew. lr falls as a cosine.

    positive, negative: texts or ids; or states that were read before, one tensor [n, d] an observed site in a trace
    (`ins.run(..., reduce="last")`; of one with all tokens the last is taken) or a dict: then no input is run, and there
    is nothing to train through the model.
    timing: "prompt" or "each" as in `Controller`; "ahead": decided in a forward of its own by `edits_for`, so that
    observed sites may come last, as in the authors' code. A strength decided at the token before is not offered: which
    sites are steered by what a later site said of the token before is known step by step only, so no single run of a
    text would have the edits of its generation, and the first new token would have none.

    Cost: a forward an input; a small network's training; through the model 2 forwards and a backward of batch_rows
    texts a step. Raises: InputError, ShapeError, ModelError, NotFiniteError. Warns without negatives.
    Source: Hegazy et al. 2025, arXiv:2505.20309. Ours: inputs are standardised (folded into the first layer), batches
    are mixed, the regulariser is theirs.
    """
    made = Directions.of(directions) if isinstance(directions, Direction) else directions
    _check(strength, timing, training, control, targets, hidden, steps, batch_rows)
    model.check_meant(made.model, "these directions are")
    seen = sites_of(model, observe)
    _check_order(model, seen, made, timing)
    high, low = (_side(given, seen, name) for given, name in ((positive, "positive"), (negative, "negative")))
    if not len(low):
        warnings.warn("there are no negative inputs: no discrimination is learned, all are steered.", stacklevel=2)
    options: dict[str, Any] = {"batch_tokens": batch_tokens, "max_length": max_length}
    if isinstance(high, Tensor) or isinstance(low, Tensor):
        x = _both(high, low, training)
        _check_widths(model, made, Pooled.of(model, [[0]], made.sites, "last", "a token", at_least=1).states())
    else:
        states = Pooled.of(
            model, [*high, *low], tuple(dict.fromkeys((*seen, *made.sites))), "last", "inputs", **options
        )
        values = states.states()
        _check_widths(model, made, values)
        x = joined(values, seen)
    label = torch.cat([torch.ones(len(high)), torch.zeros(len(low))]).to(x.device)
    if control == "shuffle":
        order = torch.randperm(len(label), generator=torch.Generator().manual_seed(seed))
        label = label[order.to(label.device)]
        if not isinstance(high, Tensor):
            given = [*high, *low]
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

    history = fit(net, partial(_drawn, len(x), min(batch_rows, len(x)), seed), from_labels, steps=steps, lr=lr,
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
    model: Model, net: Network, steering: Any, sides: tuple[Any, Any], wanted: list[Any], own_tokens: int,
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


def _side(given: Any, sites: tuple[str, ...], name: str) -> Any:
    """One side's inputs as a list, or its states as one matrix."""
    if isinstance(given, Mapping):
        return joined(given_states(given, sites, name), sites)
    return check_texts(given, name) if name == "positive" else list(given)


def _both(high: Any, low: Any, training: str) -> Float[Tensor, "n width"]:
    """The states of both sides, where they were given as such."""
    if training == "end_to_end":
        raise InputError("training='end_to_end' runs the inputs: give texts or ids, not their states.")
    if not all(isinstance(side, Tensor) or not len(side) for side in (high, low)):
        raise InputError("one side has states and the other inputs: give both as one of the two.")
    return torch.cat([side for side in (high, low) if isinstance(side, Tensor)])


def _check_widths(model: Model, directions: Directions, states: Mapping[str, Tensor]) -> None:
    for site, d in directions.items():
        if states[site].shape[1:] != d.vector.shape:
            raise ShapeError(
                f"the direction at {site} has shape {tuple(d.vector.shape)}; a state there has {states[site].shape[1]} "
                "units."
            )


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
    if training == "end_to_end" and timing == "ahead":
        raise InputError(
            "timing='ahead' decides before the run that would train it: fit from labels, or observe earlier."
        )
    if min(hidden, steps, rows) < 1:
        raise InputError(f"{hidden=}, {steps=}, batch_rows={rows}: all are 1 at least.")


def _check_order(model: Model, seen: tuple[str, ...], directions: Directions, timing: str) -> None:
    order = {name: i for i, name in enumerate(model.points)}
    acting = sites_of(model, list(directions.sites))
    if acting != directions.sites:
        directions_by = ", ".join(directions.sites[:3])
        raise InputError(f"the directions stand at {directions_by}, ...: give them in the order of a forward pass.")
    early = next((site for site in acting if order.get(site, 0) < order.get(seen[-1], 0)), None)
    if early is not None and timing != "ahead":
        raise InputError(
            f"{seen[-1]} is observed, and {early} is to be changed, which comes before it in a forward pass.\n"
            "  observe earlier sites, act at later ones, or decide in a forward of its own: timing='ahead'."
        )
