"""The tests. `checked` is their type checker, named in pyproject.toml: types and shapes of every call."""

from collections.abc import Callable
from types import CodeType
from typing import Any

from beartype import beartype

_MET: set[CodeType] = set()


def checked(made: Any) -> Any:
    """beartype; of a function that is made anew in every call of another, the first one made is checked.

    Hooks and edits are such functions. Checking each anew costs a millisecond a function, more than most of them run.
    """
    code = getattr(made, "__code__", None)
    if code is None or "<locals>" not in made.__qualname__:
        return beartype(made)
    if code in _MET:
        return made
    _MET.add(code)
    checking: Callable[..., Any] = beartype(made)
    return checking
