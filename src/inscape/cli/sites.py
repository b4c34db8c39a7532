"""`inscape sites`: the names a model offers, with shapes, and what was inferred, proven or withdrawn."""

from collections import Counter
from typing import Annotated

from cyclopts import Parameter

from inscape.cli.console import Debug, Json, open_model, print_json, print_table


def sites(
    model: str,
    pattern: str | None = None,
    /,
    *,
    verify: Annotated[bool, Parameter(negative="")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print the sites of a model.

    Parameters
    ----------
    model:
        A demo name, a Hugging Face folder or id, or a .gguf file.
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
    counted = ", ".join(f"{n} {_said(status)}" for status, n in counts.items())
    print_table(
        ["site", "shape", "status", "meaning"],
        [[s.name, s.shape, s.status, f"{s.meaning} ({s.note})" if s.note else s.meaning] for s in table],
        title=f"{opened!r}\n{len(table)} sites: {counted}",
    )
    if outcome is not None:
        print(f"output with every site read: {'bit-equal' if outcome.bit_equal else 'NOT bit-equal'}")


def _said(status: str) -> str:
    return "from the family's table" if status == "table" else status
