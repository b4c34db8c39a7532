"""What linear probes share: their values, the classes these say, and the direction that their weights are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.errors import InputError
from inscape.core.readout import Labels, Rows, labels_of, row_batches, units_of


def decided(x: Rows, weight: Float[Tensor, "k d"], bias: Float[Tensor, " k"]) -> Float[Tensor, "n k"]:
    """W x + b of every row, in float64."""
    units_of(x, d=weight.shape[1])
    return torch.cat([part.cpu() @ weight.T + bias for _, part in row_batches(x)])


def said(z: Float[Tensor, "n k"], classes: Sequence[Any]) -> np.ndarray:
    """The class that each row's values say: the second of two above 0, else the largest."""
    code = (z[:, 0] > 0).long() if z.shape[1] == 1 else z.argmax(1)
    return np.asarray(classes)[code.numpy()]


def weight_of(weight: Float[Tensor, "k d"], classes: Sequence[Any], of: Any) -> Float[Tensor, " d"]:
    """The weights of one class; of two classes, the first one's are minus the second one's."""
    if of is None:
        if len(classes) > 2:
            raise InputError(f"this probe knows {len(classes)} classes: say which, of={classes[0]!r}.")
        return weight[0]
    if of not in classes:
        raise InputError(f"there is no class {of!r}; the classes are {', '.join(map(repr, classes))}.")
    place = list(classes).index(of)
    return weight[place] if len(classes) > 2 else weight[0] * (1 if place else -1)


def as_direction(probe: Any, vector: Tensor, site: str, source: str, model: Any) -> Direction:
    """What a probe found as a direction, for the site and model it was fitted on unless others are named."""
    where = site or getattr(probe, "site_", "")
    if not where:
        raise InputError(
            f"this {type(probe).__name__} was fitted on a tensor, which does not know its site.\n"
            "  write probe.direction('layers.5.resid_post'), or fit it on a column of a store."
        )
    whose = getattr(probe, "model_", "") if model is None else getattr(model, "fingerprint", model)
    return Direction(where, vector.clone(), source, str(whose))


def flags_of(y: Labels, n: int, *, both: bool = False) -> Bool[Tensor, " n"]:
    """Labels as yes and no: True, 1 and other numbers above 0 are yes. both: refuse labels that are all alike."""
    held = labels_of(y, n)
    if held.dtype.kind not in "bifu":
        raise InputError(f"labels of a yes or no are True and False or 1 and 0; got {held.tolist()[0]!r}.")
    yes = torch.from_numpy(held > 0)
    if both and (bool(yes.all()) or not bool(yes.any())):
        raise InputError("all labels are alike: a probe of a yes or no needs rows of both classes.")
    return yes
