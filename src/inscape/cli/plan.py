"""`inscape plan`: what a report would compute and cost, without computing it."""

from typing import Annotated

from cyclopts import Parameter

from inscape.cli.console import Debug, Json, ModelName, open_model, print_json


def plan(
    model: ModelName,
    /,
    *,
    text: Annotated[list[str] | None, Parameter(negative="")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a report of this model would do and about how long it takes.

    Parameters
    ----------
    text:
        A text the report would read; may be given more than once. The built-in ones if left out.
    """
    import inscape as ins

    opened = open_model(model, quiet=as_json)
    outcome = ins.plan(opened, text or None)
    if as_json:
        print_json({"model": model, "plan": outcome})
    else:
        print(outcome)
