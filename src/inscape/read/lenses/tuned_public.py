"""Tuned lenses in the folders of the package `tuned-lens` (AlignmentResearch), read and written without it.

    config.json  base_model_name_or_path, base_model_revision, d_model, num_hidden_layers, bias, unembed_hash, lens_type
    params.pt     a torch state dict: "0.weight" [d, d], "0.bias" [d], "1.weight" ...

Translator i reads `hidden_states[i]` of transformers: 0 is the input of the first block, i the output of block i - 1;
there is none for the last block. It adds to its input: h + W h + b, as here. unembed_hash is the SHA-256 of how NumPy
prints the head's matrix with one digit: it tells models apart, not versions of one.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inscape.core.durable import disk_errors, written
from inscape.core.errors import FileError, InputError, ModelError
from inscape.core.pt_file import read_pt
from inscape.engine.unembed import unembedding
from inscape.models.model import Model

CONFIG, PARAMS, KIND = "config.json", "params.pt", "linear_tuned_lens"


def sites_of(model: Model) -> list[str]:
    """The site that each translator reads, in the order of the file."""
    blocks = [block.name for block in model.blocks]
    return [f"{blocks[0]}.resid_pre", *(f"{name}.resid_post" for name in blocks[:-1])]


def write(folder: Path, maps: Mapping[str, tuple[Tensor, Tensor]], model: Model) -> None:
    """Write maps h + W h + b. Raises: InputError when a layer of the model has none."""
    sites = sites_of(model)
    missing = [name for name in sites if name not in maps]
    if missing:
        raise InputError(
            f"the public format holds a map for every layer; this lens has none for {', '.join(missing)}.\n"
            f"  record these sites too and fit the lens on them."
        )
    state = {}
    for i, name in enumerate(sites):
        weight, bias = maps[name]
        state |= {f"{i}.weight": weight.detach().cpu().contiguous(), f"{i}.bias": bias.detach().cpu().contiguous()}
    config = {
        "base_model_name_or_path": getattr(model.config, "_name_or_path", "") or model.source,
        "d_model": len(maps[sites[0]][1]), "num_hidden_layers": len(sites), "bias": True,
        "base_model_revision": None, "unembed_hash": unembed_hash(model), "lens_type": KIND,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with disk_errors(str(folder), lambda: "choose a folder that can be written to."):
        with written(folder / PARAMS, replace=True) as file:
            torch.save(state, file)
        with written(folder / CONFIG, replace=True) as file:
            file.write(json.dumps(config).encode())


def read(folder: Path, model: Model) -> dict[str, tuple[Tensor, Tensor]]:
    """{site: (weight, bias)} of a folder, for this model; no code in the file is run.

    Raises: FileError for what is missing or damaged, ModelError when width, depth or head are another model's.
    """
    config, state = _config(folder), _state(folder)
    sites = sites_of(model)
    n, d = config.get("num_hidden_layers"), config.get("d_model")
    head = unembedding(model).head
    width = getattr(head, "in_features", d)
    if config.get("lens_type", KIND) != KIND:
        raise FileError(f"{folder / CONFIG} describes a {config['lens_type']!r}; only {KIND!r} is known.")
    theirs = config.get("unembed_hash")
    if n != len(sites) or d != width or (theirs and theirs != unembed_hash(model)):
        raise ModelError(
            f"this lens is for {config.get('base_model_name_or_path') or 'another model'}: {n} layers of {d} units"
            f"{', another head' if (n, d) == (len(sites), width) else ''}; this model has {len(sites)} of {width}."
        )
    maps = {}
    for i, name in enumerate(sites):
        weight, bias = state.get(f"{i}.weight"), state.get(f"{i}.bias")
        if weight is None or weight.shape != (d, d) or (bias is not None and bias.shape != (d,)):
            raise FileError(f"{folder / PARAMS} is damaged: no map of {d} by {d} for layer {i}.")
        maps[name] = (weight.float(), torch.zeros(len(weight)) if bias is None else bias.float())
    return maps


def unembed_hash(model: Model) -> str:
    """The package's name for a head; empty where the head is no single matrix."""
    weight: Any = getattr(unembedding(model).head, "weight", None)
    if not isinstance(weight, Tensor):
        return ""
    return hashlib.sha256(str.encode(np.array_str(weight.detach().cpu().float().numpy(), precision=1))).hexdigest()


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(
            f"there is no {CONFIG} in {str(folder)!r}: a lens is a folder with {CONFIG} and {PARAMS}."
        ) from error
    except ValueError as error:
        raise FileError(f"{folder / CONFIG} is damaged: {error}.") from error
    if not isinstance(found, dict):
        raise FileError(f"{folder / CONFIG} is damaged: it holds no settings.")
    return found


def _state(folder: Path) -> dict[str, Tensor]:
    path = folder / PARAMS
    if not path.is_file():
        raise FileError(f"there is no {PARAMS} in {str(folder)!r}: a lens is a folder with {CONFIG} and {PARAMS}.")
    found = read_pt(path)
    if not isinstance(found, dict) or not all(isinstance(x, Tensor) for x in found.values()):
        raise FileError(f"{path} is damaged: it is no state dict.")
    return found
