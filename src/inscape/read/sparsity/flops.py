"""What a forward costs in multiplications and additions, and what few neurons would save of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from inscape.core.errors import InputError, ModelError
from inscape.models.model import Model
from inscape.read.sparsity.profile import neurons_of


@dataclass(frozen=True)
class Flops:
    """FLOPs a token, 2 for each weight of a matrix that it passes.

    down, up: of the MLPs' matrices after and before the neurons. rest: other matrices of the blocks. head: the
    unembedding. sparse_down, sparse: the whole with the down projections' part scaled by the share of neurons kept, and
    with the up projections' too (which takes a predictor of the neurons, or top-k found before).
    """

    down: float
    up: float
    rest: float
    head: float
    sparse_down: float
    sparse: float

    @property
    def dense(self) -> float:
        return self.down + self.up + self.rest + self.head

    @property
    def saved(self) -> tuple[float, float]:
        """Shares of the whole saved by sparse down projections, and by sparse up projections besides."""
        return 1 - self.sparse_down / self.dense, 1 - self.sparse / self.dense


def estimate_flops(model: Model, kept: float | Sequence[float] | Tensor = 1.0) -> Flops:
    """FLOPs a token, dense and with this share of neurons kept, one for all layers or one a layer.

    Counts matrices alone: not the product of queries with keys (2 d a token of context and layer), norms or activation
    functions. An estimate of arithmetic, not of time: without a kernel that skips rows nothing is faster.
    Raises: ModelError without mlp.act; InputError for shares outside 0 to 1 or not one a layer.
    Source: the accounting of Li et al. 2022, arXiv:2210.06313, section 5.
    """
    sites = neurons_of(model)
    shares = [float(kept)] * len(sites) if isinstance(kept, int | float) else [float(k) for k in kept]
    if len(shares) != len(sites) or not all(0 <= k <= 1 for k in shares):
        raise InputError(f"estimate_flops: shares of neurons from 0 to 1, one or {len(sites)}; got {shares}.")
    down = up = saved_down = saved_up = rest = 0.0
    for block in model.blocks:
        matrices = {n: _size(m) for n, m in block.module.named_modules() if _size(m)}
        name = f"{block.name}.mlp.act"
        if name not in sites:
            rest += 2 * sum(matrices.values())
            continue
        point = model.points[name]
        below = point.module
        width = _width(below)
        mine = 2.0 * _size(below)
        above = 2.0 * sum(
            _size(m) for m in block.module.modules()
            if m is not below and _size(m) and _outputs(m) % width == 0 and "attn" not in _path(block.module, m)
            and "attention" not in _path(block.module, m)
        )  # fmt: skip
        share = shares[sites.index(name)]
        down, up = down + mine, up + above
        saved_down, saved_up = saved_down + mine * (1 - share), saved_up + above * (1 - share)
        rest += 2 * sum(matrices.values()) - mine - above
    if not down:
        raise ModelError(f"{type(model.module).__name__} has no down projection that is a plain matrix.")
    head = model.points.get("logits")
    top = 2.0 * _size(head.module) if head is not None else 0.0
    whole = down + up + rest + top
    return Flops(down, up, rest, top, whole - saved_down, whole - saved_down - saved_up)


def _size(module: nn.Module) -> int:
    weight = getattr(module, "weight", None)
    return weight.numel() if isinstance(weight, Tensor) and weight.ndim == 2 and not _is_table(module) else 0


def _is_table(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding)


def _width(module: nn.Module) -> int:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.shape[0] if type(module).__name__ == "Conv1D" else weight.shape[1]


def _outputs(module: nn.Module) -> int:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.shape[1] if type(module).__name__ == "Conv1D" else weight.shape[0]


def _path(root: nn.Module, module: nn.Module) -> str:
    return next(n for n, m in root.named_modules() if m is module)
