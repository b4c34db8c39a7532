"""From curves over layers to a depth: where a curve settles, and where its weight lies."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError, ShapeError
from inscape.core.interval import Interval
from inscape.core.nulls import bootstrap
from inscape.core.nulls.values import Values


def effective_depth(
    curve: Float[Tensor, " layer"] | Sequence[float], threshold: float, side: str = "below"
) -> int | None:
    """The first layer, from 0, from which on a curve stays on one side of a threshold; None when it never does.

    side: "below" (KL of a lens, effect of a skip) or "above" (overlap of top tokens); the threshold itself counts as
    settled. One layer beyond it late in the net undoes all before it: that is meant. There is no agreed threshold, so
    there is no default: give several and see whether the answer hangs on it.
    Raises: InputError for another side, or a curve with NaN.
    Source: the question of Csordas et al. 2025, arXiv:2505.13898; the definition is ours.
    """
    if side not in ("below", "above"):
        raise InputError(f"side={side!r}: a curve settles 'below' or 'above' a threshold.")
    values = torch.as_tensor(curve, dtype=torch.float64)
    if not bool(torch.isfinite(values).all()):
        raise InputError("the curve holds NaN or infinity, so nothing says on which side it lies.")
    settled = values <= threshold if side == "below" else values >= threshold
    out = (~settled).nonzero()
    first = int(out[-1]) + 1 if len(out) else 0
    return first if first < len(values) else None


def depth_score(
    effects: Float[Tensor, "item layer"], *, by: Values | None = None, n: int = 2000, seed: int = 0
) -> Interval:
    """The mean layer at which effects lie, `sum_l l e_l / sum_l e_l`, e_l the mean over items; layers from 0.

    effects: what skipping, attributing to or erasing each layer does, one row an item; not below zero. Compare the
    scores of easy and hard problems: where hard ones have a higher one, they use later layers. The effect of a layer
    far up is also larger because less comes after it to mend it, so a score alone says little.
    by: the item of each row. The interval is a bootstrap of items.
    Raises: InputError for negative effects or none at all; ShapeError for another shape.
    Source: Csordas et al. 2025, arXiv:2505.13898; the interval is ours.
    """
    held = torch.as_tensor(effects, dtype=torch.float64)
    if held.ndim != 2 or held.shape[1] < 2:
        raise ShapeError(f"effects have the shape {tuple(held.shape)}: [item, layer] of two layers or more is needed.")
    if bool((held < 0).any()) or not float(held.sum()) > 0:
        raise InputError("effects weigh the layers, so they cannot be negative or all zero; take their size.")
    layer = torch.arange(held.shape[1], dtype=torch.float64)

    def score(rows: Any) -> float:
        weight = rows.mean(0)
        return float((weight @ layer) / weight.sum())

    return bootstrap(held, score, by=by, n=n, method="percentile", seed=seed)
