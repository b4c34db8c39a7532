"""A folder of recorded activations, read lazily: columns of rows, samples, shuffled batches, checks."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from inscape.core.errors import FileError, InputError, SiteError
from inscape.core.progress import Progress
from inscape.core.trace import Trace
from inscape.store import samples
from inscape.store.batches import Batches
from inscape.store.claim import DESCRIPTION
from inscape.store.column import LazyColumn, Rows
from inscape.store.files import Files
from inscape.store.manifest import Listed, lines, segments
from inscape.store.schema import Description, parse_description

if TYPE_CHECKING:
    from inscape.store.exchange.target import Exported


class Store:
    """Recorded activations on disk: `store["layers.5.resid_post"]`, `store["sample"]`, `len(store)`.

    Rows are tokens (or samples, when reduced to one each), in the order of the data whoever wrote them. Columns: the
    recorded sites, and "sample" (number of the sample), "pos" (position among its real tokens; -1 when the row stands
    for the whole sample), "token" (its id, -1 without one). What is there is what the manifests list; a record under
    way adds to it, seen by `reload`.
    Cost: opening reads store.json and the manifests, no shard: 10,000 shards in well under a second.
    Raises: FileError for a folder that is no store, is damaged, or is of a newer format.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.about: Description = parse_description(self.path / DESCRIPTION)
        self.files = Files(self.path, self.about.columns)
        self.reload()

    def reload(self) -> "Store":
        """Look at the manifests again."""
        self.listed: list[Listed] = [listed for _, listed in lines(self.path)]
        self.segments = segments(self.listed)
        self._rows = Rows(self.segments)
        self._units = np.array([s.unit for s in self.segments], np.int64)
        return self

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def sites(self) -> list[str]:
        """Columns of activations."""
        return [c.name for c in self.about.columns if c.site]

    @property
    def is_complete(self) -> bool:
        """Has every work unit been recorded?"""
        return self.about.is_complete(len(self.segments))

    @property
    def missing(self) -> list[int]:
        """Work units that nobody has listed."""
        return self.about.missing({s.unit for s in self.segments})

    def __getitem__(self, name: str) -> LazyColumn:
        name = str(name)
        for column in self.about.columns:
            if column.name == name:
                factor = self[column.scaled_by] if column.scaled_by else None
                return LazyColumn(column, self._rows, self.files, factor, self.about.model)
        from difflib import get_close_matches

        near = get_close_matches(name, [c.name for c in self.about.columns], n=3, cutoff=0.3)
        raise SiteError(
            f"this store has no column {name!r}" + (f"; the nearest are {', '.join(near)}" if near else "") + ".\n"
            f"  it holds {', '.join(c.name for c in self.about.columns)}."
        )

    def __contains__(self, name: object) -> bool:
        return any(c.name == name for c in self.about.columns)

    def __iter__(self) -> Iterator[str]:
        return iter(c.name for c in self.about.columns)

    def rows_of(self, sample: int) -> slice:
        """The rows of one sample, none where it had no tokens; two binary searches, no scan.

        Raises InputError for a sample that is not recorded.
        """
        unit, n = sample // self.about.unit_samples, self.about.n_samples
        i = int(np.searchsorted(self._units, unit))
        if i < len(self._units) and self._units[i] == unit and (n is None or sample < n):
            start = int(self._rows.starts[i])
            first, last = np.searchsorted(self["sample"].mapped(self.segments[i]), [sample, sample + 1])
            return slice(start + int(first), start + int(last))
        samples_ = "their end is not known yet" if n is None else f"0 to {n - 1:,}"
        raise InputError(f"sample {sample} is not in this store ({samples_}, {self._progress}).")

    def of(self, sample: int) -> dict[str, Tensor]:
        """Everything recorded of one sample: {column: [its rows, ...]}."""
        rows = self.rows_of(sample)
        return {name: self[name][rows] for name in self}

    def text(self, sample: int) -> str:
        """The text a sample was read from. Raises InputError when the data held no text."""
        return samples.text(self.path, sample)

    def samples(self) -> list[dict[str, Any]]:
        """What was kept of every sample: text or path, label, length."""
        return samples.table(self.path)

    def batches(
        self, n: int, columns: Sequence[str] | str | None = None, *, shuffle: bool = True, seed: int = 0,
        pool_rows: int | None = None, block: int = 1024, rank: int = 0, world: int = 1, last: bool = False,
        pin: bool = False, ahead: int | None = None,
    ) -> Batches:  # fmt: skip
        """Batches {column: [n, ...]} for training, from disk, shuffled; see `Batches`.

        columns: the sites when left out. pool_rows: left out, what fits in 256 MB. An epoch is one `for` loop; the next
        loop is the next epoch, in another order, and faster: its pools are memory that is there already.
        """
        names = [columns] if isinstance(columns, str) else list(columns) if columns is not None else self.sites
        chosen = [self[name] for name in names]
        if pool_rows is None:
            row = sum(c.about.row_bytes for c in chosen)
            pool_rows = max(block, min(1 << 20, (256 << 20) // max(1, row)))
        return Batches(
            self._rows, self.files, chosen, n, shuffle, seed, pool_rows, block, rank, world, last, pin, ahead
        )

    def trace(
        self, samples: Sequence[int] | int, columns: Sequence[str] | str | None = None, *, model: Any = None
    ) -> Trace:
        """Samples as a run would have recorded them, for `ins.patch` and `ins.replace`; see `replay.trace`."""
        from inscape.store.replay import trace

        return trace(self, samples, columns, model=model)

    def export(self, to: str | Path, format: str | None = None, **options: Any) -> "Exported":
        """Write the store for other tools: "datasets", "saelens", "npz" or "npy"; see `exchange.exporting.export`."""
        from inscape.store.exchange.exporting import export

        return export(self, to, format, **options)

    def upload(self, url: str, *, progress: Progress = None) -> None:
        """Copy the finished shards to a remote folder, or what is new of them; see `exchange.remote.upload`."""
        from inscape.store.exchange.remote import upload

        upload(self, url, progress=progress)

    @staticmethod
    def download(url: str, to: str | Path, *, progress: Progress = None) -> "Store":
        """A remote store as a folder here, whole, or what is new of it; see `exchange.remote.download`."""
        from inscape.store.exchange.remote import download

        return download(url, to, progress=progress)

    def statistics(
        self,
        wanted: Mapping[Any, Any],
        *,
        save: bool = True,
        device: str | torch.device = "cpu",
        progress: Progress = None,
    ) -> dict[Any, Any]:
        """Statistics of all rows: {column: statistic or [statistics], (column, column): Cross()} gives them filled.

        Those asked for (`inscape.store.statistics`) are settings and stay empty; values of the same keys come back,
        numbered by row keys, which `locate` turns into samples and positions. Kept in `stats/`: what is there of just
        these rows is read; where rows were added only those are; else, and for a damaged file, all rows are read once
        for everything asked. save: False writes nothing. device: where sums are taken.
        Raises: NotFiniteError with column, sample and position; InputError for columns of no activations; FileError.
        """
        from inscape.store.statistics.kept import statistics_of  # it stands on this module

        return statistics_of(self, wanted, save=save, device=device, progress=progress)

    @property
    def _progress(self) -> str:
        done, n = f"{len(self.segments):,}", self.about.n_units
        return "complete" if self.is_complete else f"{done} units so far" if n is None else f"{done} of {n:,} units"

    def __repr__(self) -> str:
        of = "samples" if self.about.n_samples is None else f"{self.about.n_samples:,} samples"
        size = sum(s.listed.bytes for s in {s.listed.shard: s for s in self.segments}.values())
        columns = "\n".join(
            f"  {c.name}  {' '.join(map(str, c.shape)) or 'number'}  {c.dtype}" for c in self.about.columns
        )
        head = f"{self.path}: {len(self):,} rows of {of}, {size / 1e6:,.1f} MB, {self._progress}"
        return f"{head}\n{columns}"


def is_store(path: str | Path) -> bool:
    """Is there a description of a store in this folder?"""
    try:
        return "columns" in json.loads((Path(path) / DESCRIPTION).read_bytes())
    except (OSError, ValueError):
        return False


def ensure(value: "Store | str | Path") -> "Store":
    """A store, given as itself or as its folder."""
    if isinstance(value, Store):
        return value
    if isinstance(value, (str, Path)):
        return Store(value)
    raise FileError(f"expected a store or its folder, got {type(value).__name__}.")


def as_tensor(value: LazyColumn | Tensor) -> Tensor:
    """A column whole in memory, tensors as they are."""
    return value if isinstance(value, torch.Tensor) else value[:]
