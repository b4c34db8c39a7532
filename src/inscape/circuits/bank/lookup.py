"""From a bank to the values that stand in for a site's, at every column of a call."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from inscape.circuits.bank.bank import Bank
from inscape.core.edit import Edit, make_edit
from inscape.core.edits.sources import draws
from inscape.core.errors import EditError, ShapeError, TokenError
from inscape.core.step import Step

HOW = ("key", "position", "mean", "zero", "resample")
WITHIN = ("all", "position", "key")


class UnseenKeyWarning(UserWarning):
    """A bank was used where it has no value of its own, and a coarser one stood in."""


def edit(bank: Bank, site: str, how: str, within: str, seed: int, places: Mapping[str, Any]) -> Edit:
    """See `Bank.edit`."""
    if how not in HOW or within not in WITHIN:
        raise EditError(
            f"how={how!r}, within={within!r}: how is one of {', '.join(HOW)}, within one of {', '.join(WITHIN)}."
        )
    if how == "resample" and not len(bank.pool_pos):
        raise EditError("this bank kept no rows to draw from; build it with pool=512.")
    if "*" not in site and site not in bank.means:
        raise bank.unknown(site)

    def fn(x: Tensor, step: Step) -> Tensor:
        name, real = step.site, step.real[:, step.start :]
        if name not in bank.means:
            raise bank.unknown(name)
        if x.shape[:2] != real.shape or x.shape[2:] != bank.mean[name].shape:
            raise ShapeError(
                f"the bank holds {tuple(bank.mean[name].shape)} for each position of {name}; the activation has the "
                f"shape {tuple(x.shape)} on {tuple(real.shape)} tokens."
            )
        values = torch.zeros_like(x) if how == "zero" else _values(bank, how, within, seed, x, step)
        return torch.where(_like(real >= 0, x), values, x)

    said = {"key": f"mean by {bank.keys.name}", "position": "mean by position"}.get(how, how)
    return make_edit(site, fn, f"{site} := {said}", contextual=True, **places)


def _values(bank: Bank, how: str, within: str, seed: int, x: Tensor, step: Step) -> Tensor:
    real = step.real[:, step.start :]
    if how == "mean":
        return _table(bank, "mean", x, step)[torch.zeros_like(real).to(x.device)]
    if how == "resample":
        return _table(bank, "pool", x, step)[_drawn(bank, within, seed, step).to(x.device)]
    at = _position(bank, real)
    by_position = _table(bank, "position", x, step)[at.to(x.device)]
    if how == "position":
        _warn(at == len(bank.position_counts), step, "mean of the position", "the mean of everything")
        return by_position
    number = numbers(bank, step)
    _warn(number < 0, step, f"mean of the key ({bank.keys.name})", "the mean of their position")
    by_key = _table(bank, "key", x, step)[number.clamp(min=0).to(x.device)]
    return torch.where(_like(number >= 0, x), by_key, by_position)


def numbers(bank: Bank, step: Step) -> Int[Tensor, "row pos"]:
    """The key's number at every column of a call; -1 where the bank has none, and at padding."""
    real = step.real[:, step.start :]
    if step.tokens is None and bank.keys.key != "position":
        raise TokenError("these inputs are no tokens, so no key of tokens; use how='position'.")
    row, column = (real >= 0).nonzero(as_tuple=True)
    pos = real[row, column]
    tokens = pos if step.tokens is None else step.tokens.cpu().long()[row, column]
    out = torch.full_like(real, -1)
    out[row, column] = bank.keys.find(row, pos, tokens, known=_before(step))
    return out


def _position(bank: Bank, real: Tensor) -> Tensor:
    """Rows of the table by position; its last row stands for positions that were never seen."""
    n = len(bank.position_counts)
    at = torch.where((real >= 0) & (real < n), real, n)
    return torch.where(torch.cat([bank.position_counts, at.new_zeros(1)])[at] > 0, at, n)


def _table(bank: Bank, kind: str, x: Tensor, step: Step) -> Tensor:
    """Values of the site in the dtype and on the device of the run, kept for the next call."""
    at = (kind, step.site, x.dtype, x.device)
    if at not in bank.tables:
        whole = bank.mean[step.site][None]
        if kind == "mean":
            table = whole
        elif kind == "pool":
            table = bank.pool[step.site]
        elif kind == "position":
            table = torch.cat([bank.position_means[step.site], whole])
        else:
            table = bank.means[step.site] if len(bank.counts) else whole
        bank.tables[at] = table.to(x)
    return bank.tables[at]


def _drawn(bank: Bank, within: str, seed: int, step: Step) -> Tensor:
    """Which kept row each column gets."""
    share, n = draws(step, seed), len(bank.pool_pos)
    anyone = (share * n).long()
    if within == "all":
        return anyone
    real = step.real[:, step.start :].contiguous()
    groups, wanted = (bank.pool_pos, real) if within == "position" else (bank.pool_key, numbers(bank, step))
    order = groups.argsort(stable=True)
    low = torch.searchsorted(groups[order], wanted)
    count = torch.where(wanted >= 0, torch.searchsorted(groups[order], wanted, right=True) - low, 0)
    _warn(count == 0, step, f"kept row of the {within}", "any kept row")
    return torch.where(count > 0, order[(low + (share * count).long()).clamp(max=n - 1)], anyone)


def _warn(lacking: Tensor, step: Step, what: str, instead: str) -> None:
    """Warn of real positions, among those where the edit under way acts, that the bank has nothing for."""
    acts = step.real[:, step.start :] >= 0
    if step.place is not None:
        place = step.place.cpu()
        acts = acts & (place.flatten(2).any(-1) if place.ndim > 2 else place)
    lacking = lacking & acts
    if bool(lacking.any()):
        row, column = lacking.nonzero()[0].tolist()
        n, of = int(lacking.sum()), int(acts.sum())
        warnings.warn(
            f"{step.site}: the bank has no {what} for {n} of {of} positions (first: row {row}, position "
            f"{int(step.real[row, step.start + column])}); they get {instead}. Coverage here is {1 - n / of:.0%}.\n"
            "  bank.coverage(model, inputs) lists what is missing; build the bank from data that has it.",
            UnseenKeyWarning, stacklevel=2,
        )  # fmt: skip


def _like(mask: Tensor, x: Tensor) -> Tensor:
    return mask.to(x.device).reshape(*mask.shape, *[1] * (x.ndim - 2))


def _before(step: Step) -> dict[int, dict[int, int]] | None:
    """Tokens of earlier calls by row and position, where the engine remembers them."""
    if step.past is None:
        return None
    real = step.real[:, : step.past.shape[1]]
    return {
        row: {t: token for t, token in zip(ts, ids, strict=True) if t >= 0}
        for row, (ts, ids) in enumerate(zip(real.tolist(), step.past.tolist(), strict=True))
    }
