"""llama.cpp's control vectors as directions: which layer number is which site, and what a file of them must hold.

    general.architecture       "controlvector"
    controlvector.model_hint   the model's type ("gemma3"); no reader checks it
    controlvector.layer_count  how many directions; written as u32 by repeng, as i32 by llama.cpp, read by neither
    direction.<k>              float32 [d_model], k from 1: added to the output of block k, counted from 0

So `direction.k` is `layers.k.resid_post`. In llama.cpp, `llama_control_vector_load_one` (common/common.cpp) refuses
`direction.0` and puts `direction.k` at row k - 1; `llama_adapter_cvec::apply` (src/llama-adapter.cpp) takes row il - 1
for il from 1, since "there's never a tensor for layer 0"; and each model adds it to `l_out` of block il, after both
residual additions (`build_cvec(cur, il)` in src/models/*.cpp). repeng numbers alike. Block 0 can therefore not be
steered there, and a number from the count of layers on is passed over in silence.

llama.cpp's own generator names what it measured at the output of block k - 1 `direction.k` (tools/cvector-generator);
what is loaded here is what acts, at block k.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from inscape.core.direction import Direction
from inscape.core.errors import FileError, NotFiniteError, ShapeError, SiteError
from inscape.core.gguf_file import read_gguf, write_gguf

KIND = "controlvector"
_SITE = re.compile(r"(?P<prefix>text\.)?layers\.(?P<layer>\d+)\.(?P<short>\w+)")
_NAME = re.compile(r"direction\.([1-9]\d{0,5})")


def save_control_vector(path: str | Path, directions: Iterable[Direction], *, model_hint: str = "") -> None:
    """Write directions at `layers.<k>.resid_post`, k from 1, as a GGUF control vector for llama.cpp and repeng.

    What llama.cpp then does with `--control-vector FILE` (or `--control-vector-scaled FILE s`) is
    `ins.add(direction, scale=1)` (or s) at every one of these sites and at all tokens. Sources and the fingerprint of
    the model go along under names of our own, which other readers pass over.

    Raises: SiteError for a site that has no number there, two directions at one site, or none; ShapeError for vectors
    that are not of one width; NotFiniteError for NaN or infinity; FileError where the file cannot be written.
    """
    by_layer: dict[int, Direction] = {}
    prefixes = set()
    for direction in directions:
        prefix, layer = _layer_of(direction.site)
        if layer in by_layer:
            raise SiteError(
                f"two directions at {direction.site}: a control vector holds one a layer; add them up first."
            )
        prefixes.add(prefix)
        by_layer[layer] = direction
    if not by_layer:
        raise SiteError("no directions: a control vector holds one at least.")
    if len(prefixes) > 1:
        raise SiteError("a control vector is of one stack of layers; these directions are of two.")
    width = next(iter(by_layer.values())).vector.shape
    for direction in by_layer.values():
        if direction.vector.ndim != 1 or direction.vector.shape != width:
            raise ShapeError(
                f"the vector at {direction.site} has shape {tuple(direction.vector.shape)}; a control vector holds "
                f"vectors (d_model,) of one width."
            )
        if not bool(torch.isfinite(direction.vector.float()).all()):
            raise NotFiniteError(f"the vector at {direction.site} is NaN or infinite in float32; fit it again.")
    order = sorted(by_layer)
    about = {f"{KIND}.model_hint": model_hint, f"{KIND}.layer_count": len(order)}
    about |= {
        "inscape.sources": json.dumps([by_layer[k].source for k in order]),
        "inscape.models": json.dumps([by_layer[k].model for k in order]),
        "inscape.prefix": prefixes.pop(),
    }
    write_gguf(path, KIND, about, {f"direction.{k}": by_layer[k].vector for k in order})


def load_control_vector(path: str | Path) -> list[Direction]:
    """Directions at `layers.<k>.resid_post`, in order of layers, from a GGUF control vector of any program.

    Raises: FileError for anything that is not one: see `read_gguf`; also a tensor of another name, `direction.0`,
    other axes than one, unequal widths, no tensors, NaN or infinity.
    """
    about, tensors = read_gguf(path, KIND)
    if not tensors:
        raise FileError(f"{str(path)!r} holds no directions.")
    numbers = {}
    for name, tensor in tensors.items():
        found = _NAME.fullmatch(name)
        if found is None:
            raise FileError(
                f"{str(path)!r} holds a tensor {name!r}; a control vector has direction.1, direction.2 and so on.\n"
                "  direction.0 is refused by llama.cpp too: it never steers block 0."
            )
        if tensor.ndim != 1 or not len(tensor) or tensor.shape != next(iter(tensors.values())).shape:
            raise FileError(
                f"{str(path)!r}: {name} has shape {tuple(tensor.shape)}; all must be [d_model] of one width."
            )
        if not bool(torch.isfinite(tensor).all()):
            raise FileError(f"{str(path)!r}: {name} is NaN or infinite.")
        numbers[int(found[1])] = tensor
    order = sorted(numbers)
    sources, models = (_ours(about, f"inscape.{name}", len(order)) for name in ("sources", "models"))
    prefix = "text." if about.get("inscape.prefix") == "text." else ""
    given = f"control vector {Path(path).name}"
    return [
        Direction(
            f"{prefix}layers.{k}.resid_post", numbers[k], sources[i] if sources else given, models[i] if models else ""
        )
        for i, k in enumerate(order)
    ]


def _layer_of(site: str) -> tuple[str, int]:
    found = _SITE.fullmatch(site)
    layer = int(found["layer"]) if found else -1
    if found is None or found["short"] not in ("resid_post", "resid_pre"):
        raise SiteError(
            f"a control vector acts on the stream after a block, layers.<k>.resid_post, not at {site!r}.\n"
            "  save it with .save(path), or save an edit made of it with ins.save_edits."
        )
    if found["short"] == "resid_pre" and layer > 0:
        raise SiteError(
            f"{site!r} is named {found['prefix'] or ''}layers.{layer - 1}.resid_post in a control vector.\n"
            "  dataclasses.replace(direction, site=...) says so."
        )
    if layer == 0:
        raise SiteError(
            f"{site!r} has no number in a control vector: llama.cpp never steers block 0.\n"
            "  use a direction at layers.1.resid_post or later."
        )
    return found["prefix"] or "", layer


def _ours(about: Mapping[str, object], key: str, count: int) -> list[str] | None:
    """What inscape wrote beside the vectors; None when it did not, or somebody changed the file since."""
    try:
        found = json.loads(str(about[key]))
    except (KeyError, ValueError):
        return None
    fits = isinstance(found, list) and len(found) == count and all(isinstance(x, str) for x in found)
    return found if fits else None
