"""Where inscape keeps what it can make again: the user's cache folder."""

import os
from pathlib import Path


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
