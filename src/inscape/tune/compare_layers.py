"""What tuning one layer gains on held-out answers, beside every other layer and beside exchanged answers.

A layer that tells of a fault (by a lens, a probe, an attribution) need not be the one to tune. Three things are asked
of the same items, in several rounds that divide them anew: the layer tuned on right answers, the others tuned on them,
and the layer tuned on the same prompts with their answers dealt to one another. What the third gains is no cure: it is
what any tuning towards these answers does.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.interval import Interval
from inscape.core.nulls import bootstrap
from inscape.core.progress import Progress
from inscape.models.model import Model
from inscape.train import answer_batches, no_better
from inscape.tune.layers import Score, blocks_named, tune_layers

Ask = Callable[[Int[Tensor, " row"]], Int[Tensor, " row"]]


@dataclass(frozen=True, eq=False)
class Round:
    """One division of the items, such that no answer is in two parts (`tasks.split.split_by_answer`).

    prompts, answers: texts to tune on, each answer with its space. held, test: rows of the items that end a tuning
    early, and that are reported. trained: the answers (as numbers) that are tuned on. more: other texts to tune the
    layer on, by name. score: further numbers of a tuned model.
    """

    prompts: Sequence[str]
    answers: Sequence[str]
    held: Int[Tensor, " h"]
    test: Int[Tensor, " t"]
    trained: Int[Tensor, " k"]
    more: Mapping[str, tuple[Sequence[str], Sequence[str]]] = field(default_factory=dict)
    score: Callable[[Model], Mapping[str, float]] | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class LayersCompared:
    """The tested rows of all rounds, one round after another, and what was answered before and after each tuning.

    after: by what was tuned on ("tuned", "exchanged", names of `more`). kinds: those of the tested rows. layers: by
    layer and kind (or name of `score`), the gain in its share right, as the mean of the rounds. said_trained: share of
    tested rows answered by an answer of the tuning: a tuning that raises it has moved the model to those answers.
    scores: after tuning the layer, the mean of the rounds. steps: of those tunings, the mean.
    """

    layer: str
    rows: Int[Tensor, " row"]
    due: Int[Tensor, " row"]
    before: Int[Tensor, " row"]
    after: dict[str, Int[Tensor, " row"]]
    kinds: dict[str, Bool[Tensor, " row"]]
    layers: dict[str, dict[str, float]]
    said_trained: dict[str, float]
    scores: dict[str, float]
    steps: float

    def gain(self, name: str = "tuned") -> Float[Tensor, " row"]:
        """Of each tested row: 1 if it became right, -1 if it became wrong, else 0. Raises: InputError."""
        if name not in self.after:
            raise InputError(f"nothing was tuned on {name!r}; there are {', '.join(map(repr, self.after))}.")
        return (self.after[name] == self.due).double() - (self.before == self.due).double()

    def gained(self, kind: str, name: str = "tuned", *, seed: int = 0) -> Interval:
        """The gain in the share right of the rows of a kind, with an interval of whole answers. Raises: InputError."""
        if kind not in self.kinds:
            raise InputError(f"no kind of item is called {kind!r}; there are {', '.join(map(repr, self.kinds))}.")
        on = self.kinds[kind]
        return bootstrap(self.gain(name)[on], by=self.due[on], seed=seed)

    def others(self, kind: str) -> list[float]:
        """The gains of the layers that it is compared with."""
        return [gains[kind] for layer, gains in self.layers.items() if layer != self.layer]

    def rank(self, kind: str) -> int:
        """Its place among all layers by their gain, the largest first; a tie counts for the others."""
        return 1 + sum(x >= self.layers[self.layer][kind] for x in self.others(kind))

    def beyond_median(self, kind: str) -> float:
        """By how much its gain exceeds the median of the other layers."""
        return self.layers[self.layer][kind] - float(torch.tensor(self.others(kind)).quantile(0.5))


def compare_layers(
    model: Model,
    layer: str | int,
    rounds: Iterable[Round],
    ask: Ask,
    due: Int[Tensor, " item"],
    kinds: Mapping[str, Bool[Tensor, " item"]],
    *,
    steps: int = 120,
    size: int = 32,
    patience: int = 3,
    progress: Progress = None,
    **tuning: Any,
) -> LayersCompared:
    """Tune a layer, every other layer, and the layer on exchanged answers; ask held-out items after each, then undo it.

    Choose it to say whether a layer is the one to tune; `tune_layers` tunes, with a few random layers beside it. Hold
    whole answers out: a gain on answers that were tuned on may be nothing but having been told them.
    rounds: the divisions, three or more so that a lucky one does not decide. ask: what the model answers now to these
    rows, as numbers of answers. due: the right answer of each item. kinds: by name, which items are of it; each is
    scored apart. steps, size: of a tuning and its batches. patience: it ends after so many twelfths of the steps
    without a better share right in `held`. tuning: further settings of `tune_layers` (method, lr, rank, parts, ...).
    Cost: rounds x (layers + 1 + how many are in `more`) tunings, and twelve times asking `held` in each.
    Raises: InputError without rounds, for several layers, or a kind without tested items; as `tune_layers`.
    Source: the tuning of one layer is that of arXiv:2504.12585, beside random layers; rounds, all the other layers,
    exchanged answers and the share of answers tuned on are ours.
    """
    chosen = blocks_named(model, layer)
    rounds = list(rounds)
    if len(chosen) != 1 or not rounds:
        raise InputError(
            f"{layer!r} names {len(chosen)} layers, to be tuned in {len(rounds)} rounds: give one layer, and at least "
            "one round."
        )
    for i, one in enumerate(rounds):
        empty = ["held out", *kinds] if not len(one.held) else [k for k, of in kinds.items() if not of[one.test].any()]
        if empty:
            raise InputError(
                f"round {i} has no item that is {empty[0]!r}, of {len(one.held)} held out and {len(one.test)} tested.\n"
                "  divide the items so that each round has some."
            )
    name = chosen[0].name
    stack = next(blocks for _, blocks in model.resolved.stacks if any(block.name == name for block in blocks))
    before, after, gains = [], {}, {}
    said, scores, taken = {}, {}, []
    for one in rounds:
        settings: Any = {
            "steps": steps, "seed": one.seed, "measure": max(1, steps // 12), "stop": no_better("held", patience),
            "meters": {"held": lambda _, rows=one.held: _share(ask(rows) == due[rows])}, "progress": progress,
        }  # fmt: skip
        before.append(ask(one.test))
        trained = {"before": before[-1]}
        for what, (prompts, answers) in _texts(one).items():
            batches = answer_batches(model.tokenizer, prompts, answers, size=size, seed=one.seed)
            beside: Any = {}
            if what == "tuned":
                beside = {"score": _score(one, ask, due, kinds), "control": "random", "n_controls": len(stack) - 1}
            with tune_layers(model, name, batches, **settings, **beside, **tuning) as tuned:
                trained[what] = ask(one.test)
            after.setdefault(what, []).append(trained[what])
            if what == "tuned":
                taken.append(tuned.history.steps)
                for at, now in ((name, tuned.after), *((c.layers[0], c.after) for c in tuned.controls)):
                    for key in now:
                        gains.setdefault((at, key), []).append(now[key] - tuned.before[key])
                for key, value in tuned.after.items():
                    scores.setdefault(key, []).append(value)
        for what, given in trained.items():
            said.setdefault(what, []).append(_share(torch.isin(given, one.trained)))
    rows = torch.cat([one.test for one in rounds])
    layers: dict[str, dict[str, float]] = {block.name: {} for block in stack}
    for (at, key), values in gains.items():
        layers[at][key] = _mean(values)
    return LayersCompared(
        name, rows, due[rows], torch.cat(before), {what: torch.cat(parts) for what, parts in after.items()},
        {kind: of[rows] for kind, of in kinds.items()}, layers,
        {what: _mean(values) for what, values in said.items()}, {key: _mean(values) for key, values in scores.items()},
        _mean(taken),
    )  # fmt: skip


def _texts(one: Round) -> dict[str, tuple[Sequence[str], Sequence[str]]]:
    """What the layer is tuned on, by name; the answers are exchanged among all prompts, so that each stays as often."""
    exchanged = random.Random(one.seed).sample(list(one.answers), len(one.answers))
    return {"tuned": (one.prompts, one.answers), "exchanged": (one.prompts, exchanged), **one.more}


def _score(one: Round, ask: Ask, due: Tensor, kinds: Mapping[str, Tensor]) -> Score:
    def score(model: Model) -> dict[str, float]:
        right = ask(one.test) == due[one.test]
        also = one.score(model) if one.score is not None else {}
        return {**{kind: _share(right[of[one.test]]) for kind, of in kinds.items()}, **also}

    return score


def _share(flags: Bool[Tensor, " _"]) -> float:
    return float(flags.double().mean())


def _mean(values: Sequence[float | int]) -> float:
    return sum(values) / len(values)
