"""`inscape steer`: from two files of texts to a direction, its dose, its proof, and a prompt to try it at."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from inscape.cli.console import Debug, Json, ModelName, open_model, print_json, print_table, progress, read_text


def steer(
    model: ModelName,
    positive: str,
    negative: str,
    /,
    *,
    prompts: str | None = None,
    site: str | None = None,
    contains: Annotated[list[str] | None, Parameter(negative="")] = None,
    regex: str | None = None,
    dose: Annotated[list[float] | None, Parameter(negative="")] = None,
    kl_budget: Annotated[float, Parameter(validator=Number(gt=0))] = 0.2,
    method: str = "mean_difference",
    max_new_tokens: Annotated[int, Parameter(validator=Number(gte=1))] = 24,
    seed: int = 0,
    to: Path = Path("steering"),
    try_out: Annotated[bool, Parameter(name="--try", negative="")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find a direction between two files of texts, choose its strength, and write the proof.

    Writes report.html, the direction (safetensors, and GGUF for llama.cpp), the edits for `inscape generate --edits`,
    and all numbers into a folder.

    Parameters
    ----------
    positive:
        A file of texts that have what is wanted: one a line, or separated by blank lines.
    negative:
        A file of like texts that do not have it. Pairs by line are best.
    prompts:
        A file of beginnings to write on from; the package's own if left out.
    site:
        Where to steer, such as layers.9.resid_post; of five layers the one that does most for the budget if left out.
    contains:
        Judge a text by whether it contains this; may be given more than once. A classifier of embeddings if left out.
    regex:
        Judge a text by whether this pattern is in it.
    dose:
        A strength to measure, as a share of each token's length; may be given more than once. Searched if left out.
    kl_budget:
        How far the steered model may be from the plain one, in nats a token.
    method:
        mean_difference, pca_difference, pca or logistic.
    max_new_tokens:
        How many tokens to write on from each prompt.
    to:
        The folder for the files.
    try_out:
        Afterwards read prompts from the terminal and show both answers.
    """
    import inscape as ins
    from inscape.core.judges import contains as contains_any
    from inscape.core.judges import matches
    from inscape.reports.steering import steering_report

    if contains and regex:
        raise ins.InputError("--contains and --regex are two judges.\n  give one of them.")
    judge: Any = contains_any(contains) if contains else matches(regex) if regex else None
    sides = [texts_of(positive), texts_of(negative)]
    begun = texts_of(prompts) if prompts else None
    opened = open_model(model, quiet=as_json)
    with progress("reading the texts", quiet=as_json) as tell:
        found = steering_report(
            opened, sides[0], sides[1], begun, judge=judge, site=site, doses=dose, kl_budget=kl_budget,
            method=method, max_new_tokens=max_new_tokens, seed=seed, progress=tell,
        )  # fmt: skip
        files = found.save(to)
    if as_json:
        print_json({**found.numbers(), "files": [file.resolve() for file in files]})
        return
    _tell(found, files)
    if try_out:
        _try(opened, found, max_new_tokens)


def texts_of(path: str) -> list[str]:
    """Texts of a file: separated by blank lines where there are any, else one a line."""
    from inscape.core.errors import InputError

    whole = read_text(path)
    parts = whole.strip().split("\n\n") if "\n\n" in whole.strip() else whole.splitlines()
    texts = [part.strip() for part in parts if part.strip()]
    if not texts:
        raise InputError(f"{path} holds no text.\n  write texts into it, one a line or separated by blank lines.")
    return texts


def _tell(found: Any, files: list[Path]) -> None:
    best = found.best
    rows = [
        ["score without steering", str(best.base)],
        [f"score at dose {best.dose:g}", str(best.effect)],
        *([f"  {name.replace('_', ' ')} control", str(span)] for name, span in best.controls.items()),
        ["KL, nats a token", str(best.kl)],
        ["loss of the text, nats a token", f"{best.fluency}; unsteered {best.base_fluency}"],
    ]
    print(f"{found.direction.source}\nat {found.direction.site}, dose {best.dose:g} of each token's length")
    print_table(["measured on other prompts", "mean and 95 % interval"], rows)
    for warning in found.warnings:
        print(f"warning: {warning}")
    for prompt, plain, steered in found.dose.examples(best.dose or found.dose.strongest, 2):
        print(f"\n{prompt}\n  unsteered: {' '.join(plain.split())}\n  steered:   {' '.join(steered.split())}")
    print()
    for file in files:
        print(file.resolve())


def _try(model: Any, found: Any, max_new_tokens: int) -> None:
    """Prompts from the terminal until it ends; `:dose 0.2` changes the dose."""
    import sys

    import inscape as ins

    dose = found.best.dose or found.dose.strongest
    print(f"\nwrite a beginning; :dose 0.2 changes the dose (now {dose:g}), :quit or Ctrl-D ends")
    while True:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line or line.strip() in (":quit", ":q"):
            return
        text = line.strip()
        if text.startswith(":dose"):
            try:
                dose = float(text.removeprefix(":dose"))
            except ValueError:
                print(f"{text.removeprefix(':dose').strip()!r} is no number: write :dose 0.2")
            continue
        if not text:
            continue
        for name, edits in (("unsteered", []), (f"dose {dose:g}", found.dose.edits(dose) if dose else [])):
            out = ins.generate(model, [text], edits=edits, max_new_tokens=max_new_tokens)
            print(f"{name}: {text}{out.text[0]}")
