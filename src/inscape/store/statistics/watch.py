"""Statistics taken while a store is written, so that the rows need not be read again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from inscape.core.errors import InputError
from inscape.store.schema import Column, Listed
from inscape.store.statistics.files import Covered, covered_in, path_of, save_statistic
from inscape.store.statistics.keys import key
from inscape.store.statistics.one_pass import Wanted, check_wanted, columns_of


class Watch:
    """Statistics of the shards that one writer has listed, kept beside them as that writer's part.

    Give each writer its own: `watch.update(listed, values)` after a shard's line is in the manifest, with the columns
    of its units in order, and `watch.save()` when the writer is done. `Store.statistics` of the same settings merges
    the parts and reads only what they lack: a writer that was killed before `save` costs one read of its shards.
    wanted: as for `one_pass`, with empty statistics, which are filled here.
    Raises: InputError for a column that is not written or holds no activations; NotFiniteError from update, FileError
    from save.
    """

    def __init__(self, store: Path, writer: str, columns: Sequence[Column], wanted: Wanted) -> None:
        self.store, self.writer, self.wanted = store, writer, wanted
        self._scales = {c.name: c.scaled_by for c in columns}
        self._covered: Covered = frozenset()
        unknown = sorted({name for at in wanted for name in columns_of(at)} - self._scales.keys())
        if unknown:
            raise InputError(f"no column {unknown[0]!r} is written; there are {', '.join(self._scales)}.")
        for at, statistics in wanted.items():
            check_wanted(columns, at, statistics)

    def update(self, listed: Listed, values: Sequence[Mapping[str, Tensor]]) -> None:
        """Count a shard that is listed: the columns of each of its units, in its order."""
        names = {name for at in self.wanted for name in columns_of(at)}
        for (unit, start, stop), columns in zip(listed.units, values, strict=True):
            if start == stop:
                continue
            rows = {name: self._rows(name, columns) for name in names}
            for at, statistics in self.wanted.items():
                for statistic in statistics:
                    statistic.update(*(rows[name] for name in columns_of(at)), rows=key(unit))
        self._covered |= covered_in(listed)

    def save(self) -> None:
        """Write the parts of this writer, whole or not at all."""
        for at, statistics in self.wanted.items():
            for statistic in statistics:
                if statistic.n:
                    path = path_of(self.store, at, statistic.kind, self.writer)
                    save_statistic(path, at, statistic, self._covered)

    def _rows(self, name: str, columns: Mapping[str, Tensor]) -> Tensor:
        x: Any = columns[name]
        scale = self._scales[name]
        if scale:
            x = x.float() * columns[scale].reshape(-1, *[1] * (x.ndim - 1))
        return x.reshape(len(x), -1)
