"""What commands print: rich tables and progress on a terminal, plain lines elsewhere, JSON when asked."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

Json = Annotated[bool, Parameter(name="--json", negative="", show_default=False, help="Print JSON and nothing else.")]
Debug = Annotated[
    bool, Parameter(name="--debug", negative="", show_default=False, help="Show the traceback of an error.")
]
Tell = Callable[[str, float | None], None]


def print_json(value: Any) -> None:
    """One JSON document; NaN and infinity become null, which JSON has no other word for."""
    print(json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """A rich table on a terminal; elsewhere one line a row, columns two spaces apart."""
    if title:
        print(title)
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns, box=None, header_style="bold", pad_edge=False)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))  # Text: brackets in a cell are no markup
        Console().print(table)
        return
    widths = [max((len(row[i]) for row in [columns, *rows]), default=0) for i in range(len(columns))]
    for row in [columns, *rows]:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


@contextmanager
def progress(quiet: bool = False) -> Iterator[Tell]:
    """A progress callback on stderr: a bar on a terminal, each new message on a line elsewhere. quiet: nothing."""
    if quiet:
        yield lambda message, fraction=None: None
        return
    if not sys.stderr.isatty():
        seen: list[str] = []

        def line(message: str, fraction: float | None = None) -> None:
            if seen[-1:] != [message]:
                seen.append(message)
                print(message, file=sys.stderr, flush=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(message: str, fraction: float | None = None) -> None:
            bar.update(task, description=message, total=None if fraction is None else 1.0, completed=fraction or 0.0)

        yield show


def open_model(name: str, quiet: bool = False) -> Any:
    """`ins.open` with a progress bar; notes of the load go to stderr."""
    import inscape as ins

    with progress(quiet) as tell:
        model = ins.open(name, progress=tell)
    if not quiet:
        for note in model.notes:
            print(f"note: {note}", file=sys.stderr)
    return model


def _plain(value: Any) -> Any:
    """Only what JSON has: tensors as lists, dataclasses as objects, the rest as text."""
    from dataclasses import fields, is_dataclass
    from math import isfinite

    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return str(value)


def read_text(path: str | Path) -> str:
    """A text file, or FileError with what to do. `-` is the standard input."""
    from inscape.core.errors import FileError

    if str(path) == "-":
        return sys.stdin.read()
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(
            f"{path} cannot be read as text: {error}.\n  pass a UTF-8 text file, or - for stdin."
        ) from error
