"""The tuned lens: before the head reads a layer, an affine map brings its state into the last layer's basis."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import FileError, InputError, ModelError, NotFittedError, ShapeError
from inscape.core.progress import Progress
from inscape.core.readout import Target
from inscape.core.tensor_file import read_tensors, write_tensors
from inscape.engine.unembed import BUDGET, unembedding
from inscape.models.model import Model
from inscape.read.lenses import tuned_public
from inscape.read.lenses.kl import kl_to_final
from inscape.read.lenses.translators import Translators, as_rows, least_squares, moments_of
from inscape.store.store import Store, ensure
from inscape.train import fit as train
from inscape.train import linear

VERSION = 1
CONTROLS = (None, "shuffle")
STARTS = ("identity", "least_squares")
CHUNK = 4096  # rows that closed forms read at once
States = Store | str | Path | Mapping[str, Any]


@dataclass
class TunedLens:
    """One affine map a layer, h + A h + b, trained so that the head says after it what the model says in the end.

    min_{A, b} mean KL(p_final | softmax(rules(head(norm(h + A h + b))))). It begins at the identity, the logit lens,
    and is better where early layers speak another basis than the head; what it adds is learned from text, so keep the
    `control`, and text of its own to score on. Choose the closed form (`steps=0, start="least_squares"`) for a first
    look: one pass over the states, no head.

    Parameters: steps, of Adam with rate lr falling to 0, each on `rows` positions of all layers; weights are trained in
    units of each layer's spread. start: "identity", or "least_squares" (relative squared error, ridge `penalty`).
    layers: columns to map; every one but the last when None. together: layers trained at once, all when None.
    autocast: torch.bfloat16 to multiply with the head in it. budget: bytes of scores alive at once.
    control: "shuffle" trains towards the final states of other positions: what a map can gain from the frequencies of
    tokens alone.
    Learned by fit: weight_ (layer, d, d), bias_ (layer, d), layers_, last_, model_ (a fingerprint), loss_ of each step.
    Cost: of a step, 2 products with the head a state (3 with a softcap). A Gemma of 262,144 tokens: 4 ms a state on two
    cores, 2 with autocast. Memory: 4 (d^2) floats a layer, a pool of the store, some MB of scores (`budget` where the
    head is no single matrix).
    Raises: NotFittedError before fit; InputError for states without the last layer; ModelError for another model.
    Source: Belrose et al. 2023, arXiv:2303.08112. Adam in place of SGD; whitened coordinates; the closed form.
    """

    target: ClassVar[Target] = "own"
    precision: ClassVar[str] = "float32"

    steps: int = 250
    rows: int = 64
    lr: float = 1e-3
    start: str = "identity"
    penalty: float = 1e-6
    layers: Sequence[str] | None = None
    together: int | None = None
    autocast: torch.dtype | None = None
    budget: int = BUDGET
    control: str | None = None
    seed: int = 0

    def fit(
        self, x: States, y: Model, *, checkpoint: str | Path | None = None, progress: Progress = None
    ) -> "TunedLens":
        """Learn the maps. x: a store with the stream after layers and the last one, or {site: rows}. y: the model.

        checkpoint: a folder in which a killed training goes on.
        """
        if self.control not in CONTROLS or self.start not in STARTS or self.steps < 0:
            raise InputError(
                f"control={self.control!r}, start={self.start!r}, steps={self.steps}: control is 'shuffle' or None, "
                f"start {' or '.join(map(repr, STARTS))}, and steps are 0 or more."
            )
        if self.steps == 0 and self.start == "identity":
            raise InputError("no steps from the identity are the logit lens.\n  take start='least_squares', or steps.")
        source = _Source(x)
        last = f"{y.blocks[-1].name}.resid_post"
        layers = _layers(self.layers, source, last)
        unembed = unembedding(y)
        weights, biases, losses = [], [], []
        step = self.together or len(layers)
        for first in range(0, len(layers), step):
            group = layers[first : first + step]
            names = [*group, last]
            in_order = partial(source.in_order, names)
            maps = Translators(moments_of(in_order, names), group, last)
            if self.start == "least_squares":
                maps.set(*least_squares(in_order, group, last, penalty=self.penalty, shuffled=self._shuffled()))
            if self.steps:
                maps.to(next(unembed.head.parameters()).device)
                path = None if checkpoint is None else Path(checkpoint) / f"{group[0]}.safetensors"
                history = train(
                    maps, source.shuffled(names, self.rows, self.seed), partial(self._loss, unembed, last),
                    steps=self.steps, lr=self.lr, schedule=linear, warmup=self.steps // 20, autocast=self.autocast,
                    seed=self.seed, checkpoint=path, progress=progress,
                )  # fmt: skip
                losses.append(list(history.loss))
            weight, bias = maps.folded()
            weights.append(weight.cpu())
            biases.append(bias.cpu())
        self.weight_: Float[Tensor, "layer d_model d_model"] = torch.cat(weights)
        self.bias_: Float[Tensor, "layer d_model"] = torch.cat(biases)
        self.layers_, self.last_, self.model_, self.loss_ = tuple(layers), last, y.fingerprint, losses
        return self

    def transform(self, x: Float[Tensor, "*rows d_model"], layer: str) -> Float[Tensor, "*rows d_model"]:
        """States of one layer in the last layer's basis; those of the last are in it already."""
        at = self._place(layer)
        if at is None:
            return x
        weight, bias = self.weight_[at].to(x.device), self.bias_[at].to(x.device)
        if x.shape[-1] != len(bias):
            raise ShapeError(f"the lens was fitted on {len(bias)} units; these states have {x.shape[-1]}.")
        h = x.float()
        return (h + h @ weight.T + bias).to(x.dtype)

    def translated(
        self, states: Float[Tensor, "layer row d_model"], layers: Sequence[str], model: Model
    ) -> Float[Tensor, "layer row d_model"]:
        """States of many layers of this model, as `logit_lens(lens=)` and others read them."""
        self._check(model)
        return torch.stack([self.transform(x, name) for x, name in zip(states, layers, strict=True)])

    def score(self, x: States, y: Model, *, n: int = 512) -> float:
        """The share of the logit lens's KL to the final distribution that is gone, mean over layers, on `n` rows of x.

        1 is the model's own last word, 0 no better than the logit lens; below 0 it is worse. `compare_lenses` has the
        numbers by layer, with intervals.
        """
        self._check(y)
        names = [*self.layers_, self.last_]
        batch = next(iter(_Source(x).shuffled(names, n, self.seed + 1, finite=True)))
        unembed = unembedding(y)
        states, ends = as_rows(batch, self.layers_, self.last_, torch.float32, self.weight_.device)
        with torch.no_grad():
            plain = kl_to_final(unembed, states, ends, budget=self.budget)
            ours = kl_to_final(unembed, self.translated(states, self.layers_, y), ends, budget=self.budget)
        return float((1 - ours / plain.clamp(min=1e-12)).mean())

    @property
    def how(self) -> str:
        """In words, for figures."""
        control = ", trained towards other positions (control)" if self.control == "shuffle" else ""
        return f"tuned lens of {len(self._fitted())} layers{control}"

    def save(self, path: str | Path) -> None:
        """Write it as one safetensors file with the model's fingerprint."""
        about = {
            "kind": "tuned lens", "version": VERSION, "layers": list(self._fitted()), "last": self.last_,
            "model": self.model_, "control": self.control, "start": self.start, "steps": self.steps,
        }  # fmt: skip
        write_tensors(path, {"weight": self.weight_, "bias": self.bias_}, {"inscape": json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path, model: Model) -> "TunedLens":
        """Read what `save` wrote, for this model. Raises: FileError, ModelError for another model."""
        tensors, about = read_tensors(path, "tuned lens", VERSION)
        layers = about.get("layers")
        weight, bias = tensors.get("weight"), tensors.get("bias")
        if weight is None or bias is None or not layers or weight.shape != (len(layers), *[bias.shape[-1]] * 2):
            raise FileError(f"{str(path)!r} is damaged: its maps do not fit its layers.")
        lens = cls(steps=about["steps"], start=about["start"], control=about["control"])
        lens._set(weight, bias, layers, about["last"], about["model"])
        lens._check(model)
        return lens

    def save_public(self, folder: str | Path, model: Model) -> None:
        """Write the folder that the package `tuned-lens` reads: config.json and params.pt; see `tuned_public`."""
        self._check(model)
        maps = {name: (self.weight_[i], self.bias_[i]) for i, name in enumerate(self.layers_)}
        tuned_public.write(Path(folder), maps, model)

    @classmethod
    def load_public(cls, folder: str | Path, model: Model) -> "TunedLens":
        """Read a folder of the package `tuned-lens`, for this model; see `tuned_public`."""
        maps = tuned_public.read(Path(folder), model)
        weight, bias = (torch.stack([pair[i] for pair in maps.values()]) for i in (0, 1))
        lens = cls()
        lens._set(weight, bias, list(maps), f"{model.blocks[-1].name}.resid_post", model.fingerprint)
        return lens

    def _set(self, weight: Tensor, bias: Tensor, layers: Sequence[str], last: str, model: str) -> None:
        self.weight_, self.bias_ = weight, bias
        self.layers_, self.last_, self.model_, self.loss_ = tuple(layers), last, model, []

    def _loss(self, unembed: Any, last: str, maps: Translators, batch: Any) -> Tensor:
        states, ends = as_rows(batch, maps.layers, last, torch.float32, maps.weight.device)
        target = ends.roll(1, 0) if self.control == "shuffle" else ends  # batches come mixed: the next is any other
        return kl_to_final(unembed, maps(states), target, budget=self.budget).mean()

    def _shuffled(self) -> Callable[[Tensor], Tensor] | None:
        if self.control is None:
            return None
        g = torch.Generator().manual_seed(self.seed)
        order: dict[int, Tensor] = {}  # the same one for every layer of a batch does no harm
        return lambda end: end[order.setdefault(len(end), torch.randperm(len(end), generator=g))]

    def _fitted(self) -> tuple[str, ...]:
        if not hasattr(self, "weight_"):
            raise NotFittedError("this lens has not been fitted: call fit(store, model), or load one.")
        return self.layers_

    def _place(self, layer: str) -> int | None:
        if layer in self._fitted():
            return self.layers_.index(layer)
        if layer == self.last_:
            return None
        raise InputError(
            f"this lens has no map for {layer}; it has {', '.join(self.layers_[:3])} … {self.layers_[-1]}.\n"
            "  read those with layers=, or fit it on a store that holds the others too."
        )

    def _check(self, model: Model) -> None:
        self._fitted()
        if self.model_ != model.fingerprint:
            raise ModelError(
                f"this lens was fitted on the model {self.model_}; this one is {model.fingerprint}.\n"
                "  a basis of one model means nothing in another: fit a lens for this one."
            )


class _Source:
    """Rows of columns from a store or from tensors, in order or mixed."""

    def __init__(self, x: States) -> None:
        self.store = None if isinstance(x, Mapping) else ensure(x)
        self.columns: Mapping[str, Any] = {} if self.store is not None else {str(k): v for k, v in dict(x).items()}  # type: ignore[call-overload]
        lengths = {name: len(v) for name, v in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise ShapeError(f"rows of the same positions are needed from all layers; got {lengths}.")

    @property
    def names(self) -> list[str]:
        return self.store.sites if self.store is not None else list(self.columns)

    def __len__(self) -> int:
        return len(self.store) if self.store is not None else len(next(iter(self.columns.values()), ()))

    def in_order(self, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        columns: Any = self.store if self.store is not None else self.columns
        for start in range(0, len(self), CHUNK):
            yield {name: columns[name][start : start + CHUNK] for name in names}

    def shuffled(self, names: Sequence[str], n: int, seed: int, finite: bool = False) -> Any:
        n = min(n, len(self))
        if self.store is not None:
            return self.store.batches(n, names, seed=seed)

        def batch(step: int) -> dict[str, Tensor]:
            rows = torch.randperm(len(self), generator=torch.Generator().manual_seed((seed << 32) + step))[:n]
            return {name: self.columns[name][rows] for name in names}

        return [batch(0)] if finite else batch


def _layers(asked: Sequence[str] | None, source: _Source, last: str) -> list[str]:
    names = source.names
    found = list(asked) if asked is not None else [n for n in names if "resid" in n and n != last]
    missing = [name for name in [*found, last] if name not in names]
    if missing or not found or not len(source):
        raise InputError(
            f"a tuned lens of this model needs rows of {last} and of the layers before it; "
            f"{', '.join(missing) or 'such a layer'} is not there.\n  there are {', '.join(names) or 'none'}: "
            f'record sites="layers.*.resid_post".'
        )
    return found
