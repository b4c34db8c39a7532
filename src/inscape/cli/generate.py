"""`inscape generate`: go on from a text, with or without edits."""

from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from inscape.cli.console import Debug, EditsFile, Json, ModelName, open_model, print_json, texts_given


def generate(
    model: ModelName,
    /,
    *text: str,
    edits: EditsFile = None,
    max_new_tokens: Annotated[int, Parameter(validator=Number(gte=1))] = 40,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Generate greedily from texts, with the edits of a file in force.

    Parameters
    ----------
    text:
        One or more texts to go on from; they run as one batch.
    max_new_tokens:
        How many tokens to add at most.
    """
    texts = texts_given(text, "generate", "to go on from")
    import inscape as ins

    plan = ins.load_edits(edits) if edits else []
    opened = open_model(model, quiet=as_json)
    out = ins.generate(opened, texts, edits=plan, max_new_tokens=max_new_tokens)
    if as_json:
        rows = [{"prompt": p, "text": t, "tokens": i} for p, t, i in zip(texts, out.text, out.tokens, strict=True)]
        print_json({"model": model, "edits": [e.label for e in plan], "generated": rows, "fired": out.trace.fired})
        return
    for prompt, new in zip(texts, out.text, strict=True):
        print(prompt + new)
