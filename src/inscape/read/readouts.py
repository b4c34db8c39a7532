"""All readouts that learn, found by looking; and one of them from a file, without saying which it is."""

import inspect
import pkgutil
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from inscape import read
from inscape.core import readout_file


@cache
def readouts() -> tuple[type, ...]:
    """Every public class of the rooms under `read` that has fit and score, by name."""
    found: dict[str, type] = {}
    for module in pkgutil.walk_packages(read.__path__, f"{read.__name__}."):
        for name, value in vars(import_module(module.name)).items():
            is_own = inspect.isclass(value) and value.__module__ == module.name and not name.startswith("_")
            if is_own and all(callable(getattr(value, call, None)) for call in ("fit", "score")):
                found[name] = value
    return tuple(found[name] for name in sorted(found))


def load_readout(path: str | Path, *, model: Any = None, site: str | None = None) -> Any:
    """Read a fitted readout that `save_readout` wrote: a probe, a lens, a map.

    model: the opened model (or fingerprint) that it will be used on. site: where. A readout of another model or site is
    refused, and so is one that does not say; left out, it is not checked.
    Raises: FileError for a file that is damaged, of another kind, or of a class or settings not known here; ModelError,
    SiteError for one of another model or site.
    """
    return readout_file.load_readout(path, readouts(), model=model, site=site)
