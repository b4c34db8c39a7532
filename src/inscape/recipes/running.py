"""Run a paper and keep what it measured: one result file, one figure.

Where they go:
1. a full run with the recipe's own settings, inside a source checkout: `recipes/results/NAME.json` and `.png`, which
   are what `show` and the documentation read;
2. everything else (quick, another model or seed, an installed package): the folder `to`, ./inscape-results if it is
   not given, under a name that says what differs. Nothing of the package changes.
"""

import inspect
import platform
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inscape.core.durable import disk_errors, written
from inscape.core.errors import MissingExtraError, PaperError
from inscape.core.machine import commit, machine_kind, versions
from inscape.core.paper import Ran, Result
from inscape.core.progress import Progress, tell
from inscape.core.result_file import save_result
from inscape.recipes.catalogue import PACKAGE, Entry, entry

CHECKOUT = PACKAGE.parents[2]
OWN_RESULTS = Path("inscape-results")
PACKAGES = ("inscape", "torch", "transformers", "numpy")


@dataclass(frozen=True, eq=False)
class Kept:
    """A result and where it was written; figure is None where `inscape[report]` is not installed."""

    result: Result
    path: Path
    figure: Path | None


def run(
    name: str | Entry,
    *,
    quick: bool = False,
    model: Any = None,
    seed: int | None = None,
    to: str | Path | None = None,
    progress: Progress = None,
    **settings: Any,
) -> Kept:
    """Reproduce a paper: measure its claims, write the result and its figure.

    quick: the recipe's small settings, seconds, to see that it works; its numbers say nothing about the paper.
    model: a name, or an opened model, where the paper's method takes one. to: a folder; see the module's docstring.
    settings: other arguments of the recipe. Raises: PaperError for an unknown paper or argument; FileError when the
    folder cannot be written, before anything is computed.
    """
    found = name if isinstance(name, Entry) else entry(name)
    asked = {k: v for k, v in {"model": model, "seed": seed}.items() if v is not None} | settings
    check_arguments(found, asked)
    given = (found.source.quick if quick else {}) | asked
    folder = destination(found, official=not quick and not asked, to=to)
    with disk_errors(str(folder), lambda: "choose another folder with to=."):
        folder.mkdir(parents=True, exist_ok=True)
    tell(progress, f"{found.name}: importing")
    recipe = found.module()
    arguments = effective(recipe.run, given)
    if "progress" in found.source.parameters:
        given["progress"] = progress
    tell(progress, f"{found.name}: running")
    began = _commit()
    result, seconds = timed(recipe.run, given)
    if (
        not isinstance(result, Result)
        or result.paper != found.paper
        or result.seed != arguments.get("seed", result.seed)
    ):
        raise PaperError(
            f"the recipe of {found.name!r} returned {_returned(result, found)}.\n"
            f"  it must return Result(PAPER, ..., seed=seed) with its own PAPER and the seed it was given."
        )
    result = result.ran_as(_ran(arguments, seconds, quick, began))
    stem = folder / file_stem(found, quick, asked)
    save_result(stem.with_name(f"{stem.name}.json"), result)
    return Kept(
        result, stem.with_name(f"{stem.name}.json"), _drawn(result, stem.with_name(f"{stem.name}.png"), progress)
    )


def check_arguments(found: Entry, asked: Mapping[str, Any]) -> None:
    """Refuse arguments that the recipe does not take."""
    takes = found.source.parameters
    unknown = [name for name in asked if name not in takes or name == "progress"]
    if unknown:
        rest = ", ".join(f"{n}={d}" for n, d in takes.items() if n != "progress")
        advice = "it brings its own models" if unknown[0] == "model" else "leave it out"
        raise PaperError(f"{found.name!r} takes no {unknown[0]!r}: {advice}.\n  its arguments are {rest or 'none'}.")


def destination(found: Entry, *, official: bool, to: str | Path | None = None) -> Path:
    """The folder that a run writes into; official: a full run with the recipe's own settings."""
    if to is not None:
        return Path(to)
    installed = found.results.parent == PACKAGE and not (CHECKOUT / "pyproject.toml").is_file()
    return found.results if official and not installed else OWN_RESULTS


def file_stem(found: Entry, quick: bool, asked: Mapping[str, Any]) -> str:
    """The paper's name, and what differs from its own settings: NAME.gpt2.seed-3.quick."""
    differs = [_slug(_named(value) if key == "model" else f"{key}-{value}") for key, value in asked.items()]
    return ".".join([found.name, *differs, *(["quick"] if quick else [])])


def effective(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments a call with `given` would run with."""
    bound = inspect.signature(function).bind(**given)
    bound.apply_defaults()
    return {name: value for name, value in bound.arguments.items() if name != "progress"}


def timed(function: Callable[..., Any], given: Mapping[str, Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return function(**given), time.perf_counter() - start


def _commit() -> str:
    """The commit of this checkout; empty for an installed package."""
    is_checkout = (CHECKOUT / "pyproject.toml").is_file()
    return commit(CHECKOUT, "src", ":!src/inscape/recipes/results") if is_checkout else ""


def _ran(arguments: Mapping[str, Any], seconds: float, quick: bool, began: str) -> Ran:
    import torch

    model = arguments.get("model", "")
    plain = {
        n: v if isinstance(v, str | int | float | bool | None) else str(v) for n, v in arguments.items() if n != "model"
    }
    return Ran(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        packages=versions(PACKAGES),
        python=platform.python_version(),
        machine=machine_kind(),
        threads=torch.get_num_threads(),
        commit=began if began in ("", _commit()) else f"{began.removesuffix('+')}+",  # code that changed meanwhile
        seconds=round(seconds, 2),
        quick=quick,
        model=_named(model),
        settings=plain,
    )


def _drawn(result: Result, path: Path, progress: Progress) -> Path | None:
    from inscape.recipes.figure import figure_png

    try:
        image = figure_png(result)
    except MissingExtraError:
        tell(progress, "no figure: it needs pip install 'inscape[report]'")
        return None
    with disk_errors(str(path), lambda: "choose another folder with to=."), written(path, replace=True) as file:
        file.write(image)
    return path


def _returned(result: Any, found: Entry) -> str:
    if not isinstance(result, Result):
        return f"a {type(result).__name__}"
    return f"seed {result.seed}" if result.paper == found.paper else "a result of another paper"


def _named(model: Any) -> str:
    """A model's name: as it was given, or where it was opened from, or its class."""
    if isinstance(model, str):
        return model
    return str(getattr(model, "source", "") or type(getattr(model, "module", model)).__name__)


def _slug(value: Any) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", str(value)).strip("-")[-60:] or "other"
