"""`store.export`: a store for other tools."""

from collections.abc import Sequence
from pathlib import Path

from inscape.core.errors import InputError
from inscape.core.progress import Progress
from inscape.store.exchange.target import Exported
from inscape.store.store import Store

FORMATS = ("datasets", "saelens", "npy", "npz")


def export(
    store: Store, to: str | Path, format: str | None = None, *, columns: Sequence[str] | str | None = None,
    context: int | None = None, widen: bool = False, progress: Progress = None,
) -> Exported:  # fmt: skip
    """Write a store for other tools, and say what was written and what differs.

    format: "datasets", a folder for `datasets.load_from_disk`, a record a row; "saelens", a folder for SAELens'
        `cached_activations_path`; "npz", one file for `numpy.load`; "npy", a folder of arrays that numpy can map. Left
        out: by the end of `to`. columns: some of them; sample, pos and token always come along.
    context: for SAELens, rows a record. widen: bfloat16 as float32 in npy and npz, where it is uint16 bits otherwise;
        Arrow has no bfloat16 and always gets float32.
    Cost: one pass over the data, some megabytes of memory. Nothing is overwritten, nothing half-written stays.
    Raises: FileError when `to` exists, InputError, SiteError.
    """
    path = Path(to).expanduser()
    kind = format or ("npz" if path.suffix == ".npz" else None)
    if kind not in FORMATS:
        raise InputError(f"format={format!r}: it can be {', '.join(map(repr, FORMATS))}.")
    if (context is not None and kind != "saelens") or (widen and kind not in ("npy", "npz")):
        raise InputError(f"{'context' if context is not None else 'widen'}= means nothing to {kind!r}.")
    if kind == "datasets":
        from inscape.store.exchange.datasets_rows import export_datasets

        return export_datasets(store, path, columns=columns, progress=progress)
    if kind == "saelens":
        from inscape.store.exchange.saelens import export_saelens

        return export_saelens(store, path, columns=columns, context=context, progress=progress)
    from inscape.store.exchange.npy import export_npy, export_npz

    write = export_npz if kind == "npz" else export_npy
    return write(store, path, columns=columns, widen=widen, progress=progress)
