"""A bank of means and kept rows: what it holds, how much of some inputs it covers, its shuffled control, its edits."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.circuits.bank.keys import Keys
from inscape.core.edit import Edit
from inscape.core.errors import ModelError, SiteError, TokenError
from inscape.core.step import Step
from inscape.engine.inputs import prepare
from inscape.models.model import Model


@dataclass(frozen=True, eq=False)
class Coverage:
    """How much of some inputs a bank has keys for. share: of their n positions; unseen: keys it lacks, with counts."""

    share: float
    n: int
    unseen: dict[str, int]


@dataclass(frozen=True, eq=False)
class Bank:
    """What sites say on average: by key, by position, over everything; and rows kept for resampling.

    counts: rows of each key. key_pos: the position that all rows of a key share, -1 where they share none.
    norm_ratio: for each site and kind of mean, mean |mean| over mean |h|: how much shorter than the data the means are.
    Far below 1, an ablation also shrinks the site; a norm that follows hides it and does not undo it.
    model: fingerprint of the weights it was made with; another model is refused.
    """

    keys: Keys
    counts: Int[Tensor, " key"]
    key_pos: Int[Tensor, " key"]
    position_counts: Int[Tensor, " pos"]
    means: dict[str, Float[Tensor, "key *axes"]]
    position_means: dict[str, Float[Tensor, "pos *axes"]]
    mean: dict[str, Float[Tensor, "*axes"]]
    pool: dict[str, Float[Tensor, "row *axes"]]
    pool_pos: Int[Tensor, " row"]
    pool_key: Int[Tensor, " row"]
    norm_ratio: dict[str, dict[str, float]]
    model: str
    tables: dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False)  # as runs have used them

    @property
    def sites(self) -> list[str]:
        return list(self.means)

    def edit(
        self, model: Model, site: str, how: str = "key", *, within: str = "all", seed: int = 0, **places: Any
    ) -> Edit:
        """Put the bank's values in place of a site's, real position by real position.

        how: "key", the mean of the position's key: what the position knows from its key alone; "position", the mean of
            its position; "mean", over everything; "zero"; "resample", a kept row, drawn by `seed` for each row and
            position alike whichever way they are reached.
        within: for "resample", "all" kept rows, or those of the same "position" or "key".
        A key that the bank lacks gets its position's mean (a position that it lacks, the mean of all), with an
        `UnseenKeyWarning` that says how many positions are covered. Works in forward, generate and training, on either
        padding side; values get no gradient. As cells of a sweep: `ins.sweep(..., edit=partial(bank.edit, model))`.
        Choose "key" to take away what a position knows of others, "position" to take away its own identity too,
        "resample" where a mean would leave what the model has met. Places: at=, heads=, units=, rows=.
        Raises: ModelError for another model, SiteError for a site that it does not hold, EditError.
        """
        from inscape.circuits.bank.lookup import edit

        self.check(model)
        return edit(self, site, how, within, seed, places)

    def coverage(self, model: Model, inputs: Any) -> Coverage:
        """How much of these inputs the bank has keys for; runs nothing. inputs: as `ins.run` takes them."""
        prepared = prepare(model, inputs)
        if prepared.mask is None or prepared.tokens is None:
            raise TokenError("these inputs are no tokens, so no key of tokens.")
        step = Step.of_mask(prepared.mask, 0, prepared.tokens)
        fresh = Keys(self.keys.key)
        row, column = (step.real >= 0).nonzero(as_tuple=True)
        asked = fresh.find(row, step.real[row, column], prepared.tokens.cpu().long()[row, column], add=True)
        counts = torch.bincount(asked, minlength=len(fresh.values)).tolist()
        unseen = {fresh.shown(v): n for v, n in zip(fresh.values, counts, strict=True) if v not in self.keys.number}
        return Coverage(1 - sum(unseen.values()) / max(1, len(asked)), len(asked), unseen)

    def shuffled(self, seed: int = 0) -> "Bank":
        """A control: the same means with keys permuted among those of one position, so that none keeps its own.

        A key that is alone at its position (a template's fixed token) stays where it is. Keys that share no single
        position are permuted among themselves.
        """
        generator = torch.Generator().manual_seed(seed)
        source = torch.arange(len(self.counts))
        for position in self.key_pos.unique():
            members = (self.key_pos == position).nonzero()[:, 0]
            order = members[torch.randperm(len(members), generator=generator)]
            source[order] = order.roll(1)
        means = {name: table[source] for name, table in self.means.items()}
        return replace(self, means=means, counts=self.counts[source])

    def check(self, model: Model) -> None:
        """Raise ModelError unless the bank was made with exactly these weights."""
        if model.fingerprint != self.model:
            raise ModelError(
                f"this bank was made with another model ({self.model}); this one is {model.fingerprint}.\n"
                "  its means say nothing here: build a bank with this model."
            )

    def unknown(self, site: str) -> SiteError:
        """The error for a site that is not here."""
        return SiteError(f"this bank does not hold {site}; it holds {', '.join(self.sites)}.")

    def save(self, path: str | Path) -> None:
        """Write it as one safetensors file. Raises: FileError; InputError for keys that a file cannot hold."""
        from inscape.circuits.bank.file import save

        save(self, path)

    @classmethod
    def load(cls, path: str | Path, key: Callable[..., Hashable] | None = None) -> "Bank":
        """Read what `save` wrote. key: the function, for a bank whose key is one; code is never stored."""
        from inscape.circuits.bank.file import load

        return load(path, key)

    def __repr__(self) -> str:
        ratios = [r["key"] for r in self.norm_ratio.values()]
        return (
            f"Bank({len(self.sites)} sites, {len(self.counts):,} keys by {self.keys.name}, "
            f"{int(self.position_counts.sum()):,} rows, |mean| / |h| {min(ratios):.2f} to {max(ratios):.2f})"
        )
