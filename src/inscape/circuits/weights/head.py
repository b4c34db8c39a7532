"""The weights of single heads, as factors: what each reads, moves and writes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.circuits.weights.factored import Factored
from inscape.circuits.weights.layer import Layer, attending, block_of, layers, why_not
from inscape.circuits.weights.origins import Origin, linear_map
from inscape.circuits.weights.rotary import checked_offsets, mean_turn
from inscape.core.errors import ModelError, ShapeError
from inscape.models.model import Model
from inscape.models.points import Block


@dataclass(frozen=True, eq=False)
class HeadWeights:
    """One head of one layer, for row vectors: `q = x W_Q + b_Q`, `z = pattern (x W_V + b_V)`, `head_out = z W_O`.

    reads: the site that x stands for. With folding it is the stream divided by the norm's size at its token (and
        centred, where the norm is a LayerNorm: that is in the weights); without, it is `attn.in`.
    W_Q, W_K, b_Q, b_K: None where queries and keys could not be traced; `QK` then says why. turn: what the rotary
        embedding does between them (`turned` says for which offsets), None at offset zero or without one.
    kv_head: the key and value head it uses; shared: the heads that use it too, so that W_K and W_V are theirs as well.
    centred: whether what it reads has its mean taken away. scaling: of the scores; None where they are no multiple.
    folded: what was folded. notes: what these matrices leave out (sizes of norms on the way, clips, gates, sinks).
    """

    layer: str
    head: int
    kv_head: int
    shared: tuple[int, ...]
    reads: str
    W_Q: Float[Tensor, "d_in d_qk"] | None
    W_K: Float[Tensor, "d_in d_qk"] | None
    W_V: Float[Tensor, "d_in d_v"]
    W_O: Float[Tensor, "d_v d_model"]
    b_Q: Float[Tensor, " d_qk"] | None
    b_K: Float[Tensor, " d_qk"] | None
    b_V: Float[Tensor, " d_v"]
    turn: Float[Tensor, "d_qk d_qk"] | None
    turned: str
    centred: bool
    scaling: float | None
    folded: str
    notes: tuple[str, ...]
    untraced: str = ""

    @property
    def name(self) -> str:
        """ "layers.3.head.1" """
        return f"{self.layer}.head.{self.head}"

    @cached_property
    def OV(self) -> Factored:
        """`W_V W_O`: from what a token holds to what the head writes when it attends there."""
        return Factored(self.W_V, self.W_O)

    @cached_property
    def QK(self) -> Factored:
        """`W_Q turn W_K'`: query side left, key side right.

        Raises: ModelError where queries or keys could not be traced to projections.
        """
        if self.W_Q is None or self.W_K is None:
            raise ModelError(f"{self.name} has no QK matrix: {self.untraced}.")
        left = self.W_Q if self.turn is None else self.W_Q @ self.turn
        return Factored(left, self.W_K.T)

    def __repr__(self) -> str:
        qk = "no QK" if self.W_Q is None else f"d_qk {self.W_Q.shape[1]}"
        return f"HeadWeights({self.name}: {qk}, d_v {self.W_V.shape[1]}, {self.folded}, {self.turned})"


def head(
    model: Model, layer: int | str, head: int, *, fold: bool = True, offsets: Sequence[int] | None = None
) -> HeadWeights:
    """The weights of one head, traced and proven on this very model.

    fold: put the gain of the norm that feeds attention, and its centring, into W_Q, W_K and W_V; what follows the
        output projection (a multiplier, a layer scale, the gain of a post-norm) into W_O; and, where that norm centres,
        take the mean out of what is written, since every reader does. Sizes of norms are a token's own and stay out.
        Without it, weights are as published and apply to `attn.in`.
    offsets: QK as the mean over these distances from query to key (1: the token before). At zero, the default, a
        rotary embedding turns nothing; averaged, it blurs what depends on position. Ignored without a rotary embedding.
    layer: a number of the main stack, or a block's name ("encoder.layers.0").
    Cost: the first call on a layer runs a probe of 32 tokens through the model up to it; then copies of four matrices.
    Raises: SiteError for a layer, ShapeError for a head that is not there; ModelError where the values are no output of
        projections that could be found (then `attn.z` and `attn.head_out` are still there to read and edit).
    Source: Elhage et al. 2021, "A mathematical framework for transformer circuits"; the split of fused projections is
        found by value here, not by a table of layouts.
    """
    block = block_of(model, layer)
    return _head(model, block, layers(model, [block])[0], head, fold, offsets)


def heads(
    model: Model, layer: int | str | None = None, *, fold: bool = True, offsets: Sequence[int] | None = None
) -> list[HeadWeights]:
    """Every head of a layer, or of all layers with attention; see `head`.

    Cost: one probe for all layers; memory of four d x d_head matrices a head.
    """
    blocks = attending(model) if layer is None else (block_of(model, layer),)
    if not blocks:
        raise ModelError(
            f"{type(model.module).__name__} has no layer whose heads can be taken apart{why_not(model)}.\n"
            "  that takes attn.in, attn.v and attn.z; model.sites shows what there is."
        )
    wired = layers(model, blocks)
    return [_head(model, b, w, h, fold, offsets) for b, w in zip(blocks, wired, strict=True) for h in range(w.heads)]


def _head(
    model: Model, block: Block, wired: Layer, head: int, fold: bool, offsets: Sequence[int] | None
) -> HeadWeights:
    if not -wired.heads <= head < wired.heads:
        raise ShapeError(f"there is no head {head} in {wired.name}: it has {wired.heads}.")
    head %= wired.heads
    if wired.v is None:
        raise ModelError(
            f"the values of {wired.name} cannot be traced to a projection: {wired.reasons['v']}.\n"
            "  attn.z and attn.head_out are there to read and edit all the same."
        )
    v_head = wired.kv_of(head, wired.v_heads)
    W_V, b_V, shared = _share(wired, wired.v, wired.v_heads, v_head)
    W_O = _output(wired, head)
    W_Q = W_K = b_Q = b_K = turn = None
    turned, untraced = "", "; ".join(wired.reasons.values())
    if wired.q is not None and wired.k is not None:
        W_Q, b_Q, _ = _share(wired, wired.q, wired.heads, head)
        W_K, b_K, _ = _share(wired, wired.k, wired.k_heads, wired.kv_of(head, wired.k_heads))
        turn, turned = _turned(model, block, wired, wired.q, head, offsets)
    made = HeadWeights(
        wired.name, head, v_head, tuple(h for h in shared if h != head), wired.reads, W_Q, W_K, W_V, W_O, b_Q, b_K,
        b_V, turn, turned, False, wired.scaling, "as published, on attn.in", wired.notes, untraced,
    )  # fmt: skip
    return _folded(wired, made) if fold else replace(made, reads=f"{wired.name}.attn.in")


def _turned(
    model: Model, block: Block, wired: Layer, origin: Origin, head: int, offsets: Sequence[int] | None
) -> tuple[Tensor | None, str]:
    if wired.turns is None:
        if offsets is not None:
            raise ModelError(f"offsets={list(offsets)}: what positions do to queries is measured on rows of tokens.")
        return None, "QK without what positions may do to it"
    if not wired.turns:
        return None, "QK does not depend on position"
    if offsets is None or checked_offsets(offsets) == (0,):
        return None, "QK at offset zero, where the rotary embedding turns nothing"
    wanted = checked_offsets(offsets)
    turn = mean_turn(model, block.points["attn.q"].name, origin, wired.heads, head, wanted)
    return turn, f"QK averaged over offsets {', '.join(map(str, wanted))} of the rotary embedding"


def _share(wired: Layer, origin: Origin, count: int, which: int) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """One head's columns of a projection, and the heads that are made of the very same ones."""
    width = origin.n // count
    places = origin.places().unflatten(0, (count, width))
    same = [h for h in range(wired.heads) if torch.equal(places[wired.kv_of(h, count)], places[which])]
    weight, bias = origin.weights(wired.d_in, torch.arange(which * width, (which + 1) * width))
    return weight, bias, tuple(same)


def _output(wired: Layer, head: int) -> Tensor:
    width = wired.d_z // wired.heads
    return linear_map(wired.out, inputs=slice(head * width, (head + 1) * width))[0]


def _folded(wired: Layer, made: HeadWeights) -> HeadWeights:
    said, centred = [], False
    readers = {"W_Q": made.W_Q, "W_K": made.W_K, "W_V": made.W_V}
    biases = {"b_Q": made.b_Q, "b_K": made.b_K, "b_V": made.b_V}
    if (norm := wired.norm) is not None:
        centred = norm.centred
        gain, offset = norm.gain * wired.multiplier, norm.bias * wired.multiplier
        for name, weight in readers.items():
            if weight is None:
                continue
            bias = biases[f"b_{name[-1]}"]
            biases[f"b_{name[-1]}"] = bias + offset.to(weight) @ weight if bias is not None else None
            weight = gain.to(weight)[:, None] * weight
            readers[name] = weight - weight.mean(0) if centred else weight
        said.append(f"{norm.kind} before it" + (f" times {wired.multiplier:.4g}" if wired.multiplier != 1 else ""))
    W_O = made.W_O
    if wired.post_norm is not None:
        W_O = wired.post_norm.without_size(W_O)
        said.append(f"gain of the {wired.post_norm.kind} after it")
    elif isinstance(wired.gain, Tensor) or wired.gain != 1.0:
        W_O = W_O * (wired.gain.to(W_O) if isinstance(wired.gain, Tensor) else wired.gain)
        said.append("multiplier after it")
    if centred:
        W_O = W_O - W_O.mean(1, keepdim=True)
        said.append("output centred")
    return replace(
        made, W_Q=readers["W_Q"], W_K=readers["W_K"], W_V=readers["W_V"], W_O=W_O, b_Q=biases["b_Q"],
        b_K=biases["b_K"], b_V=biases["b_V"], centred=centred,
        folded="folded: " + ", ".join(said) if said else "nothing to fold",
    )  # fmt: skip
