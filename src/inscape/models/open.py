"""Open a model by name, path or as the module it is."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from inscape.models.model import Model


def open(
    source: str | Path | nn.Module | Model,
    *,
    tokenizer: Any = None,
    processor: Any = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    family: Any = None,
    progress: Any = None,
) -> Model:
    """Open a model: a demo name, a toy net, a Hugging Face folder or id, a .gguf file, or any `nn.Module`.

    Never rewrites weights, never copies them, never forces an attention implementation, never changes the dtype
    unless asked. A module is taken in the mode it is in; what is loaded comes in eval mode. A compiled module is
    opened by the module inside it: plain calls stay compiled, runs that look inside are eager.

    family: a `Family` of your own for an architecture that has no table.
    Cost: the load itself. Raises ModelError, FileError or MissingExtraError with what to do.
    """
    from inscape.models.families import family_of
    from inscape.models.load import load

    if isinstance(source, Model):
        return source
    notes: tuple[str, ...] = ()
    inner = getattr(source, "_orig_mod", None)
    if isinstance(inner, nn.Module):
        source = inner
        notes = ("opened the module inside the compiled one; runs that read or edit are eager",)
    loaded = load(source, tokenizer=tokenizer, processor=processor, dtype=dtype, device=device, progress=progress)
    notes += tuple(loaded.notes)
    table = family or family_of(loaded.module)
    if table is not None:
        return Model(loaded.module, loaded.tokenizer, loaded.processor, table, loaded.source, notes)
    from inscape.engine.infer import infer_family

    guessed = infer_family(loaded.module)
    return Model(loaded.module, loaded.tokenizer, loaded.processor, guessed, loaded.source, notes, inferred=True)
