"""Hugging Face `datasets` folders, written with pyarrow alone, a block at a time.

`datasets` keeps a table as `data-00000-of-00002.arrow` ..., with `state.json` (which files) and `dataset_info.json`
(types). A row of numbers is a fixed-size list, a row of matrices is `Array2D` ... `Array5D`: nested lists with an
extension name. There is no bfloat16.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from inscape.core.errors import InputError
from inscape.store.exchange.arrow import INFO, STATE, pyarrow

FILE_BYTES = 500 << 20
EXTENSION = "datasets.features.features.Array{}DExtensionType"
TYPES = ("float64", "float32", "float16", "int64", "int32")
Shape = tuple[int, ...]


class Writer:
    """Writes tables into a folder that `datasets.load_from_disk` reads; close it to make it complete.

    columns: name -> (dtype, shape of a row). about: bytes kept in the schema beside the types.
    """

    def __init__(self, folder: Path, columns: Mapping[str, tuple[str, Shape]], about: str = "") -> None:
        self.folder, self.columns = folder, columns
        self._pa = pyarrow()
        self._features = {n: _feature(n, d, s) for n, (d, s) in columns.items()}
        meta = {"huggingface": json.dumps({"info": {"features": self._features}})} | (
            {"inscape": about} if about else {}
        )
        fields = [self._field(n, d, s) for n, (d, s) in columns.items()]
        self._schema = self._pa.schema(fields, metadata=meta)
        self._open: Any = None
        self._written = self._files = 0

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._open is not None:
            self._open.close()
        if kind is None:
            self._finish()

    def add(self, block: Mapping[str, Tensor]) -> None:
        """Append rows, {column: [n, ...]}."""
        pa = self._pa
        if self._open is None or self._written > FILE_BYTES:
            if self._open is not None:
                self._open.close()
            self._open = pa.ipc.new_stream(str(self.folder / f"data-{self._files:05d}.arrow"), self._schema)
            self._files, self._written = self._files + 1, 0
        arrays = []
        for field, (name, (_, shape)) in zip(self._schema, self.columns.items(), strict=True):
            arrays.append(_nested(pa, block[name].contiguous().numpy(), shape, field.type))
            self._written += block[name].numel() * block[name].element_size()
        self._open.write_batch(pa.record_batch(arrays, schema=self._schema))

    def _field(self, name: str, dtype: str, shape: Shape) -> Any:
        pa = self._pa
        kind = getattr(pa, dtype)()
        if len(shape) < 2:
            return pa.field(name, pa.list_(kind, shape[0]) if shape else kind)
        for _ in shape:
            kind = pa.list_(kind)
        meta = {
            "ARROW:extension:name": EXTENSION.format(len(shape)),
            "ARROW:extension:metadata": json.dumps([list(shape), dtype]),
        }
        return pa.field(name, kind, metadata=meta)

    def _finish(self) -> None:
        names = [f"data-{i:05d}-of-{self._files:05d}.arrow" for i in range(self._files)]
        for i, name in enumerate(names):
            os.rename(self.folder / f"data-{i:05d}.arrow", self.folder / name)
        info = {"citation": "", "description": "", "features": self._features, "homepage": "", "license": ""}
        state = {
            "_data_files": [{"filename": n} for n in names], "_fingerprint": os.urandom(8).hex(),
            "_format_columns": None, "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False,
            "_split": None,
        }  # fmt: skip
        (self.folder / INFO).write_text(json.dumps(info, indent=2))
        (self.folder / STATE).write_text(json.dumps(state, indent=2))


def _feature(name: str, dtype: str, shape: Shape) -> dict[str, Any]:
    """How `datasets` describes a column. "Sequence" is understood by every version of it, "List" by newer ones."""
    value = {"dtype": dtype, "_type": "Value"}
    if dtype not in TYPES or len(shape) > 5:
        raise InputError(f"{name}: Arrow datasets cannot hold {dtype} rows of shape {shape}.")
    if not shape:
        return value
    if len(shape) == 1:
        return {"feature": value, "length": shape[0], "_type": "Sequence"}
    return {"shape": list(shape), "dtype": dtype, "_type": f"Array{len(shape)}D"}


def _nested(pa: Any, values: np.ndarray, shape: Shape, kind: Any) -> Any:
    """Rows [n, *shape] as nested lists over one flat buffer."""
    flat = pa.array(values.reshape(-1))
    if not shape:
        return flat
    if len(shape) == 1:
        return pa.FixedSizeListArray.from_arrays(flat, shape[0])
    sizes = [len(values), *shape]
    for depth in range(len(shape), 0, -1):
        count = int(np.prod(sizes[:depth]))
        flat = pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32) * sizes[depth]), flat)
    if isinstance(kind, pa.ExtensionType):  # `datasets` is imported in this process and has registered its types
        return pa.ExtensionArray.from_storage(kind, flat)
    return flat
