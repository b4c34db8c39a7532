"""Optional packages, imported where they are used; a missing one names the extra that brings it."""

from importlib import import_module
from types import ModuleType

from inscape.core.errors import MissingExtraError


def report_package(name: str, what_for: str) -> ModuleType:
    """A package of the `report` extra.

    Raises: MissingExtraError when it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name != name:
            raise
        raise MissingExtraError(
            f"{what_for} needs the package {name!r}, which is not installed.\n"
            f"  it comes with the extra: pip install 'inscape[report]'."
        ) from missing
