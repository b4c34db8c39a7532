"""Where inscape keeps what it can make again: the user's cache folder, and who may build there."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from inscape.core.progress import Progress, tell


def cache_folder(*parts: str) -> Path:
    """The user's cache folder, or a folder inside it; nothing is created.

    `INSCAPE_CACHE` when it is set, else `$XDG_CACHE_HOME/inscape`, else `~/.cache/inscape`. A relative
    `XDG_CACHE_HOME` is ignored, as its specification asks. All of it may be deleted at any time.
    """
    own = os.environ.get("INSCAPE_CACHE")
    if own:
        return Path(own).expanduser().absolute().joinpath(*parts)
    shared = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(shared) if os.path.isabs(shared) else Path.home() / ".cache"
    return base.joinpath("inscape", *parts)


@contextlib.contextmanager
def one_builder(lock: Path, progress: Progress) -> Iterator[bool]:
    """Let one process build at a time; yields whether that is certain. A killed holder's lock is gone with it."""
    try:
        import fcntl
    except ImportError:  # a system without these locks: the rename decides
        yield False
        return
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(progress, "another process is building this copy; waiting for it", None)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without them
            yield False
            return
        yield True
