"""A direction trained end to end: what, added at one site, makes given texts likelier after given prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from inscape.core.direction import Direction
from inscape.core.edit import Edit, meant_for
from inscape.core.edits.add import add
from inscape.core.edits.learned import gated_add, low_rank_add
from inscape.core.errors import InputError
from inscape.core.progress import Progress
from inscape.engine.forward import run
from inscape.models.model import Model
from inscape.steer.targets import POSITIONS, Batch, Examples, frozen
from inscape.train.history import History
from inscape.train.loop import fit
from inscape.train.schedule import cosine

KINDS = ("vector", "low_rank", "gated")


@dataclass(frozen=True, eq=False)
class Optimised:
    """What was trained. before, after: mean loss over the examples, in nats a token, without and with it.

    tensors: all that was learned. positions: where it acted while it was trained.
    """

    site: str
    kind: str
    tensors: dict[str, Tensor]
    history: History
    before: float
    after: float
    positions: str
    source: str
    model: str

    @property
    def direction(self) -> Direction:
        """The vector. Raises: InputError for a low-rank map, which has none."""
        if "vector" not in self.tensors:
            raise InputError("a low-rank map adds another vector to every state: take .edit(), it has no direction.")
        return Direction(self.site, self.tensors["vector"], self.source, self.model)

    def edit(self, strength: float = 1.0, **places: Any) -> Edit:
        """The edit, everywhere unless places are given; savable."""
        return meant_for(_edit(self.kind, self.site, self.tensors, strength, self.source, places), self.model)


def optimise_direction(
    model: Model,
    site: str,
    prompts: Sequence[Any],
    targets: Sequence[Any],
    *,
    positions: str = "all",
    static: Edit | Direction | Sequence[Edit | Direction] = (),
    kind: str = "vector",
    rank: int = 4,
    steps: int = 200,
    lr: float = 0.05,
    batch_rows: int = 8,
    max_norm: float | None = None,
    coldness: float = 1.0,
    control: str | None = None,
    seed: int = 0,
    progress: Progress = None,
) -> Optimised:
    """Train what is added at a site so that each target becomes likelier after its prompt; the model stays frozen.

    Minimises the mean cross-entropy of the targets' tokens, `x + v` at the site, v starting as a random unit vector.
    It finds what the model can be made to do there, also what no pair of texts shows: choose `fit_directions` first,
    this where that does too little, and test on prompts it was not trained on, as it overfits few.

    positions: where it acts: "all", "prompt", "last" (of the prompt), "target", "predicting" (the tokens whose next
    one is the target's). static: what acts meanwhile and is not trained: edits, or directions, added where the new one
    is. kind: "vector"; "low_rank": `x + B A x`, of `rank`; "gated": a vector times a gate between 0 and 1 that a small
    net reads from the state. lr: falls as a cosine. max_norm: longest vector ("low_rank": largest Frobenius norm of A
    and of B). coldness: what scores are multiplied by in the loss (0.7 asks for surer targets). control: "shuffle"
    gives each prompt another one's target.
    Cost: `steps` forwards and backwards of batch_rows texts from the site on; scores at the targets' tokens only.
    Raises: InputError where no target depends on the site at these positions; SiteError, ModelError, NotFiniteError.
    Source: Venhoff et al. 2025, arXiv:2510.07364; trained and applied at the same site here, where their code trains
    at a block's input and applies at its output.
    """
    if kind not in KINDS:
        raise InputError(f"kind={kind!r} is none of {', '.join(map(repr, KINDS))}.")
    if positions not in POSITIONS:
        raise InputError(f"positions={positions!r} is none of {', '.join(map(repr, POSITIONS))}.")
    if control not in (None, "shuffle"):
        raise InputError(f"control={control!r} can be 'shuffle' or None.")
    if rank < 1 or batch_rows < 1 or not (max_norm is None or max_norm > 0) or not coldness > 0:
        raise InputError(f"{rank=}, {batch_rows=}, {max_norm=}, {coldness=}: all are above 0.")
    examples = Examples.of(model, prompts, targets)
    generator = torch.Generator().manual_seed(seed)
    if control == "shuffle":
        if len(examples) < 2:
            raise InputError("control='shuffle' exchanges targets: give two examples at least.")
        order = torch.randperm(len(examples), generator=generator)
        partner = dict(zip(order.tolist(), order.roll(1).tolist(), strict=True))
        examples.targets[:] = [examples.targets[partner[i]] for i in range(len(examples))]
    held = [static] if isinstance(static, (Edit, Direction)) else list(static)

    def fixed(batch: Batch) -> list[Edit]:
        return [add(one, at=batch.places(positions)) if isinstance(one, Direction) else one for one in held]

    width = _width(model, site, examples)
    learned = _Learned(kind, site, width, rank, max_norm, generator).to(model.device)

    def losses(module: _Learned, batch: Batch, grad: bool = True) -> Tensor:
        edit = module.edit(batch.places(positions))
        return examples.losses(batch, [*fixed(batch), edit], coldness=coldness if grad else 1.0, grad=grad)

    rows_of = partial(_rows, len(examples), min(batch_rows, len(examples)), seed)
    with frozen(model):
        with torch.no_grad():
            before = _mean(examples, batch_rows, lambda batch: examples.losses(batch, fixed(batch)))
        _check_reached(learned, losses(learned, examples.batch(rows_of(0))), site, positions)
        history = fit(
            learned, lambda step: examples.batch(rows_of(step)), lambda module, batch: losses(module, batch).mean(),
            steps=steps, lr=lr, schedule=cosine, seed=seed, progress=progress,
        )  # fmt: skip
        with torch.no_grad():
            after = _mean(examples, batch_rows, lambda batch: losses(learned, batch, False))
    tensors = {name: x.detach().cpu().float() for name, x in learned.tensors().items()}
    about = f"{f'{control} control ' if control else ''}trained on {len(examples)} targets"
    return Optimised(site, kind, tensors, history, before, after, positions, about, model.fingerprint)


class _Learned(nn.Module):
    """The trained tensors, and the edit that they are."""

    def __init__(
        self, kind: str, site: str, d: int, rank: int, max_norm: float | None, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.kind, self.site, self.max_norm = kind, site, max_norm

        def drawn(*shape: int) -> nn.Parameter:
            x = torch.randn(*shape, generator=generator)
            return nn.Parameter(x / x.norm() * (shape[-1] ** 0.5 if len(shape) > 1 else 1.0))

        if kind == "low_rank":
            self.reads, self.writes = drawn(d, rank), nn.Parameter(1e-3 * drawn(d, rank).data)
        else:
            self.vector = drawn(d)
        if kind == "gated":
            self.inward, self.bias = nn.Parameter(drawn(d, 4 * rank).data / d**0.5), nn.Parameter(torch.zeros(4 * rank))
            self.outward, self.offset = nn.Parameter(0.1 * drawn(4 * rank).data), nn.Parameter(torch.zeros(()))

    def tensors(self) -> dict[str, Tensor]:
        """What they come to: vectors no longer than they may be."""
        found: dict[str, Tensor] = dict(self.named_parameters())
        if self.max_norm is None:
            return found
        return {n: x * (self.max_norm / x.norm()).clamp(max=1) if n in ("vector", "reads", "writes") else x
                for n, x in found.items()}  # fmt: skip

    def edit(self, at: Tensor) -> Edit:
        return _edit(self.kind, self.site, self.tensors(), 1.0, "", {"at": at})


def _edit(kind: str, site: str, tensors: dict[str, Tensor], strength: float, source: str, places: Any) -> Edit:
    if kind == "vector":
        return add(Direction(site, tensors["vector"], source), strength, **places)
    made = {"low_rank": low_rank_add, "gated": gated_add}[kind]
    return made(site, **tensors, strength=strength, source=source, **places)


def _width(model: Model, site: str, examples: Examples) -> int:
    x = run(model, {"input_ids": torch.tensor([examples.prompts[0][:2]])}, read={"x": site})["x"]
    if x.ndim != 3:
        raise InputError(f"{site} has {x.ndim} axes: a vector is trained at a site of [batch, pos, d].")
    return x.shape[-1]


def _rows(n: int, size: int, seed: int, step: int) -> list[int]:
    """The examples of a step: every one once, in a new order every time round."""
    each = -(-n // size)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed + 104729 * (step // each))).tolist()
    start = (step % each) * size
    return order[start : start + size]


def _mean(examples: Examples, batch_rows: int, losses: Any) -> float:
    parts = [range(i, min(i + batch_rows, len(examples))) for i in range(0, len(examples), batch_rows)]
    return float(torch.cat([losses(examples.batch(part)).double().cpu() for part in parts]).mean())


def _check_reached(learned: nn.Module, losses: Tensor, site: str, positions: str) -> None:
    """Refuse to train what no target depends on."""
    grads = (
        torch.autograd.grad(losses.sum(), list(learned.parameters()), allow_unused=True) if losses.requires_grad else ()
    )
    if not any(g is not None and bool((g != 0).any()) for g in grads):
        raise InputError(
            f"no target depends on {site} at positions={positions!r}, so there is nothing to train.\n"
            "  choose an earlier site, or positions before the last token of the targets ('predicting', 'prompt')."
        )
