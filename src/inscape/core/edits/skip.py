"""Skip a layer, or its attention, state-space or MLP part: the stream passes as if it were not there.

`skip` names the layer; `skip_layers` takes a mask of layers and tokens, such as a map of voids. Policies that decide
for every token while the model runs are in `core/edits/skip_voids.py`.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from inscape.core.edit import Edit, make_edit
from inscape.core.errors import EditError, ShapeError
from inscape.core.step import Step

PARTS = {"attn": "attn_out", "mlp": "mlp_out", "ssm": "ssm_out", "cross": "cross_out"}
_LAYER = re.compile(r"(\w+\.)?layers\.[\w*?\[\]-]+(\.(attn|mlp|ssm|cross))?")


def skip(layer: str, **places: Any) -> Edit:
    """Let the stream pass a layer ("layers.7", "layers.*") or one part of it ("layers.7.attn", ".mlp", ".ssm").

    A layer: resid_post := resid_pre, exact for every block layout. A part: what it adds is set to zero. The block
    still runs (its keys and values go on being cached), so nothing is saved; the effect is that of its absence.
    """
    if not _LAYER.fullmatch(layer):
        raise EditError(
            f"skip({layer!r}): name a layer or a part of one, such as 'layers.7', 'encoder.layers.2', "
            "'layers.7.attn' or "
            "'layers.7.mlp'."
        )
    head, _, last = layer.rpartition(".")
    if last in PARTS:
        site = f"{head}.{PARTS[last]}"
        return make_edit(site, torch.zeros_like, f"skip {layer}", spec={"kind": "skip", "layer": layer}, **places)

    def fn(x: Tensor, step: Step) -> Tensor:
        return step.held["resid_pre"]

    return make_edit(
        f"{layer}.resid_post", fn, f"skip {layer}", contextual=True, needs=("resid_pre",),
        spec={"kind": "skip", "layer": layer}, **places,
    )  # fmt: skip


def skip_layers(mask: Bool[Tensor, "layer *places"], layers: str | Sequence[str] = "layers.{i}") -> list[Edit]:
    """Skip some layers for some tokens: one `skip` a layer that the mask marks anywhere.

    mask: true where a layer is skipped: [layer] for every token, [layer, pos] for every row alike, or [layer, batch,
    pos]; columns as they are fed, padding counted (`VoidMap.void` has this shape). Tokens that are generated behind the
    columns of the mask pass every layer. layers: the names of its rows, a form with {i} or a list.
    As with `skip`, blocks run and only what they say is dropped: nothing is saved.
    Raises: ShapeError for a mask of other axes or another number of names.
    """
    if not 1 <= mask.ndim <= 3:
        raise ShapeError(
            f"skip_layers got a mask of shape {tuple(mask.shape)}: it is [layer, (batch,) pos] or [layer]."
        )
    names = [layers.format(i=i) for i in range(len(mask))] if isinstance(layers, str) else list(layers)
    if len(names) != len(mask):
        raise ShapeError(f"skip_layers got {len(names)} names for a mask of {len(mask)} layers: give one a layer.")
    return [
        skip(name, at=here if here.ndim else None) for name, here in zip(names, mask, strict=True) if bool(here.any())
    ]
