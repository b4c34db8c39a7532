"""Edits as vllm-lens steers by them: the JSON of its `apply_steering_vectors`, and back.

The file is the list that goes into a request's `vllm_xargs["apply_steering_vectors"]` (offline: `extra_args`), as
`[v.model_dump() for v in vectors]` makes it of vllm-lens's `SteeringVector`:

    activations       tensor [layers, d], for every token, or [layers, positions, d]: base64 of its bytes with dtype,
                      original_dtype, shape and, where they are compressed, compression="zstd"
    layer_indices     k: what block k gives (from 0), so `layers.k.resid_post`
    scale             h + scale * v
    norm_match        h + scale * |h| * v / |v|: `ins.add(..., unit="relative")`. Up to vllm-lens 1.1.0, |h| was that of
                      the MLP's part alone on models whose layers pass the residual on beside it (Llama, Qwen)
    position_indices  for [layers, positions, d]: absolute positions, counted as `at=` counts them; left out: 0, 1, ...
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.durable import disk_errors, written
from inscape.core.edit import Edit, at_site
from inscape.core.edits.add import add
from inscape.core.errors import EditError, FileError, InputError, ModelError
from inscape.core.extra import package
from inscape.engine.planning import names_of
from inscape.models.model import Model
from inscape.steer.affine_form import affine_form

FIELDS = ("activations", "layer_indices", "scale", "norm_match", "position_indices")
TYPES = {"float32": 4, "float16": 2, "float64": 8, "int16": 2}
LARGEST = 1 << 28  # bytes of one tensor; 80 layers of 8192 take 2.6 MB


def save_vllm_lens(path: str | Path, model: Model, edits: Edit | Sequence[Edit]) -> None:
    """Write edits for a request to vllm-lens: vectors added to the stream after a block.

    What can be said there: `ins.add` of one vector and strength, in any unit, for every token or at positions counted
    from the start (`at=0`, `at=[3, 4]`), at `resid_post`, or `resid_pre` from the second block on.

    Raises: EditError for any other edit or site; FileError where it cannot be written.
    """
    edits = (edits,) if isinstance(edits, Edit) else tuple(edits)
    if not edits:
        raise InputError("save_vllm_lens takes edits; the list is empty.")
    entries = [_entry(model, at_site(edit, site)) for edit in edits for site in names_of(model, edit.site)]
    with (
        disk_errors(str(path), lambda: "choose a folder that is there and has room."),
        written(Path(path), replace=True) as file,
    ):
        file.write(json.dumps(entries).encode())


def load_vllm_lens(path: str | Path, model: Model) -> list[Edit]:
    """Edits of a file of vllm-lens's steering vectors, one a layer and position, in its order.

    Compressed tensors take pyarrow (extra `store`). Raises: FileError for what is damaged or none of them, ModelError
    for layers or widths of another model.
    """
    edits = []
    for i, entry in enumerate(_read(path)):
        where = f"{str(path)!r}: vector {i}"
        if not isinstance(entry, Mapping) or not set(entry) <= set(FIELDS) or not {*FIELDS[:2]} <= set(entry):
            raise FileError(f"{where} is no steering vector; those have {', '.join(FIELDS)}.")
        values = _tensor(entry["activations"], where)
        layers, scale, match = entry["layer_indices"], entry.get("scale", 1.0), entry.get("norm_match", False)
        if (
            values.ndim not in (2, 3)
            or not _whole(layers)
            or len(layers) != len(values)
            or len(set(layers)) != len(layers)
        ):
            raise FileError(f"{where} has activations of shape {tuple(values.shape)} for the layers {layers!r}.")
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not math.isfinite(scale):
            raise FileError(f"{where} has the scale {scale!r}, which is no number.")
        if not isinstance(match, bool):
            raise FileError(f"{where}: norm_match is {match!r}, neither true nor false.")
        positions = entry.get("position_indices")
        if positions is not None and not _whole(positions):
            raise FileError(f"{where} has the positions {positions!r}.")
        for layer, value in zip(layers, values, strict=True):
            site = _site_of(model, layer, value.shape[-1], where)
            for at, vector in _placed(value, positions):
                d = Direction(site, vector.float(), f"{Path(path).name} vector {i}")
                edits.append(add(d, float(scale), unit="relative" if match else "vector", at=at))
    return edits


def _entry(model: Model, edit: Edit) -> dict[str, Any]:
    spec, vector = edit.spec or {}, edit.tensors.get("vector")
    layer = _layer_of(model, edit)
    if spec.get("kind") != "add" or vector is None or vector.ndim != 1 or edit.units is not None:
        raise EditError(f"{edit!r} has no form there; vllm-lens adds one vector to the stream.")
    positions = _positions(edit)
    everywhere = replace(edit, at=None)
    match = spec.get("unit") == "relative"
    if match:
        scale, vector = _share(everywhere, vector)
    else:
        scale, vector = 1.0, affine_form(everywhere, model.points[edit.site], tuple(vector.shape)).constant
    values = vector.detach().float().cpu()[None]
    if positions is not None:
        values = values.expand(len(positions), -1)[None]
    data = values.contiguous().numpy().astype("<f4")
    activations = {
        "data": base64.b64encode(data.tobytes()).decode("ascii"),
        "dtype": "float32", "original_dtype": "torch.float32", "shape": list(data.shape),
    }  # fmt: skip
    return dict(zip(FIELDS, (activations, [layer], scale, match, positions), strict=True))


def _share(edit: Edit, vector: Tensor) -> tuple[float, Tensor]:
    """Strength and direction of an edit in shares of a token's length. Raises: EditError where it is not one number."""
    spec, strength = edit.spec or {}, edit.tensors["scale"].detach()
    if strength.numel() != 1 or "schedule" in spec or spec.get("keep_norm") or edit.rows is not None:
        raise EditError(f"{edit!r} has no form there; vllm-lens adds with one strength and does not keep lengths.")
    return float(strength), vector / vector.norm()


def _positions(edit: Edit) -> list[int] | None:
    at = edit.at
    if at is None or at == "all":
        return None
    found = [at] if isinstance(at, int) else list(at) if isinstance(at, tuple) else []
    if not _whole(found) or len(set(found)) != len(found):
        raise EditError(
            f"{edit!r}: vllm-lens counts positions from the start of the prompt; give at=0, at=[3, 4], or none."
        )
    return found


def _layer_of(model: Model, edit: Edit) -> int:
    prefix, _, short = edit.site.rpartition(".")
    names = [block.name for block in model.blocks]
    if prefix in names and short == "resid_post":
        return names.index(prefix)
    if prefix in names and short == "resid_pre" and names.index(prefix):
        return names.index(prefix) - 1
    raise EditError(f"{edit!r}: vllm-lens steers the stream after a block, resid_post; {edit.site} is another place.")


def _site_of(model: Model, layer: int, width: int, where: str) -> str:
    if layer >= model.n_layers:
        raise ModelError(f"{where} is for layer {layer}; this model has {model.n_layers}, from 0.")
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    known = getattr(config, "hidden_size", width)
    if known != width:
        raise ModelError(f"{where} has vectors of {width} entries; the stream of this model has {known}.")
    return f"{model.blocks[layer].name}.resid_post"


def _placed(value: Tensor, positions: Sequence[int] | None) -> list[tuple[Any, Tensor]]:
    """(where, vector) of one layer; positions with one vector between them are one edit."""
    if value.ndim == 1:
        return [(None, value)]
    places = list(range(len(value)) if positions is None else positions)[: len(value)]
    if places and bool((value[: len(places)] == value[0]).all()):
        return [(places if len(places) > 1 else places[0], value[0])]
    return [(place, vector) for place, vector in zip(places, value, strict=False)]


def _whole(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(type(v) is int and v >= 0 for v in values)


def _tensor(coded: Any, where: str) -> Tensor:
    if not isinstance(coded, Mapping) or not {"data", "dtype", "shape"} <= set(coded):
        raise FileError(f"{where} has no tensor: data, dtype and shape belong there.")
    kind, shape, meant = coded["dtype"], coded["shape"], coded.get("original_dtype")
    if kind not in TYPES or not _whole(shape) or (kind == "int16") != (meant == "torch.bfloat16"):
        raise FileError(f"{where} has a tensor of {kind!r} (originally {meant!r}) and shape {shape!r}.")
    size = TYPES[kind] * math.prod(shape)
    if size > LARGEST:
        raise FileError(f"{where} would take {size:,} bytes, more than any steering vector.")
    try:
        data = base64.b64decode(coded["data"], validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise FileError(f"{where} is damaged: its data are no base64 ({error}).") from error
    if coded.get("compression") not in (None, "zstd"):
        raise FileError(f"{where} is compressed by {coded['compression']!r}; zstd is known.")
    if coded.get("compression") == "zstd":
        try:
            pyarrow = package("pyarrow", "store", "reading a compressed steering vector")
            data = pyarrow.Codec("zstd").decompress(data, decompressed_size=size, asbytes=True)
        except (OSError, ValueError) as error:
            raise FileError(f"{where} is damaged: {error}.") from error
    if len(data) != size:
        raise FileError(f"{where} is damaged: {len(data):,} bytes where its shape takes {size:,}.")
    values = torch.from_numpy(np.frombuffer(data, f"<{np.dtype(kind).str[1:]}").reshape(shape).copy())
    values = values.view(torch.bfloat16) if kind == "int16" else values
    if not bool(torch.isfinite(values).all()):
        raise FileError(f"{where} is NaN or infinite.")
    return values


def _read(path: str | Path) -> list[Any]:
    if not Path(path).is_file():
        raise FileError(f"there is no file {str(path)!r}.")
    try:
        found = json.loads(Path(path).read_bytes())
        found = json.loads(found) if isinstance(found, str) else found  # as it is inside a request
    except (ValueError, RecursionError) as error:
        raise FileError(f"{str(path)!r} is damaged or no JSON: {error}.") from error
    found = [found] if isinstance(found, dict) else found
    if not isinstance(found, list) or not found:
        raise FileError(f"{str(path)!r} holds no list of steering vectors.")
    return found
