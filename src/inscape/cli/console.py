"""What commands print and the options they share: rich tables and progress on a terminal, plain lines elsewhere."""

import json
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

ModelName = Annotated[
    str, Parameter(name="MODEL", help="A demo name (gemma-3-270m), a Hugging Face folder or id, or a .gguf file.")
]
EditsFile = Annotated[Path | None, Parameter(help="A file of edits to apply, written by ins.save_edits.")]
Json = Annotated[bool, Parameter(name="--json", negative="", show_default=False, help="Print JSON and nothing else.")]
Debug = Annotated[
    bool, Parameter(name="--debug", negative="", show_default=False, help="Show the traceback of an error.")
]
Tell = Callable[[str, float | None], None]


def print_json(value: Any) -> None:
    """One JSON document; NaN and infinity become null, which JSON has no other word for."""
    print(json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False))


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "", numbers: Collection[str] = ()
) -> None:
    """A rich table on a terminal; elsewhere one line a row, columns two spaces apart. numbers: columns of them."""
    if title:
        print(title)
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
        for i, column in enumerate(columns):  # where the terminal is narrow, the words of the last column wrap
            side = "right" if column in numbers else "left"
            table.add_column(column, justify=side, no_wrap=i < len(columns) - 1, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))  # Text: brackets in a cell are no markup
        Console().print(table)
        return
    lines = [columns, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        cells = zip(columns, line, widths, strict=True)
        print("  ".join(f"{cell:{'>' if name in numbers else '<'}{width}}" for name, cell, width in cells).rstrip())


@contextmanager
def progress(first: str, quiet: bool = False) -> Iterator[Tell]:
    """A progress callback on stderr: a bar on a terminal, each new message on a line elsewhere. quiet: nothing.

    first: what the bar says before the first message, while libraries are imported.
    """
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
        task = bar.add_task(first, total=None)

        def show(message: str, fraction: float | None = None) -> None:
            bar.update(task, description=message, total=None if fraction is None else 1.0, completed=fraction or 0.0)

        yield show


def open_model(name: str, quiet: bool = False) -> Any:
    """`ins.open` with a progress bar; notes of the load go to stderr."""
    import inscape as ins

    with progress(f"opening {name}", quiet) as tell:
        model = ins.open(name, progress=tell)
    if not quiet:
        for note in model.notes:
            print(f"note: {note}", file=sys.stderr)
    return model


def texts_given(texts: Sequence[str], command: str, purpose: str) -> list[str]:
    """The texts of a command line, or InputError: without one, or with one that an unset shell variable left empty."""
    from inscape.core.errors import InputError

    if not texts:
        raise InputError(f"no text {purpose}.\n  write it after the model: inscape {command} MODEL 'The Eiffel Tower'.")
    empty = [i for i, text in enumerate(texts, 1) if not text.strip()]
    if empty:
        raise InputError(
            f"text {empty[0]} of {len(texts)} is empty, so there is nothing {purpose}.\n"
            f"  write words between the quotes: inscape {command} MODEL 'The Eiffel Tower'."
        )
    return list(texts)


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
