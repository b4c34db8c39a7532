"""Which experts a behaviour uses: how their use differs between two sets of texts, beside shuffled labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.edits.experts import boost_experts, force_experts, mask_experts, scale_experts
from inscape.core.errors import EditError, InputError
from inscape.core.nulls import layer_matched_sets, max_over_family, permuted
from inscape.core.positions import At
from inscape.core.progress import Progress
from inscape.models.model import Model
from inscape.steer.experts.use import ExpertUse, expert_use, n_experts
from inscape.steer.states import check_texts

Expert = tuple[int, int]  # layer, as a number among all layers of the model; expert
KINDS = {"mask": mask_experts, "force": force_experts, "boost": boost_experts, "scale": scale_experts}


@dataclass(frozen=True, eq=False)
class ExpertScores:
    """How much more one set of texts uses each expert than another.

    score: mean use of the positive texts minus that of the negative ones. p: of the score being that large, either
    way, anywhere in the model, with labels shuffled (so at most one find in 20 models without any is below 0.05).
    null: the largest |score| of each shuffle. use: mean use over all texts. layers: by name, in order; numbers: which
    layers of the model these are. n: texts of each set.
    """

    layers: tuple[str, ...]
    numbers: tuple[int, ...]
    n_experts: tuple[int, ...]
    score: Float[Tensor, "layer expert"]
    p: Float[Tensor, "layer expert"]
    null: Float[Tensor, " shuffle"]
    use: Float[Tensor, "layer expert"]
    weigh: str
    n: tuple[int, int]
    control: str | None = None

    def top(self, n: int = 10, *, side: str = "positive") -> list[Expert]:
        """The n experts that the positive texts (or the "negative" ones) use more than the others, best first.

        Raises: InputError where fewer are used more on that side.
        """
        if side not in ("positive", "negative"):
            raise InputError(f"side={side!r} can be 'positive' or 'negative'.")
        found = [expert for expert, score in self.ranked() if (score > 0) == (side == "positive") and score != 0]
        chosen = found[:n] if side == "positive" else found[::-1][:n]
        if len(chosen) < n or n < 1:
            raise InputError(f"top({n}): the {side} texts use {len(chosen)} experts more than the other texts do.")
        return chosen

    def ranked(self) -> list[tuple[Expert, float]]:
        """Every expert with its score, from what the positive texts use most more to what the negative ones do."""
        pairs = [((number, e), float(self.score[row, e])) for row, number in enumerate(self.numbers)
                 for e in range(self.n_experts[row])]  # fmt: skip
        return sorted(pairs, key=lambda pair: -pair[1])

    def matched(self, chosen: Sequence[Expert], n: int = 20, *, nearest: int = 8, seed: int = 0) -> list[list[Expert]]:
        """n random sets as large, in the same layers and of experts used about as often: the control of any edit.

        nearest: among how many of its layer's experts, by use, each chosen one's stand-in is drawn.
        """
        counts = dict(zip(self.numbers, self.n_experts, strict=True))
        use = {i: self.use[row, : counts[i]] for row, i in enumerate(self.numbers)}
        sets = layer_matched_sets(chosen, counts, n=n, exclude=list(chosen), size=use, nearest=nearest, seed=seed)
        return [list(one) for one in sets]


def score_experts(
    model: Model,
    positive: Sequence[Any],
    negative: Sequence[Any],
    *,
    weigh: str = "count",
    at: At = None,
    shuffles: int = 1000,
    control: str | None = None,
    batch: int = 32,
    seed: int = 0,
    progress: Progress = None,
) -> ExpertScores:
    """Score every routed expert by how much more the positive texts use it: `S[l, e] = mean M+[l, e] - mean M-[l, e]`.

    Keep the surface of the two sets alike (templates with slots): an expert of a word that only one set has scores as
    high as one of the behaviour. A high score says where the two differ, not what the expert does: mask it, and sets
    like it (`.matched`), and look.

    weigh, at: as in `expert_use`. shuffles: of the labels, for p. control: "shuffle" gives the scores of one shuffle of
    the labels, for running everything downstream on nothing.
    Cost: the blocks up to the last router, once a text. Raises: InputError for fewer than two texts a side, ModelError.
    Source: Dahlke et al. 2025, arXiv:2502.11096, for one class against the others; the p values are ours.
    """
    if control not in (None, "shuffle"):
        raise InputError(f"control={control!r} can be 'shuffle' or None.")
    sides = [check_texts(texts, name) for texts, name in ((positive, "positive"), (negative, "negative"))]
    n = (len(sides[0]), len(sides[1]))
    if min(n) < 2:
        raise InputError(f"{n[0]} positive and {n[1]} negative texts: give two of each at least, and better 50.")
    found = expert_use(model, [*sides[0], *sides[1]], weigh=weigh, at=at, batch=batch, progress=progress)
    numbers = tuple(i for i, b in enumerate(model.blocks) if b.name in found.layers)
    counts = tuple(n_experts(model, layer) for layer in found.layers)
    return _scored(found, numbers, counts, n, shuffles, control, seed)


def _scored(
    found: ExpertUse, numbers: tuple[int, ...], counts: tuple[int, ...], n: tuple[int, int], shuffles: int,
    control: str | None, seed: int,
) -> ExpertScores:  # fmt: skip
    use = found.use.double()
    labels = torch.cat([torch.ones(n[0], dtype=torch.double), torch.zeros(n[1], dtype=torch.double)])
    if control == "shuffle":
        labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed + 1))]

    def score(y: Tensor) -> Tensor:
        return torch.einsum("t,tle->le", y / n[0] - (1 - y) / n[1], use)

    observed = score(labels)
    corrected = max_over_family(observed, permuted(score, labels, n=shuffles, seed=seed), alternative="two-sided")
    return ExpertScores(found.layers, numbers, counts, observed, corrected.p, corrected.maxima, found.mean, found.weigh,
                        n, control)  # fmt: skip


def expert_edits(model: Model, chosen: Sequence[Expert], kind: str, amount: Any = None, **places: Any) -> list[Edit]:
    """Edits of chosen experts, pairs (layer, expert) as `ExpertScores.top` gives them: one edit a layer.

    kind: "mask", "force", "boost" by `amount`, or "scale" by `amount`; places as in every edit.
    Raises: EditError for another kind, or an amount that is missing or not asked for.
    """
    if kind not in KINDS:
        raise EditError(f"kind={kind!r} is none of {', '.join(map(repr, KINDS))}.")
    needs_amount = kind in ("boost", "scale")
    if needs_amount != (amount is not None):
        raise EditError(f"{kind!r} takes {'an' if needs_amount else 'no'} amount.")
    if not chosen:
        raise EditError("chosen is empty: give pairs (layer, expert).")
    by_layer: dict[int, list[int]] = {}
    for layer, expert in chosen:
        if not 0 <= layer < len(model.blocks):
            raise EditError(f"there is no layer {layer}: the model has {len(model.blocks)}.")
        by_layer.setdefault(layer, []).append(expert)
    more = (amount,) if needs_amount else ()
    return [KINDS[kind](model.blocks[layer].name, ids, *more, **places) for layer, ids in sorted(by_layer.items())]
