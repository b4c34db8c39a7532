"""How long tokens can wait for one another, and in how few layers the last one has to read them.

A model that answers at the last token may not need all its layers and all its attention for it. Restricted to
(wait, transfer):
1. every token enters layer `wait` with what it knows from itself alone: the mean of its key over other texts;
2. in the next `transfer` layers the last token looks at everything, every other token at itself and the first alone;
3. in all later layers every token looks at itself and the first alone, so that the rest happens at the last token.
Faithfulness is the share of the prompts that the whole model answers right and that are still answered right.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inscape.circuits.bank import Bank
from inscape.circuits.masks import peek
from inscape.core.edit import Edit
from inscape.core.edits.attend import attend
from inscape.core.errors import InputError
from inscape.core.progress import Progress, tell
from inscape.models.model import Model
from inscape.tasks.pairs import Pairs

CONTROLS = ("position", "mean", "zero", "resample", "shuffled", "alone")


@dataclass(frozen=True, eq=False)
class TransferWindow:
    """What a search for waiting and transfer layers found; faithfulness throughout.

    wait, transfer: the pair with the largest wait, then the smallest transfer, at or above the threshold; None when no
    pair is. waiting: by what stands in for the tokens' states at each layer, "key" (their own means) and the controls,
    with all later layers open: [layer]. surface: [wait, transfer - 1], NaN where there are not so many layers.
    elsewhere: of windows of the same length that start at other layers, start -> faithfulness.
    blocked: with the last token kept from looking in the transfer layers, and nothing else changed; blocked_elsewhere:
    in as many layers from another start on. guess: the share of the most frequent answer.
    right: which prompts, [wait, transfer - 1, prompt].
    accuracy: of the whole model on all prompts; n: prompts that it answers right, on which the rest is measured.
    """

    layers: tuple[str, ...]
    threshold: float
    accuracy: float
    n: int
    wait: int | None
    transfer: int | None
    waiting: dict[str, Float[Tensor, " layer"]]
    surface: Float[Tensor, "layer layer"]
    right: Bool[Tensor, "layer layer prompt"]
    elsewhere: dict[int, float]
    blocked: float
    blocked_elsewhere: dict[int, float]
    guess: float

    @property
    def faithfulness(self) -> float | None:
        """Of the pair that was found."""
        if self.wait is None or self.transfer is None:
            return None
        return float(self.surface[self.wait, self.transfer - 1])


def transfer_window(
    model: Model, pairs: Pairs, bank: Bank, *, wait: int | None = None, transfer: int | None = None,
    threshold: float = 0.9, controls: Sequence[str] = ("position", "shuffled", "alone"), among: str = "vocabulary",
    batch: int = 128, seed: int = 0, progress: Progress = None,
) -> TransferWindow:  # fmt: skip
    """Search for the layer up to which tokens can wait, and for how few layers the last one then needs to read them.

    pairs: prompts of one length with answers; the clean ones are used. bank: of `layers.*.resid_pre` over many prompts
        of the same task, keyed so that it keeps a position's own identity ("position+token").
    wait, transfer: fix either, and only the other is searched. among: what answers compete with, see `Pairs.is_right`.
    controls: what stands in beside the means by key: the means by "position", of everything ("mean"), "zero", rows
        drawn at the same position ("resample"), means of other keys ("shuffled"), or the layers below run with every
        token "alone".
    Cost: with L layers, L (1 + controls) + L (L + 1) / 2 + 2 L runs of the prompts that are answered right.
    Raises: InputError for prompts of unequal length, none that is answered right, an unknown control, or layers that
    are not there; ModelError for a bank of another model; SiteError for a bank without a layer.
    Source: Mamidanna et al. 2025, arXiv:2509.09650 (AF1); the last condition of theirs, which heads, is `heads_needed`.
    """
    layers = [block.name for block in model.blocks]
    _check(pairs, layers, wait, transfer, controls)
    answered = pairs.answered_by(model, among=among, batch=batch)
    known = pairs.filtered(answered)
    measure = _Measure(model, known, bank, layers, among, batch, progress, seed)
    waits = range(len(layers)) if wait is None else [wait]
    waiting = {how: torch.full((len(layers),), torch.nan) for how in ("key", *controls)}
    for at in waits:
        for how, curve in waiting.items():
            curve[at] = measure(measure.waiting(how, at), f"waiting to layer {at} ({how})").double().mean()
    size = (len(layers), len(layers))
    surface, right = torch.full(size, torch.nan), torch.zeros(*size, len(known), dtype=torch.bool)
    for at in waits:
        for length in range(1, len(layers) - at + 1) if transfer is None else [transfer]:
            if at + length <= len(layers):
                right[at, length - 1] = measure(measure.restricted(at, length), f"wait {at}, transfer {length}")
                surface[at, length - 1] = right[at, length - 1].double().mean()
    found_wait, found_transfer = _best(surface, threshold)
    elsewhere, blocked, others = {}, float("nan"), {}
    if found_wait is not None and found_transfer is not None:
        starts = [s for s in range(len(layers) - found_transfer + 1) if s != found_wait]
        blocked = float(measure(measure.blocked(found_wait, found_transfer), "blocking").double().mean())
        for start in starts:
            moved = measure(measure.restricted(start, found_transfer), f"the window from layer {start}")
            elsewhere[start] = float(moved.double().mean())
            others[start] = float(measure(measure.blocked(start, found_transfer), "blocking").double().mean())
    counts = torch.bincount(known.answer_ids)
    return TransferWindow(
        tuple(layers), threshold, float(answered.double().mean()), len(known), found_wait, found_transfer, waiting,
        surface, right, elsewhere, blocked, others, float(counts.max() / counts.sum()),
    )  # fmt: skip


def restricted(model: Model, bank: Bank, wait: int, transfer: int) -> list[Edit]:
    """The plan that restricts a model to (wait, transfer); see the module's docstring."""
    layers = [block.name for block in model.blocks]
    if not 0 <= wait < len(layers) or not 1 <= transfer <= len(layers) - wait:
        raise InputError(f"wait={wait}, transfer={transfer}: this model has {len(layers)} layers.")
    return [
        bank.edit(model, f"{layers[wait]}.resid_pre"),
        *peek(layers[wait : wait + transfer], slice(0, -1), ()),
        *peek(layers[wait + transfer :], None, ()),
    ]


@dataclass(frozen=True, eq=False)
class HeadsNeeded:
    """Heads of the transfer layers by what their loss costs.

    order: (layer, head), the least needed first. alone: faithfulness without each of them alone, in this order.
    removed: faithfulness without the first 0, 1, 2, ... of them; removed_random: the same in random orders, on average.
    """

    order: tuple[tuple[str, int], ...]
    alone: Float[Tensor, " head"]
    removed: Float[Tensor, " n"]
    removed_random: Float[Tensor, " n"]


def heads_needed(
    model: Model, pairs: Pairs, bank: Bank, wait: int, transfer: int, *, among: str = "vocabulary", n_random: int = 3,
    batch: int = 128, seed: int = 0,
) -> HeadsNeeded:  # fmt: skip
    """Which heads of the transfer layers the last token reads with, in the model restricted to (wait, transfer).

    A head is taken away by letting the last token look at itself and the first token alone with it.
    Cost: (2 + n_random) x heads runs. Raises: as `transfer_window`.
    """
    layers = [block.name for block in model.blocks]
    known = pairs.filtered(pairs.answered_by(model, among=among, batch=batch))
    measure = _Measure(model, known, bank, layers, among, batch, None, seed)
    base = restricted(model, bank, wait, transfer)
    every = [(name, h) for name in layers[wait : wait + transfer] for h in range(_n_heads(model, name, known))]

    def without(chosen: Sequence[tuple[str, int]]) -> float:
        by_layer: dict[str, list[int]] = {}
        for name, h in chosen:
            by_layer.setdefault(name, []).append(h)
        cut = [attend(n, "only", keys=(), own=True, first=True, at=-1, heads=hs) for n, hs in by_layer.items()]
        return float(measure([*base, *cut], f"without {len(chosen)} heads").double().mean())

    alone = {head: without([head]) for head in every}
    order = sorted(every, key=lambda head: -alone[head])
    removed = [without(order[:k]) for k in range(len(order) + 1)]
    generator, random = torch.Generator().manual_seed(seed), []
    for _ in range(n_random):
        shuffled = [every[i] for i in torch.randperm(len(every), generator=generator).tolist()]
        random.append([without(shuffled[:k]) for k in range(len(every) + 1)])
    return HeadsNeeded(
        tuple(order), torch.tensor([alone[h] for h in order]), torch.tensor(removed), torch.tensor(random).mean(0)
    )


class _Measure:
    """Which prompts are answered right under edits, and the edits of each condition."""

    def __init__(
        self, model: Model, pairs: Pairs, bank: Bank, layers: Sequence[str], among: str, batch: int,
        progress: Progress, seed: int,
    ) -> None:  # fmt: skip
        self.model, self.pairs, self.bank, self.layers = model, pairs, bank, layers
        self.among, self.batch, self.progress, self.seed = among, batch, progress, seed
        self.shuffled = bank.shuffled(seed)

    def __call__(self, edits: Sequence[Edit], what: str) -> Bool[Tensor, " prompt"]:
        tell(self.progress, what)
        return self.pairs.answered_by(self.model, among=self.among, batch=self.batch, edits=edits)

    def waiting(self, how: str, at: int) -> list[Edit]:
        """Every token's state as it enters layer `at`, all later layers open."""
        if how == "alone":
            return peek(self.layers[:at], None, ())
        site = f"{self.layers[at]}.resid_pre"
        if how == "shuffled":
            return [self.shuffled.edit(self.model, site)]
        return [self.bank.edit(self.model, site, how, within="position", seed=self.seed)]

    def restricted(self, wait: int, transfer: int) -> list[Edit]:
        return restricted(self.model, self.bank, wait, transfer)

    def blocked(self, start: int, length: int) -> list[Edit]:
        """The last token looks at itself and the first alone in these layers."""
        return peek(self.layers[start : start + length], -1, ())


def _best(surface: Float[Tensor, "layer layer"], threshold: float) -> tuple[int | None, int | None]:
    """The largest wait with a faithful transfer, and the smallest such transfer."""
    good = (surface >= threshold).nonzero()
    if not len(good):
        return None, None
    wait = int(good[:, 0].max())
    return wait, int(good[good[:, 0] == wait, 1].min()) + 1


def _n_heads(model: Model, layer: str, pairs: Pairs) -> int:
    from inscape.engine.forward import run

    site = f"{layer}.attn.pattern"
    return run(model, [list(pairs.clean_ids[0])], read=site, output=False)[site].shape[1]


def _check(
    pairs: Pairs, layers: Sequence[str], wait: int | None, transfer: int | None, controls: Sequence[str]
) -> None:
    lengths = sorted({len(ids) for ids in pairs.clean_ids})
    if len(lengths) > 1:
        raise InputError(
            f"the prompts have {lengths[0]} to {lengths[-1]} tokens: a position means something else in each.\n"
            "  take prompts of one template, whose slots are one token each."
        )
    unknown = [c for c in controls if c not in CONTROLS]
    if unknown:
        raise InputError(f"control {unknown[0]!r} is unknown; there are {', '.join(CONTROLS)}.")
    n = len(layers)
    if (wait is not None and not 0 <= wait < n) or (transfer is not None and not 1 <= transfer <= n - (wait or 0)):
        raise InputError(f"wait={wait}, transfer={transfer}: this model has {n} layers.")
