"""Optional packages: imported where they are used; a missing one names the extra that brings it."""

from importlib import import_module
from types import ModuleType

from inscape.core.errors import MissingExtraError


def package(name: str, extra: str, what_for: str) -> ModuleType:
    """An optional package.

    Raises: MissingExtraError when it is not installed, naming the extra.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name != name:  # the package is there and something inside it is not: another fault
            raise
        raise MissingExtraError(
            f"{what_for} needs the package {name!r}, which is not installed.\n"
            f"  it comes with the extra: pip install 'inscape[{extra}]'."
        ) from missing


def report_package(name: str, what_for: str) -> ModuleType:
    """A package of the `report` extra."""
    return package(name, "report", what_for)
