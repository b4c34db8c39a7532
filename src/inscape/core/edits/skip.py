"""Skip a layer, or its attention, state-space or MLP part: the stream passes as if it were not there."""

import re
from typing import Any

import torch
from torch import Tensor

from inscape.core.edit import Edit, make_edit
from inscape.core.errors import EditError
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
