"""`inscape generate`: go on from a text, with or without edits."""

from pathlib import Path

from inscape.cli.console import Debug, Json, open_model, print_json


def generate(
    model: str,
    /,
    *text: str,
    edits: Path | None = None,
    max_new_tokens: int = 40,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Generate greedily from texts, with the edits of a file in force.

    Parameters
    ----------
    model:
        A demo name, a Hugging Face folder or id, or a .gguf file.
    text:
        One or more texts to go on from; they run as one batch.
    edits:
        A file written by ins.save_edits.
    max_new_tokens:
        How many tokens to add at most.
    """
    from inscape.core.errors import InputError

    if not text:
        raise InputError("no text to go on from.\n  write it after the model: inscape generate MODEL 'This morning I'.")
    import inscape as ins

    plan = ins.load_edits(edits) if edits else []
    opened = open_model(model, quiet=as_json)
    out = ins.generate(opened, list(text), edits=plan, max_new_tokens=max_new_tokens)
    if as_json:
        rows = [{"prompt": p, "text": t, "tokens": i} for p, t, i in zip(text, out.text, out.tokens, strict=True)]
        print_json({"model": model, "edits": [e.label for e in plan], "generated": rows, "fired": out.trace.fired})
        return
    for prompt, new in zip(text, out.text, strict=True):
        print(prompt + new)
