"""Data that pass by: a generator function, or anything that `iter` starts again, gone through block by block."""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from inscape.core.errors import InputError
from inscape.store.fields import Field, Sample, digest_into, picker


class Passing:
    """Samples in the order in which they come, started again when earlier ones are asked for; nothing is held.

    n: how many, where the source or its ids have a length. A source with `ids` (in step with its samples) is
    recognised by them, and they are remembered; any other by what the model reads.
    Raises: InputError for an iterator, which cannot be started again, and for data that are empty.
    """

    def __init__(self, source: Any, field: Field) -> None:
        self.source: Any = source
        self.ids: Any = getattr(source, "ids", None)
        sized = next((s for s in (source, self.ids) if hasattr(s, "__len__")), None)
        self.n: int | None = len(sized) if sized is not None else None
        first = next(self._fresh(), None)
        if first is None:
            raise InputError("the data are empty.")
        self.pick = picker(first[0], field)
        self._at = 0
        self._under_way: Iterator[tuple[Any, Any]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_at": 0, "_under_way": None}  # a place in the middle cannot be sent to another process

    def get(self, start: int, stop: int) -> list[Sample]:
        """Samples start to stop, fewer where the data end."""
        if self._under_way is None or start < self._at:
            self._at, self._under_way = 0, self._fresh()
        found = []
        for item, known in islice(self._under_way, start - self._at, stop - self._at):
            value, kept = self.pick(item)
            found.append((value, kept if self.ids is None else kept | {"id": known}))
        self._at = stop
        return found

    def digest(self, found: Sequence[Sample]) -> str:
        """By what these samples are known again."""
        digest = hashlib.sha256()
        for value, kept in found:
            digest_into(digest, value if self.ids is None else str(kept["id"]))
        return digest.hexdigest()[:16]

    def _fresh(self) -> Iterator[tuple[Any, Any]]:
        """(sample, its id) from the start."""
        made: Any = self.source() if callable(self.source) and not hasattr(self.source, "__iter__") else self.source
        if not hasattr(made, "__iter__"):
            raise InputError(
                f"the data are a {type(self.source).__name__}: neither samples nor a function that yields them.\n"
                "  give a list, a generator function, or an object with __len__ and __getitem__, or with __iter__."
            )
        if made is self.source and iter(made) is made:
            raise InputError(
                f"the data are a {type(made).__name__} that can be gone through once, so a stopped job could not go "
                "on where it was.\n  give the function that makes it, or a list."
            )
        if self.ids is None:
            yield from ((item, None) for item in made)
            return
        made_ids: Any = self.ids() if callable(self.ids) else self.ids
        ids = iter(made_ids)
        for item in made:
            known = next(ids, None)
            if known is None:
                raise InputError(f"the data are a {type(made).__name__} with fewer ids than samples.")
            yield item, known
