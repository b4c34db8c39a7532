"""Files that survive a kill at any moment: a temporary name, fsync, rename, fsync of the folder; and checksums."""

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from inscape.core.errors import FileError

TEMPORARY = ".tmp-"  # names that begin so are nobody's data


def temporary_name(path: Path) -> Path:
    """A name beside `path` that nobody else uses."""
    return path.with_name(f"{TEMPORARY}{secrets.token_hex(6)}-{path.name}")


@contextlib.contextmanager
def written(path: Path, *, replace: bool = False) -> Iterator[BinaryIO]:
    """A file that appears under its name whole and on disk, or not at all.

    replace: may an older file of that name be replaced? Otherwise FileExistsError is raised and nothing changes.
    """
    temporary = temporary_name(path)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
        else:
            _name(temporary, path)
        sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _name(temporary: Path, path: Path) -> None:
    """Give a finished file its name, refusing to replace another: a link does both at once, a rename only one."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if path.exists():
            raise FileExistsError(errno.EEXIST, "there is a file of that name", str(path)) from None
        os.rename(temporary, path)
    else:
        os.unlink(temporary)


def append(path: Path, data: bytes) -> None:
    """Append in one write, on disk when this returns; a first line makes the file durable in its folder too."""
    is_new = not path.exists()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        done = os.write(handle, data)
        if done != len(data):  # a torn line: the reader drops it, and the writer must not go on behind it
            raise OSError(errno.ENOSPC, "the disk is full")
        os.fsync(handle)
    finally:
        os.close(handle)
    if is_new:
        sync(path.parent)


def sync(path: Path) -> None:
    """Make what a file holds, or the names in a folder, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """The checksum of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def disk_errors(what: str, advice: Callable[[], str]) -> Iterator[None]:
    """Turn the system's errors of writing into ones that say what was kept and what to do."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FileError(f"the disk is full: {what} could not be written.\n  {advice()}") from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise FileError(
                f"{what} could not be written: {error.strerror} ({error.filename}).\n  {advice()}"
            ) from error
        raise FileError(f"{what} could not be written: {error}.\n  {advice()}") from error
