"""One rank-one part of what a head moves, made stronger, weaker or taken away: in weights or in activations."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from inscape.circuits.weights.head import HeadWeights, head
from inscape.circuits.weights.layer import block_of, layers
from inscape.circuits.weights.origins import plain_weight
from inscape.core.edit import Edit
from inscape.core.edits.values import edit
from inscape.core.errors import ModelError, ShapeError
from inscape.models.model import Model


@contextlib.contextmanager
def weight_component(
    model: Model, layer: int | str, head: int, i: int | tuple[int, ...], scale: float = 0.0, *, fold: bool = True
) -> Iterator[None]:
    """Multiply component i of a head's OV by `scale` in the weights, until the `with` ends; 0 takes it away.

    `W_O <- (I - (1 - scale) a b) W_O` with `a = W_O v_i'`, `b W_O = v_i` and v_i the direction that component writes:
    the OV matrix loses `(1 - scale) s_i u_i' v_i` and nothing else. Only W_O is touched, so heads that share keys and
    values with this one keep theirs. Afterwards the weights are as they were, bit for bit, also on an error. The same
    as `component_edit` on the activations; choose this one to compile, save or measure an edited model without hooks.
    i: a component or several, strongest first.
    Cost: a copy of one head's rows of the output projection.
    Raises: ModelError for an output projection whose weight is not a plain matrix (quantised, an adapter).
    Source: Merullo et al. 2024, arXiv:2406.09519.
    """
    found = _head(model, layer, head, fold)
    module = layers(model, [block_of(model, layer)])[0].out
    weight = plain_weight(module)
    if weight is None or not isinstance(module.weight, torch.nn.Parameter):
        raise ModelError(
            f"the output projection of {found.layer} ({type(module).__name__}) holds no plain weight to change.\n"
            "  use weights.component_edit, which changes the activations instead."
        )
    width = found.W_O.shape[0]
    rows = weight.detach()[found.head * width : (found.head + 1) * width]  # a view: writing to it writes the weight
    before = rows.clone()
    a, b = _removal(found, i)
    try:
        rows.copy_((before.double() - (1 - scale) * a @ (b @ before.double())).to(rows))
        yield
    finally:
        rows.copy_(before)


def component_edit(
    model: Model, layer: int | str, head: int, i: int | tuple[int, ...], scale: float = 0.0, *, fold: bool = True,
    **places: object,
) -> Edit:  # fmt: skip
    """The edit at `attn.z` that multiplies component i of a head's OV by `scale`; see `weight_component`.

    `z <- z - (1 - scale) (z a) b`. Takes at= and rows=, which weights cannot.
    Raises: ShapeError for a component that is not there.
    """
    found = _head(model, layer, head, fold)
    a, b = _removal(found, i)

    def fn(z: Tensor) -> Tensor:
        wide = z.to(torch.promote_types(z.dtype, torch.float32))
        return (wide - (1 - scale) * (wide @ a.to(wide)) @ b.to(wide)).to(z)

    site = f"{found.layer}.attn.z"
    return edit(site, fn, f"component {i} of {found.name} x {scale:g}", heads=[found.head], **places)


def _head(model: Model, layer: int | str, index: int, fold: bool) -> HeadWeights:
    return head(model, layer, index, fold=fold)


def _removal(found: HeadWeights, i: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """(a, b), d_v x k and k x d_v: how much of each component z holds, and what z holds of it alone."""
    chosen = [i] if isinstance(i, int) else list(i)
    parts = found.OV.components
    wrong = [c for c in chosen if not -len(parts) <= c < len(parts)]
    if wrong:
        raise ShapeError(f"{found.name} has {len(parts)} components; there is no {wrong[0]}.")
    v, W_O = parts.write[chosen].double(), found.W_O.double()
    return W_O @ v.T, v @ torch.linalg.pinv(W_O)
