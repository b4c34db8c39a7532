"""Extreme activations followed in constant memory: on a model, over checkpoints, or while a net trains."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError, ModelError
from inscape.engine.forward import run
from inscape.engine.inputs import prepare
from inscape.models.model import Model

SMALLEST = 1e-9  # a median below it counts as this: a fresh net's may be 0


@dataclass(frozen=True, eq=False)
class Monitored:
    """The extremes of every site over all real tokens of the inputs.

    top: the k largest |h|, largest first. where: (input, row, real position, dim) of the largest. median: of |h|, exact
    in each input, then their mean. ratio: top1 / median. kurtosis: of the values (3 for a Gaussian).
    """

    sites: tuple[str, ...]
    top: Float[Tensor, "site k"]
    where: Int[Tensor, "site 4"]
    median: Float[Tensor, " site"]
    kurtosis: Float[Tensor, " site"]
    n_values: int

    @property
    def ratio(self) -> Float[Tensor, " site"]:
        return self.top[:, 0] / self.median.clamp(min=SMALLEST)

    def numbers(self) -> dict[str, float]:
        """Flat, for a metric store: "top1.layers.3", "ratio.layers.3" and so on."""
        found = {}
        for i, site in enumerate(self.sites):
            name = site.removesuffix(".resid_post")
            found |= {f"top{j + 1}.{name}": float(v) for j, v in enumerate(self.top[i])}
            found |= {f"{k}.{name}": float(getattr(self, k)[i]) for k in ("median", "ratio", "kurtosis")}
        return found


@dataclass
class ActivationMonitor:
    """How large the largest activations of each site are, how they compare with the rest, and where they sit.

    Choose it to follow numbers; `massive` lists every activation that passes a bar. Nothing of a run is kept but a few
    numbers a site. Fix the texts: padding is left out, but the first token is not, and most extremes live there.
    Settings: sites, a pattern, every resid_post of the main stack when None; k, how many of the largest.
    Cost: one forward an input, without the head; a median of its values a site.
    Source: the numbers of arXiv:2508.03616; kurtosis added.
    """

    sites: Any = None
    k: int = 3

    def __call__(self, model: Model, inputs: Sequence[Any]) -> Monitored:
        """Measure an opened model now. Raises ModelError without a residual stream, InputError for no inputs."""
        sites = self.sites
        if sites is None:
            sites = [f"{b.name}.resid_post" for b in model.blocks if f"{b.name}.resid_post" in model.sites]
        if not sites:
            raise ModelError(f"{type(model.module).__name__} has no residual stream that inscape knows.")
        names = model.sites(*([sites] if isinstance(sites, str) else sites)).names
        each = list(inputs)
        if not each or self.k < 1:
            raise InputError(f"a monitor needs inputs ({len(each)} given) and k of at least 1 ({self.k}).")
        top, where = torch.zeros(len(names), self.k), torch.zeros(len(names), 4, dtype=torch.long)
        medians = torch.zeros(len(names), dtype=torch.float64)
        sums = torch.zeros(len(names), 5, dtype=torch.float64)
        for number, one in enumerate(each):
            ready = prepare(model, one)
            read = {n: (n, lambda x, mask=ready.mask: _seen(x, mask, self.k)) for n in names}
            trace = run(model, ready, read=read)
            for i, name in enumerate(names):
                found = trace[name].cpu()
                values, place = found[: self.k], found[self.k : self.k + 3]
                if float(values[0]) > float(top[i, 0]):
                    where[i] = torch.tensor([number, *place.long().tolist()])
                top[i] = torch.cat([top[i], values.float()]).topk(self.k).values
                medians[i] += found[self.k + 3]
                sums[i] += found[self.k + 4 :]
        return Monitored(tuple(names), top, where, (medians / len(each)).float(), _kurtosis(sums), int(sums[0, 0]))

    def meter(self, model: Model, inputs: Sequence[Any]) -> Callable[[Any], Mapping[str, float]]:
        """For `train.fit(meters={"extremes": ...})`: the numbers of the opened module, each time it is asked."""
        return lambda module: self(model, inputs).numbers()

    def over(
        self, checkpoints: Iterable[tuple[int | float, Model]], inputs: Sequence[Any]
    ) -> dict[str, list[tuple[float, float]]]:
        """(step, opened model) pairs, one at a time -> the course of every number, as `train.fit` keeps them."""
        found: dict[str, list[tuple[float, float]]] = {}
        for step, model in checkpoints:
            for name, value in self(model, inputs).numbers().items():
                found.setdefault(name, []).append((float(step), value))
        return found


def _seen(x: Tensor, mask: Tensor | None, k: int) -> Float[Tensor, " numbers"]:
    """k largest sizes, (row, real position, dim) of the largest, median size, then n and the sums of four powers."""
    is_masked = mask is not None and mask.shape == x.shape[:2]
    real = mask.bool().to(x.device) if is_masked and mask is not None else torch.ones(x.shape[:2], dtype=torch.bool)
    values = x.float()[real.to(x.device)]
    size = values.abs().reshape(-1)
    best = size.topk(min(k, len(size)))
    dim = int(best.indices[0]) % x.shape[-1]
    row, column = real.nonzero()[int(best.indices[0]) // x.shape[-1]].tolist() if x.ndim == 3 else (0, 0)
    pos = int(real[row, :column].sum())
    flat = values.reshape(-1).double()
    powers = [float(len(flat)), *(float(flat.pow(i).sum()) for i in (1, 2, 3, 4))]
    tops = torch.zeros(k, dtype=torch.float64)
    tops[: len(best.values)] = best.values.double().cpu()
    rest = torch.tensor([row, pos, dim, float(size.median()), *powers], dtype=torch.float64)
    return torch.cat([tops, rest]).to(x.device)


def _kurtosis(sums: Float[Tensor, "site 5"]) -> Float[Tensor, " site"]:
    n, a, b, c, d = (sums[:, i] for i in range(5))
    m, b, c, d = a / n, b / n, c / n, d / n
    variance = b - m**2
    fourth = d - 4 * m * c + 6 * m**2 * b - 3 * m**4
    return torch.where(variance > 0, fourth / variance.clamp(min=1e-300) ** 2, torch.nan).float()
