"""A small seeded input for any model, and a recording of many sites that does not mind silent ones."""

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from inscape.core.errors import InputError
from inscape.engine.forward import eager, one_call
from inscape.engine.inputs import accepts, prepare
from inscape.engine.planning import reads_of, tasks_of
from inscape.engine.session import Session
from inscape.models.model import Model

ROWS, COLUMNS = 2, 7


def probe_inputs(model: Model) -> dict[str, Tensor] | tuple[Tensor, ...]:
    """Two short seeded samples this model can run on: ids inside the vocabulary, noise for pixels and sound.

    Special and image tokens are avoided, except where an image needs its own. A plain module gets token ids when it
    begins with an embedding, noise when it begins with a linear layer. Raises InputError when nothing fits.
    """
    if model.config is not None and hasattr(model.config, "get_text_config"):
        for inputs in _for_config(model):
            if _runs(model, inputs):
                return inputs
    else:
        for inputs in _for_module(model.module):
            moved = tuple(x.to(model.device) for x in inputs)
            if _runs(model, moved):
                return moved
    raise InputError(
        f"no probe input could be made for {type(model.module).__name__}: its configuration does not tell its inputs.\n"
        "  give some: model.verify(inputs=...), with whatever the module's forward takes."
    )


def lone_tokens(model: Model, rows: int, columns: int = 1) -> dict[str, Tensor] | tuple[Tensor, ...] | None:
    """Seeded rows of ordinary tokens, one a row unless more `columns` are asked for; None where tokens are not enough.

    A token at the first position attends to itself alone and no rotary embedding turns it.
    """
    generator = torch.Generator().manual_seed(0)
    config, module = model.config, model.module
    made: dict[str, Tensor] | tuple[Tensor, ...]
    if config is not None and hasattr(config, "get_text_config"):
        if not accepts(module, "input_ids"):
            return None
        made = {"input_ids": _ids(config, generator, rows, columns).to(model.device)}
        if _needs_decoder(module, config):
            made["decoder_input_ids"] = _ids(config, generator, rows, columns).to(model.device)
    else:
        vocab = max((m.num_embeddings for m in module.modules() if isinstance(m, nn.Embedding)), default=0)
        if not vocab:
            return None
        made = (torch.randint(vocab, (rows, columns), generator=generator).to(model.device),)
    return made if _runs(model, made) else None


def varied(inputs: Any, prefix: str, config: Any) -> Any:
    """The same inputs with other content for the stack with this prefix: ids in reverse, noise turned round."""
    if isinstance(inputs, tuple):
        return tuple(_other(x, set()) for x in inputs)
    if isinstance(inputs, Tensor):
        return _other(inputs, set())
    if not isinstance(inputs, dict):
        return inputs
    keys = {"decoder.": ("decoder_input_ids",), "vision.": ("pixel_values",)}.get(prefix)
    if keys is None or not any(k in inputs for k in keys):
        keys = ("input_ids", "input_values", "input_features", "inputs_embeds")
        keys = keys if any(k in inputs for k in keys) else ("pixel_values",)
    special = _special_ids(config)
    return {k: _other(v, special) if k in keys and isinstance(v, Tensor) else v for k, v in inputs.items()}


def record(model: Model, inputs: Any, names: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, int], Any]:
    """Values of the sites that fired, how often each did, and the model's output; silent sites are no error."""
    prepared = prepare(model, inputs)
    tasks = tasks_of(model, reads_of(model, list(names), None), (), prepared) if names else []
    session = Session(model.module, tasks, one_call(model, prepared))
    with torch.no_grad(), eager(model, bool(tasks)), session:
        out = model.module(*prepared.args, **prepared.kwargs)
    return session.values, session.fired, out


def main_output(out: Any) -> Tensor | None:
    """The first floating tensor of an output object: logits, or the last hidden state."""
    if isinstance(out, Tensor):
        return out
    if getattr(out, "logits", None) is not None:
        return out.logits
    values = out.to_tuple() if hasattr(out, "to_tuple") else out if isinstance(out, (tuple, list)) else ()
    return next((v for v in values if isinstance(v, Tensor) and v.is_floating_point() and v.ndim > 0), None)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Every submodule in eval mode, and afterwards in whatever mode each was."""
    training = [m for m in module.modules() if m.training]
    for m in training:
        m.training = False
    try:
        yield
    finally:
        for m in training:
            m.training = True


def _runs(model: Model, inputs: Any) -> bool:
    """Does the module take these inputs? Anything may go wrong inside a module that gets what it does not expect."""
    try:
        with torch.no_grad(), evaluating(model.module):
            _, _, out = record(model, inputs, ())
    except Exception:
        return False
    return main_output(out) is not None


def _for_config(model: Model) -> Iterator[dict[str, Tensor]]:
    module, config = model.module, model.config
    main = getattr(module, "main_input_name", "input_ids")
    generator = torch.Generator().manual_seed(0)
    noise = lambda *shape: torch.randn(*shape, generator=generator).to(model.device, model.dtype)  # noqa: E731
    ids = _ids(config, generator).to(model.device)
    decoder = {"decoder_input_ids": _ids(config, generator).to(model.device)} if _needs_decoder(module, config) else {}
    vision = getattr(config, "vision_config", None) or config
    size = getattr(vision, "image_size", None) or 32
    high, wide = (size, size) if isinstance(size, int) else tuple(size)[:2]
    channels = getattr(vision, "num_channels", None) or getattr(vision, "in_channels", None) or 3
    pixels = noise(ROWS, channels, high, wide) if accepts(module, "pixel_values") else None
    if main == "pixel_values" and pixels is not None:
        yield {"pixel_values": pixels}
    if main == "input_values":
        yield {"input_values": noise(ROWS, 2000)}
        yield {"input_values": noise(ROWS, 16000)}
    if main == "input_features":
        mels = getattr(config, "num_mel_bins", 80)
        frames = 2 * getattr(config, "max_source_positions", 50)
        yield {"input_features": noise(ROWS, mels, frames)} | decoder
        yield {"input_features": noise(ROWS, frames, mels)} | decoder
    if pixels is not None and accepts(module, "input_ids"):
        yield from _with_image(model, ids, pixels, noise)
        yield {"input_ids": ids, "pixel_values": pixels}  # two towers side by side
    if accepts(module, "input_ids"):
        yield {"input_ids": ids} | decoder
    if pixels is not None:
        yield {"pixel_values": pixels}


def _with_image(model: Model, ids: Tensor, pixels: Tensor, noise: Any) -> Iterator[dict[str, Tensor]]:
    """Ids with as many image tokens as the picture needs, after one ordinary token."""
    config = model.config
    token = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
    if token is None:
        return
    vision = config.vision_config
    kinds = torch.zeros(1, dtype=torch.long, device=ids.device)
    if accepts(model.module, "image_grid_thw"):
        merge, patch = getattr(vision, "spatial_merge_size", 2), vision.patch_size
        side = 2 * merge
        count = (side // merge) ** 2
        width = getattr(vision, "in_channels", 3) * getattr(vision, "temporal_patch_size", 2) * patch**2
        more = {
            "pixel_values": noise(ROWS * side * side, width),
            "image_grid_thw": torch.tensor([[1, side, side]] * ROWS, device=ids.device),
        }
        counts = [count]
    else:
        more = {"pixel_values": pixels}
        patches = (pixels.shape[-1] // getattr(vision, "patch_size", 16)) ** 2
        counts = list(
            dict.fromkeys([getattr(config, "mm_tokens_per_image", patches), patches, patches + 1, patches // 4])
        )
    start = getattr(config, "vision_start_token_id", None)
    for count in counts:
        image = torch.full((ROWS, count), token, device=ids.device)
        first = ids[:, :1] if start is None else torch.cat([ids[:, :1], torch.full_like(ids[:, :1], start)], 1)
        full = torch.cat([first, image, ids[:, 1:]], 1)
        base = {"input_ids": full} | more
        if accepts(model.module, "mm_token_type_ids"):
            base["mm_token_type_ids"] = (full == token).long() + kinds
        if accepts(model.module, "token_type_ids"):
            yield base | {"token_type_ids": (full == token).long()}
        yield base


def _needs_decoder(module: nn.Module, config: Any) -> bool:
    return bool(getattr(config, "is_encoder_decoder", False)) and accepts(module, "decoder_input_ids")


def _special_ids(config: Any) -> set[int]:
    found: set[int] = set()
    for owner in (config, getattr(config, "get_text_config", lambda: None)()):
        for name, value in vars(owner).items() if owner is not None else ():
            if name.endswith(("_token_id", "_token_index")):
                found |= {v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int)}
    return found


def _ids(config: Any, generator: torch.Generator, rows: int = ROWS, columns: int = COLUMNS) -> Tensor:
    vocab = getattr(config.get_text_config(), "vocab_size", None) or getattr(config, "vocab_size", None) or 32
    special = _special_ids(config)
    span = min(vocab, 4096 + len(special))  # ordinary tokens of a large vocabulary stand early
    allowed = torch.tensor([i for i in range(span) if i not in special] or [0])
    return allowed[torch.randint(len(allowed), (rows, columns), generator=generator)]


def _other(x: Tensor, special: set[int]) -> Tensor:
    if x.is_floating_point():
        return x.flip(0) * 0.9 if x.shape[0] > 1 else x.roll(1, -1) * 0.9
    y, free = x.clone(), ~torch.isin(x, torch.tensor(sorted(special) or [-1], device=x.device))
    y[free] = x[free].flip(0)
    return y


def _for_module(module: nn.Module) -> Iterator[tuple[Tensor, ...]]:
    """Guesses for a plain module, most telling first."""
    try:
        required = [
            p
            for p in inspect.signature(module.forward).parameters.values()
            if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
        ]
    except (TypeError, ValueError):
        return
    if len(required) > 2:
        return
    generator = torch.Generator().manual_seed(0)
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    embeddings = [m for m in module.modules() if isinstance(m, nn.Embedding)]
    if embeddings:
        vocab = max(m.num_embeddings for m in embeddings)
        yield from ((torch.randint(vocab, (ROWS, COLUMNS), generator=generator),) * n for n in {1, len(required)})
        return
    for m in module.modules():
        width = getattr(m, "embed_dim", None) or getattr(m, "in_features", None)
        if isinstance(width, int):
            x = torch.randn(ROWS, COLUMNS, width, generator=generator).to(dtype)
            yield from ((x,) * n for n in dict.fromkeys((1, max(len(required), 1))))
            yield (x[:, 0],)
            return
        if isinstance(m, nn.Conv2d):
            yield (torch.randn(ROWS, m.in_channels, 32, 32, generator=generator).to(dtype),)
            return
