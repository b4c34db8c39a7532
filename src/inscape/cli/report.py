"""`inscape report`: the main job, one self-contained page about a model."""

import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from inscape.cli.console import Debug, Json, ModelName, open_model, print_json, progress, read_text


def report(
    model: ModelName,
    textfile: str | None = None,
    /,
    *,
    text: Annotated[list[str] | None, Parameter(negative="")] = None,
    section: Annotated[list[str] | None, Parameter(negative="")] = None,
    to: Path = Path("report.html"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write one HTML page about a model, which opens offline.

    Parameters
    ----------
    textfile:
        Texts to read the model with, separated by blank lines; - for stdin. A dozen built-in ones if left out.
    text:
        A text; may be given more than once.
    section:
        Only this part of the page, such as lens or depth; may be given more than once, or with commas.
    to:
        Where the page goes.
    """
    import inscape as ins

    texts = list(text or [])
    if textfile is not None:
        texts += [part.strip() for part in read_text(textfile).split("\n\n") if part.strip()]
        if not texts:
            raise ins.InputError(f"{textfile} holds no text.\n  write texts into it, separated by blank lines.")
    chosen = [name for names in section or [] for name in names.replace(",", " ").split()]
    started = time.perf_counter()
    opened = open_model(model, quiet=as_json)
    with progress("looking at the texts", quiet=as_json) as tell:
        ins.report(opened, texts or None, sections=chosen or None, to=to, progress=tell)
    if as_json:
        print_json({"model": model, "report": to.resolve(), "bytes": to.stat().st_size})
        return
    print(f"{to.resolve()} ({to.stat().st_size / 1e6:.1f} MB, {time.perf_counter() - started:.0f} s)")
