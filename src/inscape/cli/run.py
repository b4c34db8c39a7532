"""`inscape run`: one forward pass, and what is at the sites that were read."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from inscape.cli.console import (
    Debug,
    EditsFile,
    Json,
    ModelName,
    open_model,
    print_json,
    print_table,
    texts_given,
)

FIGURES = ("mean norm", "min", "max")


def run(
    model: ModelName,
    /,
    *text: str,
    read: Annotated[list[str] | None, Parameter(negative="")] = None,
    edits: EditsFile = None,
    save: Path | None = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a model on texts and print shape, mean norm, minimum and maximum at the sites that are read.

    Parameters
    ----------
    text:
        One or more texts; they run as one batch.
    read:
        A site or pattern, such as 'layers.*.resid_post'; may be given more than once. All residual streams if left out.
    save:
        Write the values, tokens and mask to this .safetensors file.
    """
    texts = texts_given(text, "run", "to run")
    import inscape as ins

    plan = ins.load_edits(edits) if edits else []
    if save is not None and not save.parent.is_dir():  # known now, not after the run
        raise ins.FileError(
            f"{save} cannot be written: there is no folder {save.parent}.\n  make it, or choose another."
        )
    opened = open_model(model, quiet=as_json)
    patterns = read or ["layers.*.resid_post"]
    trace = ins.run(opened, texts, read=patterns, edits=plan)
    rows = [_row(name, value, trace.mask) for name, value in trace.items()]
    if save is not None:
        _save(save, trace, opened)
    if as_json:
        print_json({"model": model, "tokens": trace.tokens, "mask": trace.mask, "sites": rows, "fired": trace.fired})
        return
    shown = [[r["site"], str(r["shape"]), *(f"{r[k]:.4g}" for k in ("mean_norm", "min", "max"))] for r in rows]
    print_table(["site", "shape", *FIGURES], shown, numbers=FIGURES)
    if save is not None:
        print(f"{len(trace)} sites written to {save}")


def _row(name: str, value: Any, mask: Any) -> dict[str, Any]:
    """Figures of one site over real tokens: mean length along the last axis, smallest and largest finite value."""
    kept = value[mask.to(value.device)] if mask is not None and value.shape[:2] == mask.shape else value
    numbers = kept.float() if kept.is_floating_point() else kept.double()
    finite = numbers[numbers.isfinite()]
    return {
        "site": name,
        "shape": list(value.shape),
        "mean_norm": float(numbers.nan_to_num(0.0, 0.0, 0.0).norm(dim=-1).mean()),
        "min": float(finite.min()) if len(finite) else float("nan"),
        "max": float(finite.max()) if len(finite) else float("nan"),
    }


def _save(path: Path, trace: Any, model: Any) -> None:
    from inscape.core.tensor_file import write_tensors

    extra = {"tokens": trace.tokens, "mask": trace.mask}
    tensors = dict(trace) | {name: x for name, x in extra.items() if x is not None}
    write_tensors(path, tensors, {"model": model.source, "fingerprint": model.fingerprint})
