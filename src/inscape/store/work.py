"""Which work units are to be computed, with their samples; and whether the data are those that the folder is of."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from inscape.core.errors import FileError
from inscape.store.claim import ended
from inscape.store.data import Data
from inscape.store.fields import Sample
from inscape.store.schema import Description

Work = tuple[int, list[Sample]]


def work(
    data: Data, about: Description, done: Mapping[int, str], folder: Path, worker: int = 0, workers: int = 1
) -> Iterator[Work]:
    """This worker's work units (every n-th) that nobody has listed, with their samples.

    done: listed units and the digests of their samples. Data that are known only as they pass are gone through from the
    start: listed units are compared with their digests, and their end, when it is met, is written to the folder.
    Memory: the samples of one unit. Raises: FileError when the data are not those of the folder.
    """
    todo = [u for u in about.missing(done) if u % workers == worker]
    if data.digest is None:
        for number in todo:
            yield number, samples_of(data, about, number)
    elif about.n_units is not None:  # the end is known: no further than the last unit that is missing
        for number in range(max(todo, default=0) + 1):
            found = samples_of(data, about, number)
            _check(data, about, done, folder, number, found)
            if number in todo:
                yield number, found
    else:
        number, found = -1, []
        while number < 0 or len(found) == about.unit_samples:
            number += 1
            found = samples_of(data, about, number)
            if number in done or not found:
                _check(data, about, done, folder, number, found)
            elif number % workers == worker:
                yield number, found
        n = number * about.unit_samples + len(found)
        beyond = [u for u in done if u * about.unit_samples >= n]
        if beyond:
            _check(data, about, done, folder, min(beyond), [])
        ended(folder, n)


def samples_of(data: Data, about: Description, number: int) -> list[Sample]:
    """The samples of one work unit; fewer or none where data that pass by end."""
    return data.get(*_range(about, number))


def _range(about: Description, number: int) -> tuple[int, int]:
    start = number * about.unit_samples
    stop = start + about.unit_samples
    return start, stop if about.n_samples is None else min(stop, about.n_samples)


def _check(
    data: Data, about: Description, done: Mapping[int, str], folder: Path, number: int, found: list[Sample]
) -> None:
    """Refuse samples that are not those a unit was recorded from, and data that ended early."""
    start, stop = _range(about, number)
    was_ended = about.n_samples is not None and len(found) < stop - start
    assert data.digest is not None
    if was_ended or (number in done and done[number] != data.digest(found)):
        what = f"they end after {start + len(found):,} samples" if len(found) < stop - start else "they are others"
        raise FileError(
            f"the data are not those that {folder} was recorded from: {what} in work unit {number} "
            f"(samples {start:,} to {stop - 1:,}).\n"
            "  give the same data in the same order, or choose another folder."
        )
