"""The logit lens: what the model would say if it stopped after each layer."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.core.errors import InputError, ModelError
from inscape.core.progress import Progress
from inscape.engine.unembed import Unembedding, reads_as_the_model_does, unembedding
from inscape.models.model import Model
from inscape.read.lenses.states import spread, stream
from inscape.read.lenses.vocabulary import read_vocabulary

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}  # of scores from the last layer against the model's own


@dataclass(frozen=True, eq=False)
class LensReading:
    """What a lens read, per layer and position; cells of padding hold zeros.

    top, probability: the k most probable tokens. entropy: of the whole distribution, in nats. rank: of `final`, the
    model's own top token there; 1 is the top. kl: sum p_lens (log p_lens - log p_final), in nats. control: the rank
    that the final token of *another* position has here; None without a control. how: the norm and head that were used.
    """

    layers: tuple[str, ...]
    top: Int[Tensor, "layer batch pos k"]
    probability: Float[Tensor, "layer batch pos k"]
    entropy: Float[Tensor, "layer batch pos"]
    rank: Int[Tensor, "layer batch pos"]
    kl: Float[Tensor, "layer batch pos"]
    final: Int[Tensor, "batch pos"]
    tokens: Int[Tensor, "batch pos"] | None
    mask: Bool[Tensor, "batch pos"]
    how: str
    n_vocab: int
    control: Int[Tensor, "layer batch pos"] | None = None

    @property
    def chance_rank(self) -> float:
        """The mean rank of a token under a random order of the vocabulary: (vocab + 1) / 2."""
        return (self.n_vocab + 1) / 2

    def row(self, index: int) -> "LensReading":
        """One row of the batch without its padding, still with a batch axis."""
        real = self.mask[index]
        per_layer = ("top", "probability", "entropy", "rank", "kl", "control")
        cut = {n: v[:, index : index + 1, real] for n in per_layer if (v := getattr(self, n)) is not None}
        tokens = self.tokens[index : index + 1, real] if self.tokens is not None else None
        return replace(self, **cut, final=self.final[index : index + 1, real], tokens=tokens, mask=real[real][None])


def logit_lens(
    model: Model,
    inputs: Any,
    layers: Any = None,
    *,
    k: int = 5,
    control: str | None = "shuffle",
    seed: int = 0,
    lens: Any = None,
    budget: int | None = None,
    progress: Progress = None,
) -> LensReading:
    """Read the stream after each layer with the model's own final norm and head.

    `p_l = softmax(rules(head(norm(h_l))))`. Choose it first: it has nothing to train. Choose a tuned lens when the
    early layers speak another basis than the head. `layers` is a pattern; all resid_post of the main stack without it.
    control: "shuffle" ranks, in every cell, the final token of another position of the batch: what is readable whatever
        the context is (frequent tokens) is readable there too. None leaves it out. It costs next to nothing.
    lens: a fitted `TunedLens`, whose translators are passed first; the rest is the same.
    Cost: one forward without its head, then one head row a layer and position (and two a position for the final
    distribution), a slab of tokens at a time: see `read_vocabulary`; `budget` bytes of scores are alive at once.
    Raises: ModelError when scores made from the last layer are not the model's own (no language head, a pooled head).
    Source: nostalgebraist 2020, "interpreting GPT: the logit lens"; the last layer is checked against the model here.
    """
    if control not in (None, "shuffle"):
        raise InputError(f"control={control!r} is none of this lens; it can be 'shuffle' or None.")
    unembed = checked_unembedding(model, inputs)
    found = stream(model, inputs, layers, progress=progress)
    states = found.states if lens is None else lens.translated(found.states, found.layers, model)
    read = _read(unembed, states, found.ends, k, control, seed, budget, progress)
    return LensReading(
        found.layers,
        tokens=found.tokens,
        mask=found.mask,
        how=unembed.how if lens is None else f"{lens.how}, then {unembed.how}",
        n_vocab=unembed.n_vocab,
        **{name: spread(value, found.mask) for name, value in read.items()},
    )


def checked_unembedding(model: Model, inputs: Any) -> Unembedding:
    """The model's norm and head, after seeing that they give its own scores on the first tokens of these inputs."""
    unembed = unembedding(model)
    error = reads_as_the_model_does(model, unembed, _few(inputs))
    if error > TOLERANCE.get(model.dtype, 5e-2):
        raise ModelError(
            f"scores made from the last layer differ from the model's own by {error:.2g} of the largest: more happens "
            f"between the stream and the scores than {unembed.how}.\n"
            "  a lens through these modules would not show what this model says."
        )
    return unembed


def _few(inputs: Any, tokens: int = 12) -> Any:
    """The first row, a few tokens of it, where the inputs are token ids or texts; other inputs as they are."""
    if isinstance(inputs, Tensor) and inputs.ndim <= 2 and not inputs.is_floating_point():
        return inputs.reshape(-1, inputs.shape[-1])[:1, :tokens]
    if isinstance(inputs, (list, tuple)) and inputs:
        first = inputs[0]
        if isinstance(first, int):
            return list(inputs[:tokens])
        if (
            isinstance(first, (list, Tensor))
            and not isinstance(inputs, tuple)
            and len(first)
            and isinstance(first[0], (int, Tensor))
        ):
            return [[int(t) for t in first[:tokens]]]
        if isinstance(first, str):
            return [" ".join(first.split(" ")[:tokens])]
    return inputs


def _read(
    unembed: Unembedding,
    states: Tensor,
    ends: Tensor,
    k: int,
    control: str | None,
    seed: int,
    budget: int | None,
    progress: Progress,
) -> dict[str, Tensor]:
    """Every field of a reading that is a number a state, [layer, row, ...] or [row]."""
    end = read_vocabulary(unembed, ends[None], k=1, budget=budget)
    final = end.top[0, :, 0]
    asked = final[:, None] if control is None else torch.stack([final, final[derangement(len(final), seed)]], -1)
    found = read_vocabulary(
        unembed,
        states,
        k=k,
        tokens=asked,
        reference=ends,
        reference_log_z=end.log_z[0],
        budget=budget,
        progress=progress,
    )
    assert found.kl is not None
    read = {"top": found.top, "probability": found.top_log.exp(), "entropy": found.entropy, "kl": found.kl}
    read |= {"rank": found.rank[..., 0], "final": final}
    return read | ({"control": found.rank[..., 1]} if control is not None else {})


def derangement(n: int, seed: int) -> Tensor:
    """A random order that leaves no row in its place (with two rows or more): a random cycle."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    out = torch.empty(n, dtype=torch.long)
    out[order] = order.roll(1)
    return out
