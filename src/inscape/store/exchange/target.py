"""Where an export goes: a file or folder that appears whole under its name, or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from inscape.core.durable import disk_errors, sync, temporary_name
from inscape.core.errors import FileError


@dataclass(frozen=True)
class Exported:
    """What was written. notes: what differs from the store, a sentence each: widened types, samples left out."""

    path: Path
    rows: int
    bytes: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n  ".join((f"{self.path}: {self.rows:,} rows, {self.bytes / 1e6:,.1f} MB", *self.notes))


@contextlib.contextmanager
def whole(to: Path, *, folder: bool) -> Iterator[Path]:
    """A temporary path beside `to` to write to, renamed when all is on disk, removed after an error.

    Raises: FileError when `to` exists, or the disk refuses.
    """
    if to.exists() or to.is_symlink():
        raise FileError(f"{to} is there already and is not overwritten: choose another name or remove it.")
    temporary = temporary_name(to)
    with disk_errors(str(to), lambda: "nothing was left there; make room or choose another place."):
        try:
            to.parent.mkdir(parents=True, exist_ok=True)
            if folder:
                temporary.mkdir()
            yield temporary
            for path in temporary.iterdir() if folder else [temporary]:
                sync(path)
            if to.exists():  # somebody made it meanwhile
                raise FileError(f"{to} was made by somebody else meanwhile and is not overwritten.")
            os.rename(temporary, to)
            sync(to.parent)
        except BaseException:
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)
            raise


def size_of(path: Path) -> int:
    """Bytes of a file, or of the files in a folder."""
    return sum(p.stat().st_size for p in path.iterdir()) if path.is_dir() else path.stat().st_size
