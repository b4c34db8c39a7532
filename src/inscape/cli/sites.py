"""`inscape sites`: the names a model offers, with shapes, and what was inferred, proven or withdrawn."""

from collections import Counter
from typing import Annotated, Any

from cyclopts import Parameter

from inscape.cli.console import Debug, Json, ModelName, open_model, print_json, print_table


def sites(
    model: ModelName,
    pattern: str | None = None,
    /,
    *,
    verify: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print the sites of a model.

    Parameters
    ----------
    pattern:
        Only the sites that match, such as 'layers.5.*' (with quotes).
    verify:
        Prove every name on this very model first; what fails is shown as withdrawn.
    """
    opened = open_model(model, quiet=as_json)
    outcome = opened.verify() if verify else None
    table = opened.all_sites if pattern is None else opened.all_sites(pattern)
    counts = Counter(site.status for site in table)
    if as_json:
        print_json(
            {
                "model": model,
                "family": opened.family.name,
                "inferred": opened.inferred,
                "counts": counts,
                "bit_equal": outcome.bit_equal if outcome else None,
                "sites": list(table),
            }
        )
        return
    columns, rows = ["site", "shape", "status", "meaning"], [[s.name, s.shape, s.status, _meant(s)] for s in table]
    if len(counts) == 1:  # said once, above the table
        columns, rows = ["site", "shape", "meaning"], [[name, shape, meant] for name, shape, _, meant in rows]
    counted = ", ".join(f"{n if len(counts) > 1 else 'all'} {_said(status)}" for status, n in counts.items())
    print_table(columns, rows, title=f"{opened!r}\n{len(table)} sites, {counted}")
    if outcome is not None:
        print(f"output with every site read: {'bit-equal' if outcome.bit_equal else 'NOT bit-equal'}")


def _said(status: str) -> str:
    return "from the family's table" if status == "table" else status


def _meant(site: Any) -> str:
    return f"{site.meaning} ({site.note})" if site.note else site.meaning
