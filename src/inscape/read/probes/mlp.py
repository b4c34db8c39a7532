"""The probe that is no plane: a small network of one hidden layer, to be read beside its selectivity."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from inscape.core.errors import InputError
from inscape.core.interval import Interval
from inscape.core.logistic.design import Design
from inscape.core.progress import Progress
from inscape.core.readout import (
    Labels,
    Rows,
    Target,
    check_control,
    classes_of,
    labels_of,
    need_fitted,
    origin,
    picked,
    row_batches,
    shuffled,
    units_of,
)
from inscape.read.probes.linear import said
from inscape.read.probes.scoring import share_right
from inscape.train import fit as train
from inscape.train.schedule import cosine


@dataclass
class MLPProbe:
    """Probe of classes with one hidden layer: softmax(V relu(W u(x) + c) + b), u standardising every unit.

    A network can learn a task that the rows do not show, so its accuracy says little alone: read `selectivity` beside
    it, and choose `LogisticProbe` unless the question is whether something is there but not on a plane.

    Cost: `steps` batches of `batch` rows drawn anew, forward and backward. Deterministic from `seed` on one machine.
    Parameters: hidden; steps; batch; lr, falling along a cosine; weight_decay. control: "shuffle" fits on labels in
    another order.
    Learned by fit (float32): weights_ {"in", "in_bias", "out", "out_bias"} for rows as they are; classes_, loss_ (of
    the last step); site_, model_ from rows of a store.
    Raises: InputError for one class or impossible sizes; NotFittedError before fit; ShapeError.
    Source: Hewitt & Liang 2019, arXiv:1909.03368, whose MLP-1 this is; weight decay in place of dropout.
    """

    hidden: int = 64
    steps: int = 400
    batch: int = 256
    lr: float = 3e-3
    weight_decay: float = 1e-2
    control: str | None = None
    seed: int = 0
    target: ClassVar[Target] = "classes"
    precision: ClassVar[str] = "float32"

    def fit(self, x: Rows, y: Labels, *, progress: Progress = None) -> "MLPProbe":
        check_control(self.control)
        if min(self.hidden, self.steps, self.batch) < 1:
            raise InputError(f"hidden={self.hidden}, steps={self.steps}, batch={self.batch}: each is 1 or more.")
        d = units_of(x)
        classes, code = classes_of(y, len(x))
        if self.control == "shuffle":
            code = shuffled(code, self.seed)
        design = Design({"": x}, torch.ones(1, len(x), dtype=torch.bool), memory=0)
        mean, scale = design.mean[0].float().cpu(), design.scale[0].float().cpu()
        net = self._net(d, len(classes))
        loss = train(
            net,
            lambda step: self._batch(x, code, mean, scale, step),
            lambda module, batch: nn.functional.cross_entropy(module(batch[0]), batch[1]),
            steps=self.steps,
            lr=self.lr,
            schedule=cosine,
            optimizer=lambda parameters, lr: torch.optim.AdamW(parameters, lr=lr, weight_decay=self.weight_decay),
            seed=self.seed,
            progress=progress,
        ).loss
        first, last = (m for m in net if isinstance(m, nn.Linear))
        inner = first.weight.detach() / scale
        self.weights_: dict[str, Tensor] = {
            "in": inner,
            "in_bias": first.bias.detach() - inner @ mean,
            "out": last.weight.detach().clone(),
            "out_bias": last.bias.detach().clone(),
        }
        self.classes_, self.loss_ = tuple(classes.tolist()), float(loss[-1])
        self.site_, self.model_ = origin(x)
        return self

    def transform(self, x: Rows) -> Float[Tensor, "n classes"]:
        """The values before the softmax, one a class."""
        need_fitted(self, "weights_")
        w = {name: value.double() for name, value in self.weights_.items()}
        units_of(x, d=w["in"].shape[1])
        return torch.cat(
            [(part.cpu() @ w["in"].T + w["in_bias"]).relu() @ w["out"].T + w["out_bias"] for _, part in row_batches(x)]
        )

    def predict(self, x: Rows) -> np.ndarray:
        """The likeliest class of each row, as the labels were given."""
        return said(self.transform(x), self.classes_)

    def score(self, x: Rows, y: Labels, *, interval: bool = False, by: Labels | None = None) -> float | Interval:
        """Share of rows whose class is told right; `interval=True` with its interval, by item where rows share one."""
        right = torch.from_numpy(self.predict(x) == labels_of(y, len(x)))
        return share_right(right, by) if interval else float(right.double().mean())

    def _net(self, d: int, classes: int) -> nn.Sequential:
        draw = torch.Generator().manual_seed(self.seed)
        first, last = nn.Linear(d, self.hidden, device="meta"), nn.Linear(self.hidden, classes, device="meta")
        for layer in (first, last):  # drawn from the probe's own generator, not from the global one
            out, width = layer.weight.shape
            layer.weight = nn.Parameter(torch.randn(out, width, generator=draw) * (2 / width) ** 0.5)
            layer.bias = nn.Parameter(torch.zeros(out))
        return nn.Sequential(first, nn.ReLU(), last)

    def _batch(self, x: Rows, code: Int[Tensor, " n"], mean: Tensor, scale: Tensor, step: int) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        index = torch.randint(len(x), (min(self.batch, len(x)),), generator=draw).sort().values
        rows = torch.cat([part for _, part in row_batches(picked(x, index), dtype=torch.float32)])
        return (rows.cpu() - mean) / scale, code[index]
