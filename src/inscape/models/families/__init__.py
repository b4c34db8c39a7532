"""Which table fits which model: all families, and the one of a given module."""

from typing import Any

from torch import nn

from inscape.models.families._decoders import DECODERS
from inscape.models.families._others import OTHERS
from inscape.models.family import Family

FAMILIES: tuple[Family, ...] = (*DECODERS, *OTHERS)


def fits(family: Family, module: nn.Module) -> bool:
    """Whether a family's table is meant for this very module: by its config's `model_type`, else by its class."""
    cls = type(module)
    if f"{cls.__module__}.{cls.__qualname__}" in family.classes:
        return True
    config = getattr(module, "config", None)
    if _model_type(config) not in family.model_types:
        return False
    return all(getattr(config, name, None) == value for name, value in family.when.items())


def family_of(module: nn.Module) -> Family | None:
    """The table that fits a module, or None when there is none.

    A module that says what it is (a `model_type`) is taken at its word. A wrapper that says nothing is looked into,
    and the outermost module with a table decides; beside a second, different one there, no table is chosen.
    """
    level = [module]
    while level:
        found = {family.name: family for m in level for family in FAMILIES if fits(family, m)}
        if found:
            return next(iter(found.values())) if len(found) == 1 else None
        level = [child for m in level if _model_type(getattr(m, "config", None)) is None for child in m.children()]
    return None


def _model_type(config: Any) -> str | None:
    """A config's own statement; plain dictionaries and other objects called `config` make none."""
    value = getattr(config, "model_type", None)
    return value if isinstance(value, str) and value else None
