"""What a report is made from: inputs that this model takes, one run each, with a readable name for every position."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.progress import Progress
from inscape.engine.unembed import predicts_next
from inscape.models.model import Model
from inscape.tasks.plain_text import plain_text

N_TEXTS, MAX_TOKENS, N_SKIP = 8, 64, 3


@dataclass(frozen=True, eq=False)
class Material:
    """Inputs shared by the sections of one report.

    kind: "causal" (predicts the next token), "tokens" (reads tokens in another way), "image" or "other".
    runs: one input a run; batch: several of them as one run, for what is repeated many times. names: what each
    position of a run is called, empty where the inputs are no tokens. said: where the inputs come from, in words.
    argument: how the inputs are written in the calls under the figures.
    """

    kind: str
    runs: tuple[Any, ...]
    batch: Any
    names: tuple[tuple[str, ...], ...]
    said: str
    argument: str
    n_positions: int
    seed: int = 0
    progress: Progress = None

    @property
    def skip_first(self) -> bool:
        return self.kind == "causal"

    @property
    def listed(self) -> str:
        """The inputs as a list with one entry a run."""
        return "[[text] for text in texts]" if self.argument == "texts" else f"[{self.argument}]"

    def beginnings(self, rows: int, tokens: int) -> str:
        """The first tokens of the first inputs, as they are written in a call that goes on from them."""
        ids = "model.tokenizer(list(texts))['input_ids']" if self.argument == "texts" else self.argument
        return f"[row[:{tokens}] for row in {ids}[:{rows}]]"


def gather(
    model: Model, texts: Any = None, *, max_tokens: int = MAX_TOKENS, seed: int = 0, progress: Progress = None
) -> Material:
    """The inputs of a report: the given ones, or ones that suit the model.

    texts: texts, token ids, images or the module's own arguments. Without them a model with a tokenizer reads the
    package's plain texts, one without it seeded random tokens, a vision model sample photographs or, without a
    processor, seeded noise with a smooth part. Texts are cut to `max_tokens`.
    Raises: InputError when nothing was given and nothing suits.
    """
    main = getattr(model.module, "main_input_name", None)
    if main == "pixel_values" or (main is None and not hasattr(model.config, "vocab_size")):
        return _images(model, texts, seed, progress)
    if isinstance(texts, (dict, tuple)) or (isinstance(texts, Tensor) and texts.is_floating_point()):
        return _as_given(model, texts, seed, progress)
    if main not in (None, "input_ids"):
        raise InputError(
            f"{type(model.module).__name__} reads {main}; give report() its inputs as a dict: {{{main!r}: ...}}."
        )
    rows, said, argument = _rows(model, texts, max_tokens, seed)
    names = tuple(tuple(_names(model, row)) for row in rows)
    kind = "causal" if predicts_next(model) else "tokens"
    runs: Any = tuple([row] for row in rows)
    batch: Any = [list(row) for row in rows[:N_SKIP]]
    if getattr(model.config, "is_encoder_decoder", False):  # the decoder reads the same tokens as the encoder
        runs = tuple({"input_ids": torch.tensor([row]), "decoder_input_ids": torch.tensor([row])} for row in rows)
        batch = runs[0]
    return Material(kind, runs, batch, names, said, argument, sum(map(len, rows)), seed, progress)


def _rows(model: Model, texts: Any, max_tokens: int, seed: int) -> tuple[list[list[int]], str, str]:
    if isinstance(texts, str):
        texts = [texts]
    if texts is None and model.tokenizer is None:
        vocab = int(getattr(getattr(model.config, "get_text_config", lambda: model.config)(), "vocab_size", 0))
        if vocab < 4:
            raise InputError(
                "nothing to run on: this model has no tokenizer and no vocabulary size.\n  give report() its inputs."
            )
        generator = torch.Generator().manual_seed(seed)
        length = min(24, max_tokens, _room(model))
        drawn = torch.randint(3, vocab, (4, length), generator=generator).tolist()
        return drawn, f"4 rows of {length} random token ids, because the model has no tokenizer", "ids"
    if texts is None:
        texts = plain_text(N_TEXTS)
        said, argument = f"{len(texts)} plain English texts that come with the package", "texts"
    else:
        texts = texts.tolist() if isinstance(texts, Tensor) else list(texts)
        said, argument = f"{len(texts)} inputs that were given", "texts"
    if not texts:
        raise InputError(
            "report() got an empty list of texts.\n  give at least one text, or none at all for the package's own."
        )
    if isinstance(texts[0], int):
        texts = [texts]
    limit = min(max_tokens, _room(model))
    rows = []
    for index, one in enumerate(texts):
        if isinstance(one, str):
            if model.tokenizer is None:
                raise InputError(
                    "the inputs are text and this model has no tokenizer.\n  give "
                    "token ids, or open it with tokenizer=."
                )
            one = model.tokenizer(one)["input_ids"]
        row = [int(t) for t in one][:limit]
        if len(row) < 2:
            raise InputError(f"input {index} has {len(row)} token; a report needs at least two in each.")
        rows.append(row)
    cut = f", cut to {limit} tokens" if any(len(row) == limit for row in rows) else ""
    return rows, said + cut, argument


def _room(model: Model) -> int:
    text = getattr(model.config, "get_text_config", lambda: model.config)()
    limits = [getattr(text, n, None) for n in ("max_position_embeddings", "n_positions")]
    known = [n for n in limits if isinstance(n, int) and n > 4]
    return min(known) - 2 if known else 1 << 20


def _names(model: Model, row: Sequence[int]) -> list[str]:
    if model.tokenizer is None:
        return [str(t) for t in row]
    return [token_name(model, t) for t in row]


def token_name(model: Model, token: int) -> str:
    """The text of one token, or its id where it has none."""
    if model.tokenizer is None:
        return str(token)
    text = model.tokenizer.decode([token])
    return text if text else str(model.tokenizer.convert_ids_to_tokens(token))


def _images(model: Model, images: Any, seed: int, progress: Progress) -> Material:
    said = "images that were given"
    if images is None:
        images, said = _own_images(model, seed)
    if isinstance(images, Tensor):
        images = images if images.ndim == 4 else images[None]
        runs: tuple[Any, ...] = tuple(images[i : i + 1] for i in range(len(images)))
        batch: Any = images
    elif isinstance(images, dict):
        return _as_given(model, images, seed, progress)
    else:
        images = list(images) if isinstance(images, (list, tuple)) else [images]
        runs, batch = tuple([one] for one in images), images
    return Material("image", runs, batch, (), said, "images", len(runs), seed, progress)


def _own_images(model: Model, seed: int) -> tuple[Any, str]:
    if model.processor is not None:
        try:
            from sklearn.datasets import load_sample_images
        except ModuleNotFoundError:
            pass
        else:
            return list(load_sample_images().images), "the two sample photographs of scikit-learn"
    config = model.config
    size = getattr(getattr(config, "vision_config", config), "image_size", None)
    size = size if isinstance(size, int) else (size[0] if isinstance(size, (list, tuple)) else 64)
    channels = getattr(config, "num_channels", 3)
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(4, channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)
    noise = torch.randn(4, channels, size, size, generator=generator)
    return smooth + 0.3 * noise, "4 seeded synthetic pictures, because the model has no image processor"


def _as_given(model: Model, inputs: Any, seed: int, progress: Progress) -> Material:
    """The module's own arguments, as one run; positions have no names."""
    tokens = inputs.get("input_ids") if isinstance(inputs, dict) else None
    kind = "causal" if tokens is not None and predicts_next(model) and len(inputs) <= 2 else "other"
    if isinstance(inputs, dict) and "pixel_values" in inputs and tokens is None:
        kind = "image"
    return Material(kind, (inputs,), inputs, (), "inputs that were given", "inputs", 0, seed, progress)
