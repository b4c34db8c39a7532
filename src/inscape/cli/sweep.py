"""`inscape sweep`: patch one prompt's activations into another, everywhere, and see what moves the answer."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from inscape.cli.console import Debug, Json, ModelName, open_model, print_json, print_table, progress


def sweep(
    model: ModelName,
    clean: str,
    corrupted: str,
    /,
    *,
    answer: str,
    wrong: str,
    sites: Annotated[list[str] | None, Parameter(negative="")] = None,
    heads: Annotated[bool, Parameter(negative="")] = False,
    noise: Annotated[bool, Parameter(negative="")] = False,
    top: int = 10,
    figure: Path | None = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Patch CLEAN into CORRUPTED at every site and position, and print what moves the answer most.

    Parameters
    ----------
    clean, corrupted:
        Two prompts of equally many tokens that have different answers.
    answer, wrong:
        The answers of CLEAN and of CORRUPTED, one token each; a leading space is added where it is needed.
    sites:
        A site or pattern, such as 'layers.*.attn_out'; may be given more than once. All residual streams if left out.
    heads:
        Every head on its own, at the last token (sites: layers.*.attn.z if left out).
    noise:
        The other way round: CORRUPTED into CLEAN.
    top:
        How many cells to print.
    figure:
        Write the grid to this .png or .svg file.
    """
    import inscape as ins

    if figure is not None and figure.suffix not in (".png", ".svg"):
        raise ins.InputError(f"--figure {figure}: a figure is written as .png or .svg.")
    opened = open_model(model, quiet=as_json)
    asked = sites or (["layers.*.attn.z"] if heads else ["layers.*.resid_post"])
    metric = ins.logit_diff(_token(opened, answer), _token(opened, wrong))
    with progress("patching every place", quiet=as_json) as tell:
        grid = ins.sweep(
            opened, clean, corrupted, sites=asked, metric=metric, heads="all" if heads else None,
            positions=[-1] if heads else "all", direction="noise" if noise else "denoise", progress=tell,
        )  # fmt: skip
    if figure is not None:
        _draw(grid, figure)
    if as_json:
        print_json(
            {
                "model": model, "axes": grid.axes, "labels": grid.labels, "tokens": grid.tokens, "values": grid.values,
                "base": grid.base, "other": grid.other, "metric": grid.metric, "how": grid.how,
                "seconds": grid.cost.seconds, "predicted_s": grid.cost.predicted_s,
            }
        )  # fmt: skip
        return
    share = grid.normalised()
    other = float(grid.other[0]) if grid.other is not None else float("nan")
    print(f"{grid.metric}: {float(grid.base[0]):.3f} as it is, {other:.3f} in the other prompt")
    rows = []
    for where, change in grid.top(top):
        at = tuple(names.index(label) for names, label in zip(grid.labels, where, strict=True))
        rows.append([*(_named(grid, axis, x) for axis, x in zip(grid.axes, where, strict=True)), f"{change:+.3f}",
                     f"{float(share[at]):.0%}"])  # fmt: skip
    print_table([*grid.axes, "change", "share"], rows)
    print(f"{grid.how}; {grid.cost}")
    if figure is not None:
        print(f"wrote {figure}")


def _named(grid: Any, axis: str, label: Any) -> str:
    is_token = axis == "position" and isinstance(label, int) and 0 <= label < len(grid.tokens)
    return f"{label} {grid.tokens[label].strip()!r}" if is_token else str(label)


def _token(model: Any, text: str) -> str:
    """The text as one token: as it is, or with the space before it that words have inside a sentence."""

    def count(t: str) -> int:
        return len(model.tokenizer(t, add_special_tokens=False)["input_ids"])

    return f" {text}" if not text.startswith(" ") and count(f" {text}") == 1 else text


def _draw(grid: Any, figure: Path) -> None:
    from inscape.core.durable import disk_errors, written
    from inscape.view.grid import grid_figure
    from inscape.view.png import png, svg

    spec = grid_figure(grid, show="share")
    data = png(spec) if figure.suffix == ".png" else svg(spec).encode()
    with disk_errors(str(figure), lambda: "choose a folder that is there."), written(figure, replace=True) as file:
        file.write(data)
