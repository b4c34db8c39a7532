"""`ins.import_store`: other tools' activation files become a store."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from inscape.core.errors import FileError, InputError
from inscape.core.progress import Progress
from inscape.store.exchange.arriving import Names
from inscape.store.exchange.arrow import STATE
from inscape.store.exchange.datasets_rows import datasets_source
from inscape.store.exchange.landing import Source, land
from inscape.store.exchange.npy_source import npy_source
from inscape.store.exchange.saelens import is_cache, saelens_source
from inscape.store.exchange.vllm import vllm_source
from inscape.store.store import Store

FORMATS = ("datasets", "saelens", "npy", "npz", "vllm")


def import_store(
    source: str | Path, to: str | Path, *, format: str | None = None, names: Names = None, model: Any = None,
    layers: Sequence[int] | None = None, allow_nan: bool = False, progress: Progress = None,
) -> Store:  # fmt: skip
    """Activations of other tools' files as a store in the folder `to`. Run it again after a kill: it goes on.

    source: a folder of Hugging Face `datasets` (one split, as `save_to_disk` writes it), a SAELens activation cache, a
        folder of vLLM's hidden-state files, an .npz, an .npy or a folder of them. format: which of these, "datasets",
        "saelens", "vllm", "npy" or "npz"; found out when left out.
    names: their name -> the site or column it becomes, where our table of other tools' names does not say.
    model: the model the activations are of: its sites and fingerprint are used. The files cannot prove it. Without it
        the fingerprint is empty unless the file is an export of ours, and `store.about.job["notes"]` says so.
    layers: of vLLM's files, the layer ids they hold, in order.
    allow_nan: import NaN and infinities too.
    Everything is checked before the folder is made, what only reading can show while it is read: then the folder is
    removed again. Cost: one pass, and one over the sample numbers; memory: three shards, and the longest sample.
    Raises: FileError for damaged, hostile or unknown files, SiteError for names that could mean another tensor.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise FileError(f"{path} does not exist: there is nothing to import.")
    kind = format or _found(path, layers)
    if kind not in FORMATS:
        raise InputError(f"format={format!r}: it can be {', '.join(FORMATS)}.")
    if (kind == "vllm") != (layers is not None):
        raise InputError(
            "vLLM's files do not say which layers they hold: pass layers=[...], the ids the server was started with."
            if kind == "vllm" else f"layers= belongs to vLLM's files; this is imported as {kind}."
        )  # fmt: skip
    try:
        rows = _source(kind, path, names, model, layers)
    except ValidationError as error:
        found = error.errors()[0]
        raise FileError(f"{path} makes no store: {'.'.join(map(str, found['loc']))}: {found['msg']}.") from None
    return land(rows, to, allow_nan=allow_nan, progress=progress)


def _source(kind: str, path: Path, names: Names, model: Any, layers: Sequence[int] | None) -> Source:
    if kind == "vllm":
        return vllm_source(path, layers=layers or (), model=model)
    if kind == "datasets":
        return datasets_source(path, names=names, model=model)
    if kind == "saelens":
        return saelens_source(path, names=names, model=model)
    return npy_source(path, names=names, model=model)


def _found(path: Path, layers: Sequence[int] | None) -> str:
    """What a file or folder is, by what lies in it."""
    if path.is_file():
        if path.suffix in (".npy", ".npz"):
            return path.suffix[1:]
    elif (path / STATE).exists() or (path / "dataset_dict.json").exists():
        return "saelens" if (path / STATE).exists() and is_cache(path) else "datasets"
    elif layers is not None or any(path.glob("*.safetensors*")):
        return "vllm"
    elif any(path.glob("*.npy")):
        return "npy"
    raise FileError(
        f"{path} is nothing that can be imported: looked for {STATE} of a saved dataset, .npz, .npy, or vLLM's "
        ".safetensors.\n  say which with format=."
    )
