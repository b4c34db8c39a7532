"""Hands what a generation computes to those who look on, once a forward, new columns only."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from inscape.core.errors import NotFiredError
from inscape.core.step import Step
from inscape.core.watch import Watch
from inscape.engine.columns import Columns
from inscape.engine.planning import names_of
from inscape.models.model import Model


class Watching:
    """The watches of one generation: which sites they share, and which columns they have seen."""

    def __init__(self, model: Model, watches: Sequence[Watch]) -> None:
        order = {name: i for i, name in enumerate(model.points)}
        self.watches = [(w, tuple(names_of(model, list(w.sites)))) for w in watches]
        named = {site for _, sites in self.watches for site in sites}
        self.sites = sorted(named, key=lambda site: order.get(site, len(order)))
        self.who = [[i for i, (_, sites) in enumerate(self.watches) if site in sites] for site in self.sites]
        eos = model.module.generation_config.eos_token_id
        self.eos = None if eos is None else torch.as_tensor(eos).reshape(-1)
        self.columns: Columns | None = None
        self.done, self.closed = 0, True
        self.over: Tensor | None = None

    def begin(self, columns: Columns) -> None:
        """A generation begins, whose columns are told by `columns`."""
        self.columns, self.done, self.over, self.closed = columns, 0, None, False
        self.kept: list[list[Tensor]] = [[] for _ in self.watches]
        for watch, sites in self.watches:
            watch.begin(sites)

    def end(self) -> None:
        """What runs from here on is not part of the generation."""
        self.closed = True

    @property
    def callbacks(self) -> Mapping[str, Callable[[Tensor, Step], None]]:
        """Site -> what is called with its value there."""
        return {site: partial(self._at, i) for i, site in enumerate(self.sites)}

    def _at(self, index: int, x: Tensor, step: Step) -> None:
        if self.closed:
            return
        if index == 0:
            self._open(step, x)
        width = self.step.stop - self.step.start
        x = x if x.shape[1] <= width else x[:, -width:]  # without a cache every forward has all columns once more
        for i in self.who[index]:
            value = self.watches[i][0].keep(x, self.step)
            self.kept[i].append(value.clone() if value is x else value)
        if index == len(self.sites) - 1:
            self._close()

    def _open(self, step: Step, x: Tensor) -> None:
        known = self.columns.step if self.columns is not None else None
        step = known or step
        self.step = replace(step, start=self.done, held={}, selections={}) if self.done > step.start else step
        if step.tokens is not None and self.step is not step:
            self.step.tokens = step.tokens[:, self.done - step.start :]
        for kept in self.kept:
            kept.clear()

    def _close(self) -> None:
        step = self.step
        live = step.real[:, step.start :] >= 0
        if self.eos is not None and step.tokens is not None:
            if self.over is not None:
                live = live & ~self.over[:, None]
            ended = torch.isin(step.tokens.cpu(), self.eos) & (torch.arange(step.start, step.stop) >= step.prompt)
            if step.stop - step.start > 1:
                live = live & (ended.long().cumsum(1) - ended.long() == 0)
            now = ended.any(1)
            self.over = now if self.over is None else self.over | now
        for i, (watch, sites) in enumerate(self.watches):
            if len(self.kept[i]) != len(sites):
                raise NotFiredError(
                    f"{type(watch).__name__} looks at {len(sites)} sites, and {len(self.kept[i])} of them happened in a"
                    " forward: a part of the model did not run."
                )
            watch.see(self.kept[i], step, live)
            self.kept[i] = []
        self.done = step.stop


def watches_of(watch: Any) -> list[Watch]:
    """One watch or several, as a list."""
    return list(watch) if isinstance(watch, (list, tuple)) else [watch] if watch is not None else []
