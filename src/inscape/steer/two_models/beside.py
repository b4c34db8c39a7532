"""The blocks of a second model on the first one's stream: same input, same masks and positions, a cache of their own.

1. An edit at what a block returns asks how the block was called (`Edit.calls`).
2. The base's block at the same depth is called in the same way; where there is a cache, with layers of its own, which
   hang behind the first model's in the same cache: beams, cropping and repeating reach both.
No weights are copied: both models are run as they are.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import EditError, ModelError
from inscape.core.step import Step
from inscape.models.model import Model

SUMS = ("sequential", "parallel")
POSITIONS = ("rope_parameters", "rope_theta", "rope_scaling", "alibi", "position_embedding_type", "sliding_window",
             "layer_types", "max_position_embeddings")  # fmt: skip


class Beside:
    """The base of a fine-tune, whose blocks may be called on the tuned model's stream."""

    def __init__(self, tuned: Model, base: Model) -> None:
        check_pair(tuned, base)
        self.tuned, self.base = tuned, base
        self.number = {block.module: i for i, block in enumerate(tuned.blocks)}

    def block(
        self, x: Tensor, step: Step
    ) -> tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch pos d_model"]]:
        """(what entered the tuned block under way, what the base's block makes of it). x: what the tuned one made."""
        call = step.call
        layer = self.number.get(call.module) if call is not None else None
        if call is None or layer is None:
            raise EditError(
                f"the edit at {step.site} belongs to another model: it was made for {self.tuned!r}.\n"
                "  make it with the model that you run."
            )
        before, block = call.args[0], self.base.blocks[layer].module
        if block is call.module:
            return before, x
        cache = next((v for v in (*call.args[1:], *call.kwargs.values()) if _is_cache(v)), None)
        own = self._own(cache, step) if cache is not None else None
        args = [own if v is cache and cache is not None else v for v in call.args[1:]]
        kwargs = {k: own if v is cache and cache is not None else v for k, v in call.kwargs.items()}
        out = block(before, *args, **kwargs)
        return before, out if isinstance(out, Tensor) else out[0]

    def _own(self, cache: Any, step: Step) -> Any:
        key = ("the cache of a second model", id(self))
        known = step.kept.get(key)
        if known is not None and known[0] is cache:
            return known[1]
        if step.start > 0 and known is None:
            raise EditError(
                "this cache was filled before the edit was in force, so that the base has not seen what lies in it.\n"
                "  feed the prompt under the edit too."
            )
        from transformers import DynamicCache

        if type(cache) is not DynamicCache:
            raise ModelError(
                f"two models on one stream keep a plain DynamicCache; this run has a {type(cache).__name__}.\n"
                "  generate with the default cache, or with use_cache=False."
            )
        own: Any = DynamicCache(config=self.base.config)
        n = self.tuned.n_layers
        if cache.layer_class_to_replicate is not None:
            while len(cache.layers) < n:
                cache.layers.append(cache.layer_class_to_replicate())
        own.layer_class_to_replicate = None
        while len(own.layers) < n:
            own.layers.append(type(cache.layers[len(own.layers)])())
        cache.layers.extend(own.layers)
        step.kept[key] = (cache, own)
        return own


def check_pair(tuned: Model, base: Model) -> None:
    """May the blocks of one stand in the stream of the other? Raises: ModelError saying what differs."""
    for name, model in (("tuned", tuned), ("base", base)):
        if not model.blocks:
            raise ModelError(f"the {name} model ({type(model.module).__name__}) has no repeated blocks to run beside.")
        model.check_ready()
    if tuned.n_layers != base.n_layers:
        raise ModelError(f"the tuned model has {tuned.n_layers} layers, the base {base.n_layers}: they are no pair.")
    stack = next(s for s, blocks in tuned.resolved.stacks if blocks is tuned.blocks)
    if stack.adds not in SUMS or f"{tuned.blocks[0].name}.resid_pre" not in tuned.sites:
        raise ModelError(
            f"{type(tuned.module).__name__} is not residual: what a block adds to its stream is no sum here, so it has "
            "no share that is due to tuning."
        )
    for a, b in zip(tuned.blocks, base.blocks, strict=True):
        if type(a.module) is not type(b.module):
            raise ModelError(
                f"{a.name} is a {type(a.module).__name__} in the tuned model and a {type(b.module).__name__} in the "
                "base: models of one architecture are needed."
            )
        shapes, others = ({n: tuple(p.shape) for n, p in m.module.named_parameters()} for m in (a, b))
        wrong = next((n for n in {**shapes, **others} if shapes.get(n) != others.get(n)), None)
        if wrong is not None:
            raise ModelError(
                f"{a.name}.{wrong} is {shapes.get(wrong)} in the tuned model and {others.get(wrong)} in the base: "
                "their widths differ."
            )
    if tuned.device != base.device or tuned.dtype != base.dtype:
        raise ModelError(
            f"the tuned model is {tuned.dtype} on {tuned.device}, the base {base.dtype} on {base.device}.\n"
            "  bring one to the other with base.module.to(...)."
        )
    mine, theirs = (getattr(m.config, "get_text_config", lambda m=m: m.config)() for m in (tuned, base))
    for name in POSITIONS:
        here, there = getattr(mine, name, None), getattr(theirs, name, None)
        if here != there:
            raise ModelError(f"positions are not told alike: {name} is {here} in the tuned model, {there} in the base.")
    check_tokens(tuned, base, ("tuned model", "base"))


def check_tokens(one: Model, other: Model, names: tuple[str, str]) -> None:
    """Does a token id mean the same to both? Raises: ModelError."""
    vocabs = [m.tokenizer.get_vocab() if hasattr(m.tokenizer, "get_vocab") else None for m in (one, other)]
    if None not in vocabs:
        same = vocabs[0] == vocabs[1]
    else:
        sizes = [getattr(m.config, "vocab_size", None) for m in (one, other)]
        same = sizes[0] == sizes[1]
    if not same:
        raise ModelError(
            f"the {names[0]} and the {names[1]} have different vocabularies: a token is not the same text."
        )


def _is_cache(value: Any) -> bool:
    return hasattr(value, "get_seq_length") and hasattr(value, "layers")


def wide(x: Tensor) -> Tensor:
    """Small differences of large numbers are taken in float32 or wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
