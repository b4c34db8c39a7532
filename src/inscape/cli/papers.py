"""`inscape papers list | search | show | run`: the papers that are here, what they claim, and whether it held."""

import ast
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from inscape.cli.console import Debug, Json, print_json, print_table, progress

PaperName = Annotated[str, Parameter(name="NAME", help="A paper's short name; inscape papers list prints them.")]
NUMBERS = ("year", "measured", "control", "bound")


def list_papers(*, as_json: Json = False, debug: Debug = False) -> None:
    """Print every paper, and how many of its claims held here."""
    from inscape.recipes.catalogue import entries

    _print_papers(entries(), as_json)


def search(
    *words: str,
    meaning: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find papers by words of their title, method and claims.

    Parameters
    ----------
    words:
        What you look for; a sentence will do with --meaning.
    meaning:
        Search by meaning, with the packaged sentence encoder (seconds; needs the extra demo). Also done when no word
        is found.
    """
    from inscape.core.errors import InputError, MissingExtraError
    from inscape.recipes import catalogue

    query = " ".join(words).strip()
    if not query:
        raise InputError(
            "nothing to search for.\n  write words after the command: inscape papers search 'path patching'."
        )
    found = [] if meaning else catalogue.by_words(query)
    if not found:
        try:
            with progress("reading the descriptions", quiet=as_json):
                found = [entry for entry, _ in catalogue.by_meaning(query)]
        except MissingExtraError:
            if meaning:
                raise
    _print_papers(found, as_json, none=f"no paper is about {query!r}; inscape papers list prints all.")


def show(
    name: PaperName,
    /,
    *,
    results: Annotated[Path | None, Parameter(name="--from", negative="")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print a paper's method, its claims with what was measured beside the control, and the verdicts.

    Parameters
    ----------
    results:
        A folder of results of your own runs, instead of those that came with the package.
    """
    from inscape.recipes.catalogue import entry

    found = entry(name)
    result = found.result(results)
    if as_json:
        print_json(_about(found, result, results))
        return
    paper, source = found.paper, found.source
    print(f"{paper.title}\n{paper.authors}, {paper.year}, {paper.link}{f', {paper.code}' if paper.code else ''}\n")
    print(f"{source.about.strip()}\n")
    print(f"made of   {', '.join(source.uses)}")
    print(f"recipe    {source.path}")
    print(f"settings  {', '.join(f'{k}={v}' if v else k for k, v in source.parameters.items() if k != 'progress')}")
    print(f"control   {paper.control}\n")
    if result is None:
        rows = [["not measured", "", "", c.bound, _text(c)] for c in paper.claims]
        print_table(["verdict", "measured", "control", "bound", "claim"], rows, numbers=NUMBERS)
        where = f" in {results}" if results else ""
        print(f"\nno full run is recorded{where}; inscape papers run {name} makes one.")
        return
    _print_result(result)
    if not found.is_current(result):
        print("note: the claims have changed since this run, so its verdicts are not about them: run it again.")
    if figure := found.figure(results):
        print(f"figure    {figure}")


def run(
    name: PaperName,
    /,
    *,
    quick: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    model: str | None = None,
    seed: int | None = None,
    to: Path | None = None,
    settings: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Reproduce a paper: measure its claims, write the numbers and a figure.

    Parameters
    ----------
    quick:
        Small settings that take seconds: shows that it works and measures nothing.
    model:
        Another model than the recipe's own, where the method takes one.
    to:
        The folder to write into. If left out, a full run in a source checkout replaces the recorded result; anything
        else goes to ./inscape-results.
    settings:
        Another argument of the recipe, such as --set prompts=50; inscape papers show NAME prints them.
    """
    from inscape.recipes.catalogue import entry
    from inscape.recipes.running import check_arguments
    from inscape.recipes.running import run as reproduce

    found, given = entry(name), dict(map(_setting, settings or []))
    check_arguments(found, {k: v for k, v in {"model": model, "seed": seed}.items() if v is not None} | given)
    with progress(f"{name}: importing", quiet=as_json) as tell:
        kept = reproduce(found, quick=quick, model=model, seed=seed, to=to, progress=tell, **given)
    if as_json:
        print_json(_about(found, kept.result) | {"written": kept.path.resolve(), "figure": kept.figure})
        return
    _print_result(kept.result)
    if quick:
        print("note: these are the quick settings; the numbers say nothing about the paper.")
    print(f"written   {kept.path}{f', {kept.figure.name}' if kept.figure else ''}")


def _print_papers(found: list[Any], as_json: bool, none: str = "no paper is here yet.") -> None:
    results = [entry.result() for entry in found]
    if as_json:
        print_json([_about(entry, result) for entry, result in zip(found, results, strict=True)])
        return
    if not found:
        print(none)
        return
    rows = [
        [e.name, e.source.theme, str(e.paper.year), _held(r), e.paper.title]
        for e, r in zip(found, results, strict=True)
    ]
    print_table(["paper", "theme", "year", "claims", "title"], rows, numbers=NUMBERS)


def _print_result(result: Any) -> None:
    from inscape.core.paper import Ran

    rows = [
        [v.word, _measured(v), "" if v.control is None else f"{v.control:.4g}", v.claim.bound, _text(v.claim)]
        for v in result.verdicts
    ]
    print_table(["verdict", "measured", "control", "bound", "claim"], rows, numbers=NUMBERS)
    ran: Ran = result.ran
    packages = ", ".join(f"{name} {version}" for name, version in ran.packages.items())
    print(f"\n{result.summary}{' (quick settings)' if ran.quick else ''}")
    if any(v.word == "not supported" for v in result.verdicts):
        print("not supported: it holds, but so does its control")
    for name, value in result.also.items():
        print(f"also      {name} {value:.4g}")
    model = f"{ran.model}, " if ran.model else ""
    print(f"run       {ran.date[:10]}, {model}seed {result.seed}, {ran.seconds:.3g} s on {ran.machine}")
    print(f"with      {packages}, Python {ran.python}{f', commit {ran.commit}' if ran.commit else ''}")
    for line in result.notes.splitlines():
        print(f"note      {line}")


def _about(found: Any, result: Any, results: Path | None = None) -> dict[str, Any]:
    paper = found.paper
    verdicts = {v.claim.name: v for v in result.verdicts} if result is not None and found.is_current(result) else {}
    return {
        "name": found.name,
        "theme": found.source.theme,
        "title": paper.title,
        "authors": paper.authors,
        "year": paper.year,
        "link": paper.link,
        "code": paper.code,
        "about": found.source.about,
        "uses": found.source.uses,
        "settings": found.source.parameters,
        "control": paper.control,
        "claims": [
            {
                "name": claim.name,
                "text": claim.text,
                "bounds": claim.bounds,
                "control_is": claim.control,
                "verdict": verdicts[claim.name].word if claim.name in verdicts else "not measured",
                "measured": verdicts[claim.name].measured if claim.name in verdicts else None,
                "interval": verdicts[claim.name].interval if claim.name in verdicts else None,
                "control": verdicts[claim.name].control if claim.name in verdicts else None,
            }
            for claim in paper.claims
        ],
        "is_current": result is None or found.is_current(result),
        "also": result.also if result is not None else {},
        "notes": result.notes if result is not None else "",
        "seed": result.seed if result is not None else None,
        "run": result.ran if result is not None else None,
        "figure": found.figure(results),
    }


def _held(result: Any) -> str:
    if result is None:
        return "not run"
    verdicts = result.verdicts
    return f"{sum(v.word == 'holds' for v in verdicts)} of {len(verdicts)} hold"


def _measured(verdict: Any) -> str:
    if verdict.measured is None:
        return ""
    ends = "" if verdict.interval is None else " [{:.3g}, {:.3g}]".format(*verdict.interval)
    return f"{verdict.measured:.4g}{ends}"


def _text(claim: Any) -> str:
    return f"{claim.text} (control: {claim.control})" if claim.control else claim.text


def _setting(text: str) -> tuple[str, Any]:
    """`prompts=50` as a name and a Python value; what is no literal is a string."""
    from inscape.core.errors import InputError

    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        raise InputError(f"--set {text!r} is no setting.\n  write name=value, such as --set prompts=50.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
