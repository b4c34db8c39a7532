"""What positions do to queries: the turn of a rotary embedding, measured on the model."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.circuits.weights.origins import Origin
from inscape.core.errors import InputError, ModelError
from inscape.engine.probe import evaluating, lone_tokens, record
from inscape.models.model import Model

ROWS = 24  # tokens a position: three times as many as unknowns in a plane would do, and slow planes need more


def queries(
    model: Model, origins: Mapping[str, Origin], rows: int, columns: int
) -> dict[str, tuple[Float[Tensor, "row pos n"], Float[Tensor, "row pos n"]]] | None:
    """By site of queries: what their modules gave, and what the scores use, in one run; None where no probe runs.

    origins: where the queries of each site come from.
    """
    inputs = lone_tokens(model, rows, columns)
    if inputs is None:
        return None
    with evaluating(model.module), torch.no_grad():
        values, _, _ = record(model, inputs, [*origins, *(f"@{p}" for o in origins.values() for p in o.paths)])
    out = {}
    for site, origin in origins.items():
        given = {p: _by_position(values[f"@{p}"], rows, columns) for p in origin.paths}
        out[site] = origin.values(given).double(), values[site].flatten(2).double()
    return out


def _by_position(x: Tensor, rows: int, columns: int) -> Tensor:
    """[row, pos, everything else]: norms of single heads may see [row, head, pos, d]."""
    if x.ndim == 4 and x.shape[1] != columns:
        x = x.transpose(1, 2)
    return x.flatten(2) if x.ndim > 3 else x.reshape(rows, columns, -1)


def are_turned(before: Float[Tensor, "row pos n"], after: Float[Tensor, "row pos n"]) -> bool:
    """Do queries past the first position differ from what their modules gave?"""
    return float((before - after)[:, 1:].abs().max()) > 1e-4 * float(before.abs().max())


def turn_at(before: Float[Tensor, "row d"], after: Float[Tensor, "row d"], where: str) -> Float[Tensor, "d d"]:
    """The turn of pairs of entries that takes `before` to `after`: `after = before @ turn`.

    Each entry is fitted as a multiple of itself plus a multiple of one other; the partner with the smallest rest is
    its plane, so halves, neighbours and partial rotations are found alike.
    Raises: ModelError when some entry is no such sum.
    """
    gram, cross = before.T @ before, before.T @ after  # [d, d]; cross[i, j] = before_i . after_j
    own, mine = gram.diagonal(), cross.diagonal()
    det = own[:, None] * own[None, :] - gram * gram  # [entry j, partner i]
    det = torch.where(det > 1e-9 * own[:, None] * own[None, :], det, torch.inf)
    a = (mine[:, None] * own[None, :] - cross.T * gram) / det
    b = (cross.T * own[:, None] - mine[:, None] * gram) / det
    rest = after.square().sum(0)[:, None] - a * mine[:, None] - b * cross.T
    rest.fill_diagonal_(torch.inf)
    partner = rest.argmin(1)
    entries = torch.arange(len(own))
    turn = torch.zeros_like(gram)
    turn[entries, entries] = a[entries, partner]
    turn[partner, entries] = b[entries, partner]
    off = float((before @ turn - after).norm() / after.norm().clamp(min=1e-30))
    if off > 1e-2:
        raise ModelError(
            f"offsets: what positions do to the queries of {where} is no turn of pairs (off by {off:.1e} of them).\n"
            "  leave offsets out for the product at offset zero."
        )
    return turn


def mean_turn(
    model: Model, site: str, origin: Origin, heads: int, head: int, offsets: tuple[int, ...]
) -> Float[Tensor, "d d"]:
    """The turn of one head's queries, averaged over distances from query to key: `mean_o R_o`.

    The score of a query at p and a key at p - o is `(q R_p) . (k R_{p-o}) = (q R_o) . k`: only the distance counts.
    Raises: ModelError when the rows do not fit this model, or positions act in another way.
    """
    found = queries(model, {site: origin}, ROWS, max(offsets) + 1)
    if found is None:
        raise ModelError(f"offsets={list(offsets)}: this model does not run on rows of {max(offsets) + 1} tokens.")
    before, after = (x.unflatten(-1, (heads, -1))[:, :, head] for x in found[site])
    turns = [turn_at(before[:, o], after[:, o], site) for o in offsets]
    return torch.stack(turns).mean(0).float()


def checked_offsets(offsets: Sequence[int]) -> tuple[int, ...]:
    """Distances from query to key as a tuple of whole numbers, none negative."""
    wanted = tuple(offsets)
    if not wanted or any(not isinstance(o, int) or isinstance(o, bool) or o < 0 for o in wanted):
        raise InputError(
            f"offsets={list(offsets)!r}: give distances from query back to key, such as [1] for the token before."
        )
    return wanted
