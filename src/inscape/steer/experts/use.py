"""How much texts use each expert: a map of layers and experts for every text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.errors import InputError, ModelError, TokenError
from inscape.core.positions import At, check_at, select
from inscape.core.progress import Progress, tell
from inscape.core.step import Step
from inscape.engine.forward import run
from inscape.engine.inputs import prepare
from inscape.models.model import Model
from inscape.steer.states import check_texts

WEIGH = ("count", "weight")


@dataclass(frozen=True, eq=False)
class ExpertUse:
    """use: share of a text's tokens that chose an expert (`weigh="count"`), or mean weight it was given ("weight").

    layers: those with experts, by name. tokens: counted tokens of each text. Where layers have unlike numbers of
    experts, the last ones of a smaller layer are 0.
    """

    layers: tuple[str, ...]
    use: Float[Tensor, "text layer expert"]
    tokens: Int[Tensor, " text"]
    weigh: str

    @property
    def mean(self) -> Float[Tensor, "layer expert"]:
        """Mean over the texts, each counting the same."""
        return self.use.mean(0)


def expert_use(
    model: Model,
    texts: Sequence[Any],
    *,
    weigh: str = "count",
    at: At = None,
    per_token: bool = True,
    edits: Sequence[Edit] = (),
    batch: int = 32,
    progress: Progress = None,
) -> ExpertUse:
    """The map of expert use of every text, `M[l, e]`: tokens that were routed to expert e of layer l, over all tokens.

    weigh: "count", or "weight", the sum of the weights they were given. at: which tokens count (all real ones; "last",
    a slice, `ins.tokens(id)`; spans are not). per_token: False gives sums, which longer texts have more of.
    edits: in force meanwhile. Shared experts, which every token passes, are not counted.
    Cost: the blocks up to the last router, once a text, without the head.
    Raises: ModelError for a dense model; TokenError for a text without such tokens; InputError.
    Source: Dahlke et al. 2025, arXiv:2502.11096 (functional token resonance imaging); rates a token here by default,
    so that texts of unlike length compare.
    """
    if weigh not in WEIGH:
        raise InputError(f"weigh={weigh!r} can be {' or '.join(map(repr, WEIGH))}.")
    if isinstance(at, str) and at == "generated":
        raise InputError("at='generated': nothing is generated here; give texts that hold what was generated.")
    given, where = check_texts(texts, "texts"), check_at(at)
    layers = expert_layers(model)
    n = max(n_experts(model, layer) for layer in layers)
    read = [f"{layer}.router.{part}" for layer in layers for part in ("experts", "weights")]
    use, counted = torch.zeros(len(given), len(layers), n), torch.zeros(len(given), dtype=torch.long)
    for start in range(0, len(given), batch):
        rows = slice(start, min(start + batch, len(given)))
        ready = prepare(model, given[rows])
        assert ready.mask is not None
        trace = run(model, ready, read=read, edits=edits)
        counts = _counted(where, ready.mask.cpu(), ready.tokens, start)
        counted[rows] = counts.sum(1)
        for i, layer in enumerate(layers):
            chosen = trace[f"{layer}.router.experts"].cpu().long()
            weight = trace[f"{layer}.router.weights"].float().cpu() if weigh == "weight" else torch.ones(chosen.shape)
            weight = weight * counts[:, :, None]
            use[rows, i] = torch.zeros(len(chosen), n).scatter_add(1, chosen.flatten(1), weight.flatten(1))
        tell(progress, f"{rows.stop} of {len(given)} texts", rows.stop / len(given))
    return ExpertUse(layers, use / counted[:, None, None] if per_token else use, counted, weigh)


def expert_layers(model: Model) -> tuple[str, ...]:
    """Layers with routed experts, in order. Raises: ModelError for a dense model."""
    layers = tuple(b.name for b in model.blocks if f"{b.name}.router.experts" in model.sites)
    if not layers:
        raise ModelError(
            f"{type(model.module).__name__} has no routed experts that inscape can see: every token passes all of it.\n"
            "  model.sites('*.router.*') lists routers; for a dense model look at its neurons (layers.*.mlp.act)."
        )
    return layers


def n_experts(model: Model, layer: str) -> int:
    """How many experts a layer chooses from."""
    return sum(name.startswith(f"{layer}.experts.") and name.endswith(".out") for name in model.points)


def _counted(at: At, mask: Tensor, tokens: Tensor | None, first: int) -> Float[Tensor, "text pos"]:
    """1 at every real token that counts."""
    step = Step.of_mask(mask, 0, tokens.cpu() if tokens is not None else None)
    chosen = select(at, step)
    counts = mask.bool() if chosen is None else chosen & mask.bool()
    if not bool(counts.any(1).all()):
        i = int((~counts.any(1)).nonzero()[0])
        raise TokenError(f"text {first + i} has no token at={at!r}.\n  leave it out, or choose what every text has.")
    return counts.float()
