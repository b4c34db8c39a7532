"""vLLM's extracted hidden states: a safetensors file a request, `hidden_states` [tokens, layers, d] and `token_ids`.

Layer id k is the stream after k layers, so `layers.{k-1}.resid_post`; the id num_hidden_layers is the last stream
*before* the final norm, unlike the last entry of Hugging Face's `hidden_states`. The files do not say which ids they
hold: they are those of `eagle_aux_hidden_state_layer_ids`, in that order.
"""

import fcntl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from inscape.core.errors import FileError, InputError
from inscape.models.names import canonical
from inscape.store.exchange.arriving import description, fingerprint_of, unit_samples
from inscape.store.exchange.landing import Block, Source
from inscape.store.schema import DTYPES, Column

KEYS = ("hidden_states", "token_ids")
TYPES = {theirs: ours for ours, (theirs, _) in DTYPES.items()}


def vllm_source(folder: Path, *, layers: Sequence[int], model: Any = None) -> Source:
    """Requests of a folder as samples, by file name; `store.samples()` tells which is which.

    layers: the layer ids the server was started with, in its order. Every header is read before anything is written.
    Raises: FileError for damaged, compressed or unfinished files, InputError for layers that are not in them.
    """
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        packed = next(folder.glob("*.safetensors.zst"), None)
        what = f"only compressed ones ({packed.name}): unpack them with zstd -d" if packed else "none"
        raise FileError(f"{folder}: looked for one .safetensors file a request, found {what}.")
    if not layers or len(set(layers)) != len(layers):
        raise InputError(f"layers={list(layers)}: give the layer ids of the files, each once: layers=[1, 2, 3].")
    sites = [canonical(f"vllm:{k}", model) for k in layers]
    heads = [_header(p) for p in paths]
    (_, count, width), dtype = heads[0]
    if count != len(layers):
        raise InputError(f"{paths[0].name} holds {count} layers, layers={list(layers)} names {len(layers)}.")
    for path, ((_, *rest), kind) in zip(paths, heads, strict=True):
        if (rest, kind) != ([count, width], dtype):
            raise FileError(f"{path.name} holds {kind} of {rest}, {paths[0].name} {dtype} of {[count, width]}.")
    columns = [Column(name=s, dtype=dtype, shape=(width,), site=s) for s in sites]
    tokens = np.array([shape[0] for shape, _ in heads], np.int64)
    unit = unit_samples(int(tokens.max()) * (sum(c.row_bytes for c in columns) + 16))
    ends = np.append(0, np.cumsum(tokens))
    starts = ends[np.minimum(np.arange(-(-len(paths) // unit) + 1) * unit, len(paths))]

    def rows(start: int) -> Iterator[Block]:
        first = int(np.searchsorted(ends, start))
        for number in range(first, len(paths)):
            states, ids = _request(paths[number], (int(tokens[number]), count, width))
            yield {
                "sample": torch.full((len(ids),), number),
                "pos": torch.arange(len(ids), dtype=torch.int32),
                "token": ids.int(),
            } | {c.name: states[:, i].contiguous() for i, c in enumerate(columns)}

    about = description(columns, len(paths), unit, fingerprint_of(paths), "vLLM hidden states", model=model)
    return Source(about, starts, rows, str(folder), lambda n: {"path": paths[n].name})


def _header(path: Path) -> tuple[list[int], str]:
    """Shape and type of a request's states. Raises FileError for anything else."""
    if _is_locked(path):
        raise FileError(f"{path.name} is still being written: import when the server has finished its requests.")
    with _opened(path) as file:
        if sorted(file.keys()) != sorted(KEYS):
            raise FileError(f"{path} holds {', '.join(file.keys()) or 'nothing'}; expected {' and '.join(KEYS)}.")
        states, ids = file.get_slice("hidden_states"), file.get_slice("token_ids")
        shape, dtype = states.get_shape(), TYPES.get(states.get_dtype(), "")
        if len(shape) != 3 or ids.get_shape() != shape[:1] or not dtype.startswith(("float", "bfloat")) or 0 in shape:
            raise FileError(
                f"{path}: hidden_states {shape} {states.get_dtype()} and token_ids {ids.get_shape()} are not the "
                "states [tokens, layers, d] of one request."
            )
        return shape, dtype


def _request(path: Path, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    with _opened(path) as file:
        states, ids = file.get_tensor("hidden_states"), file.get_tensor("token_ids")
    if tuple(states.shape) != shape or ids.is_floating_point():
        raise FileError(f"{path} changed while it was read.")
    return states, ids


class _opened:
    """A safetensors file, with its errors as ours."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Any:
        try:
            self._file = safe_open(self.path, "pt")
            return self._file.__enter__()
        except (SafetensorError, OSError) as error:
            raise FileError(f"{self.path} is damaged or no safetensors file: {error}.") from None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._file.__exit__(kind, error, trace)
        if isinstance(error, (SafetensorError, RuntimeError, ValueError)) and not isinstance(error, OSError):
            raise FileError(f"{self.path} is damaged: {error}.") from None


def _is_locked(path: Path) -> bool:
    """vLLM holds a lock on NAME.lock while it writes a request."""
    lock = path.with_name(f"{path.name}.lock")
    if not lock.exists():
        return False
    with open(lock, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
