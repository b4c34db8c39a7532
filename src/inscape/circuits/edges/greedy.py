"""Edges removed one after the other, from the output backwards, wherever removing them changes next to nothing.

1. All edges are there. Readers are visited in reverse order of the forward pass; a reader whose node hands nothing on
   any more loses all its edges unseen.
2. Each of a reader's edges, the latest writer first, is cut; where the metric changes by less than the threshold it
   stays cut, and what follows is measured from there.
3. Several cuts are tried at once, as if each were to stay: the first, the first two, ... The first that must not stay
   ends the try, and the next begins behind it. The outcome is that of one cut after the other.
What lies before the reader's layer has not been cut yet, so a try starts at that layer, from the clean run.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inscape.circuits.edges.exact import EdgeRuns
from inscape.core.circuit import Circuit
from inscape.core.costs import words_of
from inscape.core.durable import disk_errors, written
from inscape.core.errors import FileError, InputError
from inscape.core.metrics import kl
from inscape.core.progress import Progress, tell
from inscape.models.model import Model

AT_ONCE = 16  # cuts in one try, at most
LEVELS = ("edges", "nodes")
_Step = list[tuple[int, int]]  # the edges of one cut


@dataclass(frozen=True)
class GreedyCost:
    """What a greedy search takes, counted before it begins.

    cuts: at most how many are tried. layers: block calls of one pair that this is, were each cut tried alone.
    seconds: foretold from the time of one try in the middle.
    """

    cuts: int
    layers: int
    seconds: float

    def __str__(self) -> str:
        return f"at most {self.cuts:,} cuts, about {words_of(self.seconds)}"


def greedy_edges(
    model: Model,
    clean: Any,
    corrupted: Any = None,
    *,
    threshold: float = 0.01,
    metric: Any = None,
    level: str = "edges",
    split: str = "heads",
    at_once: int = AT_ONCE,
    padding_side: str | None = None,
    batch_tokens: int | None = None,
    checkpoint: str | Path | None = None,
    progress: Progress = None,
) -> Circuit:
    """The edges whose removal is noticed: ACDC, exactly.

    A removed edge carries what its writer says on the corrupted prompt. With a divergence (the default, `kl()` from the
    whole model) an edge goes where the divergence grows by less than `threshold`; with any other metric, where its mean
    over pairs moves by less than that, either way.
    Choose it for the smallest circuit of a small model, or of few pairs: it counts what edges do together. Choose
    `best_edges` for a first look and for large models, `learned_edges` where greedy choices mislead (two edges that
    stand in for each other are both found useless, one after the other, and the second one stays by the order alone).
    clean, corrupted: as in `sweep`; prompts that line up. threshold: in units of the metric (nats), above 0. level:
        "nodes" removes all that a node hands on at once: as many cuts as nodes, hundreds of times fewer.
    split: what attention reads, by "heads", as "qkv" or "whole". at_once: cuts in one try.
    checkpoint: a file to go on from when it is there, written after every reader.
    Cost: foretold to `progress` (see `greedy_cost`); at most one run from the reader's layer on for every edge.
    Weights: by how much the metric changed when the edge was tried.
    Raises: as `EdgeRuns.of`; InputError for another threshold or level, FileError for another search's checkpoint.
    Source: Conmy et al. 2023, arXiv:2304.14997. Ours cuts several at once and only tries what is still connected.
    """
    runs = _runs(model, clean, corrupted, metric, threshold, level, split, padding_side, batch_tokens)
    job = _Greedy(runs, threshold, level, max(1, at_once), Path(checkpoint) if checkpoint is not None else None)
    job.resume()
    if progress is not None and job.done == 0:
        tell(progress, f"{_cost(runs, job.visits)}", 0.0)
    for number, cuts in enumerate(job.visits):
        if number < job.done:
            continue
        job.visit(cuts)
        job.done = number + 1
        job.save()
        left = int(job.keep.sum())
        tell(progress, f"{number + 1} of {len(job.visits)} visits, {left} edges left", (number + 1) / len(job.visits))
    about = f"greedy removal of {level}, threshold {threshold:g} of {runs.metric!r}, {job.tried} cuts tried"
    return runs.wiring.circuit(job.keep, job.weights, about)


def greedy_cost(
    model: Model, clean: Any, corrupted: Any = None, *, metric: Any = None, level: str = "edges", split: str = "heads",
    padding_side: str | None = None,
) -> GreedyCost:  # fmt: skip
    """What `greedy_edges` would take, at most: it times one cut in the middle layer. Most searches take less, as nodes
    that hand nothing on are skipped and cuts are tried together."""
    runs = _runs(model, clean, corrupted, metric, 1.0, level, split, padding_side, None)
    return _cost(runs, _Greedy(runs, 1.0, level, 1, None).visits)


def _runs(
    model: Model, clean: Any, corrupted: Any, metric: Any, threshold: float, level: str, split: str,
    side: str | None, batch_tokens: int | None,
) -> EdgeRuns:  # fmt: skip
    if not threshold > 0:
        raise InputError(f"threshold={threshold}: an edge goes where the metric changes by less, so it is above 0.")
    if level not in LEVELS:
        raise InputError(f"level={level!r}: it can be {' or '.join(LEVELS)}.")
    made = kl() if metric is None else metric
    more = {} if batch_tokens is None else {"batch_tokens": batch_tokens}
    return EdgeRuns.of(model, clean, corrupted, made, split=split, padding_side=side, **more)


def _cost(runs: EdgeRuns, visits: Sequence[Sequence[_Step]]) -> GreedyCost:
    cuts = sum(len(v) for v in visits)
    layers, readers = 0, runs.wiring.readers
    n = runs.model.n_layers
    for visit in visits:
        for cut in visit:
            layers += n - min(readers[r].layer for _, r in cut)
    middle = next(
        (c for v in visits for c in v if min(readers[r].layer for _, r in c) <= n // 2), [(0, len(readers) - 1)]
    )
    keep = runs.all.clone()
    keep[middle[0]] = False
    runs.measure(keep[None])
    begun = time.perf_counter()
    runs.measure(keep[None])
    one = (time.perf_counter() - begun) / max(1, n - readers[middle[0][1]].layer)
    return GreedyCost(cuts, layers, one * max(layers, cuts))


@dataclass(eq=False)
class _Greedy:
    runs: EdgeRuns
    threshold: float
    level: str
    at_once: int
    path: Path | None
    keep: Tensor = field(init=False)
    weights: Tensor = field(init=False)
    current: float = 0.0
    done: int = 0
    tried: int = 0

    def __post_init__(self) -> None:
        self.keep = self.runs.all.clone()
        self.weights = torch.zeros(self.keep.shape)
        self.current = self._means(self.keep[None])[0]

    @cached_property
    def visits(self) -> list[list[_Step]]:
        """What is tried together: the edges of a reader, or the nodes, from the output backwards."""
        wiring = self.runs.wiring
        if self.level == "nodes":
            order = sorted(range(len(wiring.writers)), key=lambda w: wiring.writers[w].order, reverse=True)
            return [[[(w, int(r)) for r in wiring.allowed[w].nonzero().flatten()]] for w in order]
        found = []
        for r in sorted(range(len(wiring.readers)), key=lambda r: -wiring.readers[r].before):
            found.append([[(w, r)] for w in reversed(range(wiring.readers[r].before))])
        return found

    def visit(self, cuts: Sequence[_Step]) -> None:
        """Try these cuts one after the other."""
        readers = sorted({r for cut in cuts for _, r in cut})
        if self.level == "edges" and not bool(self.runs.wiring.useful(self.keep)[readers[0]]):
            self.keep[:, readers[0]] = False
            return
        waiting, width = list(cuts), min(4, self.at_once)
        while waiting:
            group = waiting[:width]
            tries = [self._cut(self.keep, group[: i + 1]) for i in range(len(group))]
            values = self._means(torch.stack(tries))
            stays = 0
            for cut, value in zip(group, values, strict=True):
                change = value - self.current
                for w, r in cut:
                    self.weights[w, r] = change
                self.tried += 1
                if not self._is_small(change):
                    break
                stays, self.current = stays + 1, value
            self.keep = self._cut(self.keep, group[:stays]) if stays else self.keep
            waiting = waiting[stays + (stays < len(group)) :]
            width = min(self.at_once, 2 * width) if stays == len(group) else max(1, stays + 1)

    def _cut(self, keep: Tensor, cuts: Sequence[_Step]) -> Tensor:
        keep = keep.clone()
        for w, r in (edge for cut in cuts for edge in cut):
            keep[w, r] = False
        return keep

    def _is_small(self, change: float) -> bool:
        return change < self.threshold and (bool(self.runs.metric.reference) or change > -self.threshold)

    def _means(self, keep: Tensor) -> list[float]:
        return self.runs.measure(keep).double().mean(1).tolist()

    # -- going on after a kill -------------------------------------------------------------------------------------

    @property
    def _asked(self) -> dict[str, Any]:
        runs = self.runs
        prompts = [x.tokens for x in (runs.both.base, runs.both.source) if x is not None and x.tokens is not None]
        digest = hashlib.sha256(json.dumps([t.tolist() for t in prompts]).encode()).hexdigest()[:16]
        return {
            "kind": "greedy edges", "model": runs.wiring.model, "threshold": self.threshold, "level": self.level,
            "metric": repr(runs.metric), "edges": list(self.keep.shape), "prompts": digest,
        }  # fmt: skip

    def resume(self) -> None:
        if self.path is None or not self.path.exists():
            return
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            if kept["asked"] != self._asked:
                raise FileError(
                    f"{str(self.path)!r} is of another search ({kept['asked']}).\n"
                    "  give another checkpoint, or delete this one."
                )
            self.done, self.tried, self.current = int(kept["done"]), int(kept["tried"]), float(kept["current"])
            self.keep = torch.tensor(kept["keep"], dtype=torch.bool)
            self.weights = torch.tensor(kept["weights"], dtype=torch.float32)
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise FileError(f"{str(self.path)!r} is no checkpoint of greedy_edges: {error}.") from error

    def save(self) -> None:
        if self.path is None:
            return
        kept = {
            "asked": self._asked, "done": self.done, "tried": self.tried, "current": self.current,
            "keep": self.keep.int().tolist(), "weights": self.weights.tolist(),
        }  # fmt: skip
        with (
            disk_errors(str(self.path), lambda: "choose a folder that is there and has room."),
            written(self.path, replace=True) as file,
        ):
            file.write(json.dumps(kept).encode())
