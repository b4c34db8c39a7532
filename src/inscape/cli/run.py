"""`inscape run`: one forward pass, and what is at the sites that were read."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from inscape.cli.console import Debug, Json, open_model, print_json, print_table


def run(
    model: str,
    /,
    *text: str,
    read: Annotated[list[str] | None, Parameter(negative="")] = None,
    edits: Path | None = None,
    save: Path | None = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a model on texts and print shape, mean norm, minimum and maximum at the sites that are read.

    Parameters
    ----------
    model:
        A demo name, a Hugging Face folder or id, or a .gguf file.
    text:
        One or more texts; they run as one batch.
    read:
        A site or pattern, such as 'layers.*.resid_post'; may be given more than once. All residual streams if left out.
    edits:
        A file of edits (ins.save_edits) to apply.
    save:
        Write the values, tokens and mask to this .safetensors file.
    """
    from inscape.core.errors import InputError

    if not text:
        raise InputError("no text to run.\n  write it after the model: inscape run MODEL 'The Eiffel Tower is in'.")
    import inscape as ins

    opened = open_model(model, quiet=as_json)
    patterns = read or ["layers.*.resid_post"]
    trace = ins.run(opened, list(text), read=patterns, edits=ins.load_edits(edits) if edits else [])
    rows = [_row(name, value, trace.mask) for name, value in trace.items()]
    if save is not None:
        _save(save, trace, opened)
    if as_json:
        print_json({"model": model, "tokens": trace.tokens, "mask": trace.mask, "sites": rows, "fired": trace.fired})
        return
    shown = [[r["site"], str(r["shape"]), *(f"{r[k]:.4g}" for k in ("mean_norm", "min", "max"))] for r in rows]
    print_table(["site", "shape", "mean norm", "min", "max"], shown)
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
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from inscape.core.errors import FileError

    tensors = {name: value.detach().cpu().contiguous() for name, value in trace.items()}
    for name, value in (("tokens", trace.tokens), ("mask", trace.mask)):
        if value is not None:
            tensors[name] = value.cpu().contiguous()
    try:
        save_file(tensors, str(path), metadata={"model": model.source, "fingerprint": model.fingerprint})
    except (OSError, SafetensorError) as error:
        raise FileError(f"{path} cannot be written: {error}.\n  choose a folder that exists and has room.") from error
