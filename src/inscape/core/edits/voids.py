"""Skip what is void, token by token: a layer that makes the stream no longer than its forerunners made it.

How a token is judged at layer l, with n_l the length of the stream that the layer gets and n_{l+1} of what it gives:
1. D_l = n_{l+1} - n_l, signed: a stream that shrinks counts as little activity;
2. tau_l = alpha (max_{j<l} D_j - min_{j<l} D_j), so that tau_0 = tau_1 = 0;
3. the layer is void for the token when D_l < tau_l.
Only the token itself is looked at, so that batches, padding and caches change nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inscape.core.edit import Edit, make_edit
from inscape.core.errors import EditError
from inscape.core.step import Step

MODES = ("carry", "true")
PHASES = {"pp": "prompt", "rg": "generated"}


@dataclass(frozen=True, eq=False)
class Decision:
    """What was decided at one layer, for the columns of one call. size: length of the layer's update."""

    norm_in: Float[Tensor, "batch pos"]
    norm_out: Float[Tensor, "batch pos"]
    threshold: Float[Tensor, "batch pos"]
    size: Float[Tensor, "batch pos"]
    void: Bool[Tensor, "batch pos"]


Log = Callable[[int, Decision, Step], Any]


@dataclass(eq=False)
class Deciding:
    """The changes of the layers so far, as their extremes by layer: running a layer again gives the same again."""

    alpha: float
    high: dict[int, Tensor] = field(default_factory=dict)
    low: dict[int, Tensor] = field(default_factory=dict)
    carried: Tensor | None = None

    def decide(self, layer: int, before: Tensor, after: Tensor) -> Decision:
        """The verdict on one layer. Raises: KeyError when the layer before it was not seen."""
        before, after = before.detach().float(), after.detach().float()
        norm_in, norm_out = before.norm(dim=-1), after.norm(dim=-1)
        change = norm_out - norm_in
        if layer == 0:
            threshold, self.high[0], self.low[0] = torch.zeros_like(change), change, change
        else:
            high, low = self.high[layer - 1], self.low[layer - 1]
            threshold = self.alpha * (high - low)
            self.high[layer], self.low[layer] = torch.maximum(high, change), torch.minimum(low, change)
        return Decision(norm_in, norm_out, threshold, (after - before).norm(dim=-1), change < threshold)


def skip_voids(
    alpha: float = 0.8,
    mode: str = "carry",
    phases: Sequence[str] = ("pp", "rg"),
    *,
    layers: str = "layers.*",
    log: Log | None = None,
    rows: Any = None,
) -> Edit:
    """Drop the update of every layer that is void for a token, decided while the model runs.

    mode: "carry" as the source does it: every layer reads the stream as it is, a state is carried beside it that
        takes a layer's output where the layer is active, and after the last layer the carried state takes the stream's
        place. The result is the output of the token's last active layer, an early exit. "true": a void layer's update
        is dropped before the next layer reads the stream; later decisions are about this altered stream, and D_l is
        what the layer offered.
    phases: "pp" the prompt, "rg" generated tokens. layers: a pattern of all layers of one stack. log: called with
        (layer, `Decision`, step) at every layer. With a log it cannot be written to a file.
    Choose `skip_layers` for a mask that is known before. Works in run, generate (cached or not), sweeps and training.
    Cost: a norm or three a layer. Every block runs and its keys and values are cached in both modes: nothing is saved.
    Raises: EditError for alpha below 0, an unknown mode or phase, or a stack that is not visited from its first layer.
    Source: arXiv:2505.14467 and its code, where the first layer's threshold is a range over the batch; 0 here.
    """
    if mode not in MODES:
        raise EditError(f"mode={mode!r}: voids are skipped by {' or '.join(map(repr, MODES))}.")
    phases = (phases,) if isinstance(phases, str) else tuple(dict.fromkeys(phases))
    wrong = [p for p in phases if p not in PHASES]
    if wrong or not phases:
        raise EditError(f"phases={phases!r}: choose of 'pp', the prompt, and 'rg', generated tokens.")
    at = None if len(phases) == len(PHASES) else PHASES[phases[0]]
    spec = {"kind": "skip_voids", "alpha": float(alpha), "mode": mode, "phases": list(phases), "layers": layers}
    return void_edit(alpha, mode, layers, log, at=at, rows=rows, spec=None if log else spec)


def void_edit(alpha: float, mode: str, layers: str, log: Log | None, **places: Any) -> Edit:
    """The edit of `skip_voids`; mode "trace" decides and changes nothing."""
    if not alpha >= 0:
        raise EditError(f"alpha={alpha}: it is a share of a range, 0 or more.\n  0.8 is the source's own.")
    key = object()

    def fn(x: Tensor, step: Step) -> Tensor:
        before, layer = step.held["resid_pre"], step.among.index(step.site)
        if layer == 0:
            step.memo[key] = Deciding(alpha, carried=before if mode == "carry" else None)
        so_far = step.memo.get(key)
        if not isinstance(so_far, Deciding) or (layer and layer - 1 not in so_far.high):
            raise EditError(
                f"{step.site}: whether it is void depends on the layers before it, and this run began behind them.\n"
                "  run the whole stack."
            )
        made = so_far.decide(layer, before, x)
        if log is not None:
            log(layer, made, step)
        void = made.void[..., None]
        if mode == "true":
            return torch.where(void, before, x)
        if so_far.carried is not None:
            so_far.carried = carried = torch.where(void, so_far.carried, x)
            return carried if layer == len(step.among) - 1 else x
        return x

    label = f"skip voids ({mode}, alpha {alpha:g})" if mode in MODES else f"voids, alpha {alpha:g}"
    return make_edit(f"{layers}.resid_post", fn, label, contextual=True, needs=("resid_pre",), **places)
