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
from inscape.circuits.waiting import Conditions, restricted
from inscape.core.errors import InputError
from inscape.core.progress import Progress
from inscape.models.model import Model
from inscape.tasks.pairs import Pairs

CONTROLS = ("position", "mean", "zero", "resample", "shuffled", "alone")
SEARCHES = ("joint", "staged")


@dataclass(frozen=True, eq=False)
class TransferWindow:
    """What a search for waiting and transfer layers found; faithfulness throughout.

    wait, transfer: the pair with the largest wait, then the smallest transfer, at or above the threshold; where no pair
    reaches it, the most faithful one (`reached` says which). waiting: by what stands in for the tokens' states at each
    layer, "key" (their own means) and the controls, with all later layers open: [layer]. surface: [wait, transfer - 1],
    NaN where there are not so many layers, and where the search did not look.
    elsewhere: of windows of the same length that start at other layers, start -> faithfulness.
    blocked: with the last token kept from looking in the transfer layers, and nothing else changed; blocked_elsewhere:
    in as many layers from another start on. guess: the share of the most frequent answer.
    right: which prompts, [wait, transfer - 1, prompt].
    accuracy: of the whole model on all prompts; relative: of the restricted model on all prompts, over that.
    n: prompts that the whole model answers right, on which the rest is measured.
    """

    layers: tuple[str, ...]
    threshold: float
    accuracy: float
    n: int
    wait: int
    transfer: int
    relative: float
    waiting: dict[str, Float[Tensor, " layer"]]
    surface: Float[Tensor, "layer layer"]
    right: Bool[Tensor, "layer layer prompt"]
    elsewhere: dict[int, float]
    blocked: float
    blocked_elsewhere: dict[int, float]
    guess: float

    @property
    def faithfulness(self) -> float:
        """Of the pair."""
        return float(self.surface[self.wait, self.transfer - 1])

    @property
    def reached(self) -> bool:
        """Is the pair at or above the threshold?"""
        return self.faithfulness >= self.threshold

    def waits(self, within: int | float = 0.02, how: str = "key") -> int:
        """The last layer up to which, at every layer, all but a share of the answers survive; -1 where at none.

        Raises: InputError where the search looked at one wait alone.
        """
        if bool(self.waiting[how].isnan().any()):
            raise InputError("how long tokens wait was not measured: the search was given wait=; leave it out.")
        lost = (self.waiting[how] < 1 - within).nonzero()
        return int(lost[0]) - 1 if len(lost) else len(self.layers) - 1

    def __str__(self) -> str:
        others = list(self.elsewhere.values())
        said = f"{sum(others) / len(others):.0%} elsewhere" if others else "no other window of this length"
        return (
            f"{'' if self.reached else 'not reached: '}wait {self.wait}, transfer {self.transfer} of "
            f"{len(self.layers)} layers: {self.faithfulness:.0%} of {self.n} answers kept ({said}); {self.blocked:.0%} "
            f"with these layers blocked, {self.guess:.0%} by one guess"
        )


def transfer_window(
    model: Model, pairs: Pairs, bank: Bank, *, wait: int | None = None, transfer: int | None = None,
    threshold: float = 0.9, finish: int = 0, search: str = "joint", n_elsewhere: int | None = None,
    controls: Sequence[str] = ("position", "shuffled", "alone"), among: str = "vocabulary", batch: int = 128,
    seed: int = 0, progress: Progress = None,
) -> TransferWindow:  # fmt: skip
    """Search for the layer up to which tokens can wait, and for how few layers the last one then needs to read them.

    pairs: prompts of one length with answers; the clean ones are used. bank: of `layers.*.resid_pre` over many prompts
        of the same task, keyed so that it keeps a position's own identity ("position+token").
    wait, transfer: fix either, and only the other is searched. finish: fewest layers after the transfer, in which the
        last token works alone. among: what answers compete with, see `Pairs.is_right`.
    search: "joint" looks at every pair; "staged", as the source does, at the largest wait that keeps the threshold with
        all later layers open (and leaves room), and then at the transfers for it: cheaper in a deep model.
    n_elsewhere: windows at other starts, drawn by `seed`; all of them when left out.
    controls: what stands in beside the means by key: the means by "position", of everything ("mean"), "zero", rows
        drawn at the same position ("resample"), means of other keys ("shuffled"), or the layers below run with every
        token "alone".
    Cost: with L layers, L (1 + controls) + L (L + 1) / 2 + 2 L runs of the prompts that are answered right; staged, L
    in place of L (L + 1) / 2.
    Raises: InputError for prompts of unequal length, none that is answered right, an unknown control or search, or
    layers that are not there; ModelError for a bank of another model; SiteError for a bank without a layer.
    Source: Mamidanna et al. 2025, arXiv:2509.09650 (AF1); the last condition of theirs, which heads, is
    `circuits.transfer_heads.heads_needed`.
    """
    n_layers = len(model.blocks)
    _check(pairs, n_layers, wait, transfer, finish, controls, search)
    answered = pairs.answered_by(model, among=among, batch=batch)
    known = pairs.filtered(answered)
    test = Conditions(model, known, bank, among, batch, seed, progress)
    waits: Sequence[int] = range(n_layers) if wait is None else [wait]
    waiting = {how: torch.full((n_layers,), torch.nan) for how in ("key", *controls)}
    for at in waits:
        for how, curve in waiting.items():
            curve[at] = test.share(test.waiting(how, at), f"waiting to layer {at} ({how})")
    if search == "staged":
        room = n_layers - finish - (transfer or 1)
        waits = [max((w for w in waits if waiting["key"][w] >= threshold and w <= room), default=min(waits[0], room))]
    surface, right = torch.full((n_layers, n_layers), torch.nan), torch.zeros(n_layers, n_layers, len(known)).bool()
    for at in waits:
        for length in range(1, n_layers - at + 1) if transfer is None else [transfer]:
            if at + length <= n_layers:
                right[at, length - 1] = test.right(test.restricted(at, length), f"wait {at}, transfer {length}")
                surface[at, length - 1] = right[at, length - 1].double().mean()
    wait, transfer = _best(surface, threshold, finish)
    everyone = pairs.answered_by(model, among=among, batch=batch, edits=restricted(model, bank, wait, transfer))
    elsewhere, blocked_elsewhere = {}, {}
    for start in _starts(n_layers, wait, transfer, n_elsewhere, seed):
        elsewhere[start] = test.share(test.restricted(start, transfer), f"the window from layer {start}")
        blocked_elsewhere[start] = test.share(test.blocked(start, transfer), f"blocking from layer {start}")
    counts = torch.bincount(known.answer_ids)
    return TransferWindow(
        tuple(test.layers), threshold, float(answered.double().mean()), len(known), wait, transfer,
        float(everyone.double().mean() / answered.double().mean()), waiting, surface, right, elsewhere,
        test.share(test.blocked(wait, transfer), "blocking"), blocked_elsewhere, float(counts.max() / counts.sum()),
    )  # fmt: skip


def _best(surface: Float[Tensor, "layer layer"], threshold: float, finish: int) -> tuple[int, int]:
    """The largest wait with a faithful transfer, and the smallest such transfer; without one, the most faithful pair.

    surface: NaN where nothing was measured. finish: as in `transfer_window`.
    """
    n = len(surface)
    stop = torch.arange(n)[:, None] + torch.arange(n)[None] + 1
    open_ = torch.where(stop <= n - finish, surface, torch.nan)
    good = (open_ >= threshold).nonzero()
    if not len(good):
        good = (open_ == open_[~open_.isnan()].max()).nonzero()
    wait = int(good[:, 0].max())
    return wait, int(good[good[:, 0] == wait, 1].min()) + 1


def _starts(n_layers: int, wait: int, transfer: int, n: int | None, seed: int) -> list[int]:
    """Where else a window of this length can start."""
    starts = [s for s in range(n_layers - transfer + 1) if s != wait]
    order = torch.randperm(len(starts), generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(starts[i] for i in order[:n])


def _check(
    pairs: Pairs, n: int, wait: int | None, transfer: int | None, finish: int, controls: Sequence[str], search: str
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
    if search not in SEARCHES:
        raise InputError(f"search={search!r}; it can be {' or '.join(SEARCHES)}.")
    if (wait is not None and not 0 <= wait < n) or (transfer is not None and not 1 <= transfer <= n - (wait or 0)):
        raise InputError(f"wait={wait}, transfer={transfer}: this model has {n} layers.")
    if not 0 <= finish <= n - (wait or 0) - (transfer or 1):
        raise InputError(f"finish={finish} leaves no layer to transfer in: this model has {n} layers.")
