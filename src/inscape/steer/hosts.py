"""Whose weights give the value of a site, and what an affine map of the value makes of these weights.

1. A module whose output is the value: its rows become A W, its bias A b + c. Modules are compared on a short seeded
   input, bit by bit, so that no table has to say it.
2. A linear module that alone reads the value: its columns become W A, its bias b + W c.
3. The stream after a branch: a shift of it is a shift of what the branch adds.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from inscape.core.errors import EditError
from inscape.engine.probe import record
from inscape.models.model import Model
from inscape.models.points import Point
from inscape.steer.affine_form import AffineForm


@dataclass(frozen=True, eq=False)
class Host:
    """A module whose weights can take up an edit. side: "out" (it gives the value) or "in" (it reads it)."""

    path: str
    module: nn.Module
    side: str


class Hosts:
    """The hosts of the sites of one model, found on one input."""

    def __init__(self, model: Model, inputs: Any) -> None:
        self.model, self.inputs = model, inputs
        self.modules = {n: m for n, m in model.module.named_modules() if _kind(m)}
        owners: dict[int, list[str]] = {}
        for name, module in model.module.named_modules():
            for parameter in module.parameters(recurse=False):
                owners.setdefault(id(parameter), []).append(name)
        self.owners = owners
        self.values: dict[str, Tensor | None] = {}

    def read(self, names: Iterable[str]) -> None:
        """Have these values at hand, in one forward; @path for a module. None for what is not met just once."""
        new = [name for name in names if name not in self.values]
        if new:
            found, fired, _ = record(self.model, self.inputs, new)
            self.values |= {name: found[name] if fired.get(name) == 1 else None for name in new}

    def value(self, name: str) -> Tensor:
        """What a site is on the input. Raises: EditError for one that is not met just once."""
        self.read([name])
        found = self.values[name]
        if found is None:
            raise EditError(f"{name} is not met once in a forward, but never or several times: no weights are its own.")
        return found

    def of(self, site: str, form: AffineForm) -> Host:
        """Who can take up this map at this site. Raises: EditError saying why nobody can."""
        point = self.model.points[site]
        host = self._writer(site) or self._reader(point)
        if host is not None:
            return host
        branch = self._branch(site)
        if branch is None:
            raise EditError(f"{form.edit!r}: no module of this model gives {site} from its weights alone.")
        if not form.is_shift:
            raise EditError(
                f"{form.edit!r}: {site} is a sum of what all layers below added, and no single weight gives it.\n"
                "  to remove a direction from the whole stream, project it out of embed, layers.*.attn_out and "
                "layers.*.mlp_out."
            )
        writer = self._writer(branch)
        if writer is None:
            raise EditError(
                f"{form.edit!r}: no module gives {branch}, the last part of {site}, from its weights alone."
            )
        return writer

    def _writer(self, site: str) -> Host | None:
        value = self.value(site)
        near = [path for path in self._near(site) if _width(self.modules[path]) == value.shape[2:].numel()]
        self.read(f"@{path}" for path in near)
        for path in near:
            given = self.values[f"@{path}"]
            if given is not None and torch.equal(given.reshape(-1), value.reshape(-1)):
                return Host(path, self.modules[path], "out")
        return None

    def _near(self, site: str) -> Iterator[str]:
        """Paths of modules that may give the site: of its block, else those outside all blocks."""
        block = next(
            (b for _, blocks in self.model.resolved.stacks for b in blocks if site.startswith(f"{b.name}.")), None
        )
        if block is not None:
            inside = {id(m) for m in block.module.modules()}
            yield from (n for n, m in self.modules.items() if id(m) in inside)
            return
        inside = {id(m) for _, blocks in self.model.resolved.stacks for b in blocks for m in b.module.modules()}
        yield from (n for n, m in self.modules.items() if id(m) not in inside)

    def _reader(self, point: Point) -> Host | None:
        linear = isinstance(point.module, nn.Linear) or _is_conv1d(point.module)
        if point.kind != "module" or point.side != "in" or point.index is not None or not linear:
            return None
        path = next((n for n, m in self.modules.items() if m is point.module), None)
        return None if path is None else Host(path, point.module, "in")

    def _branch(self, site: str) -> str | None:
        """The site whose value was added last to give this place of the stream."""
        prefix, _, short = site.rpartition(".")
        names = [b.name for _, blocks in self.model.resolved.stacks for b in blocks]
        if prefix not in names:
            return None
        if short == "resid_pre":
            i = names.index(prefix)
            stack, number = prefix.rsplit(".", 1)
            return self._branch(f"{names[i - 1]}.resid_post") if int(number) else f"{stack.removesuffix('layers')}embed"
        branch = {"resid_mid": "attn_out", "resid_post": "mlp_out"}.get(short)
        return f"{prefix}.{branch}" if branch and f"{prefix}.{branch}" in self.model.points else None

    def taken_up(self, host: Host, form: AffineForm, now: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """New values of the host's parameters, float64, by full name. now: those that earlier edits gave."""
        found = self._taken_up(host, form, now)
        for name in found:
            self._check_own(form, host.path, name)
        return found

    def _check_own(self, form: AffineForm, path: str, name: str) -> None:
        """Raises: EditError for a weight that another module has too."""
        parameter = self.model.module.get_parameter(name)
        others = ", ".join(owner for owner in self.owners[id(parameter)] if owner != path)
        if others:
            raise EditError(f"{form.edit!r}: {name} is also the weight of {others}, which would change too.")

    def _taken_up(self, host: Host, form: AffineForm, now: Mapping[str, Tensor]) -> dict[str, Tensor]:
        def weight(name: str) -> Tensor | None:
            own = getattr(host.module, name, None)
            return None if own is None else _plain(now.get(f"{host.path}.{name}", own.detach()))

        kind, w, b = _kind(host.module), weight("weight"), weight("bias")
        assert w is not None
        if not w.is_floating_point() or w.device.type == "meta" or w.ndim > 2:
            raise EditError(
                f"{form.edit!r}: {host.path}.weight is {w.dtype} on {w.device}: it cannot hold the map.\n"
                "  merge into the model in full precision, then quantise it."
            )
        if kind == "embedding":
            return {f"{host.path}.weight": form.of(w)}
        if kind == "norm":
            new, shift = self._norm(host, form, w, b)
        elif host.side == "out":
            rows = _rows(host.module, w)  # [in, out]: one value of the site for each input
            new = _rows(host.module, form.linear(rows))
            shift = form.of(torch.zeros_like(rows[:1]) if b is None else b[None])[0]
        else:
            rows = _rows(host.module, w)  # [d, out]: one row for each entry of the value
            new = _rows(host.module, form.linear(torch.eye(len(rows), dtype=torch.float64)) @ rows)
            shift = form.constant @ rows + (0 if b is None else b)
        found = {} if form.is_shift else {f"{host.path}.weight": new}
        if b is not None:
            return found | {f"{host.path}.bias": shift}
        if float(shift.abs().max()) > 1e-12:
            raise EditError(
                f"{form.edit!r}: {host.path} ({type(host.module).__name__}) has no bias that could hold the shift.\n"
                "  models with biases (GPT-2, OPT, GPT-NeoX) can take it; here use ins.editing or a control vector."
            )
        return found

    def _norm(self, host: Host, form: AffineForm, w: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor]:
        gains = form.diagonal
        if gains is None:
            raise EditError(f"{form.edit!r}: {host.path} scales every entry by itself; this edit mixes entries.")
        offset = _offset(host.module, self.value(f"@{host.path}"))
        if offset is None:
            raise EditError(
                f"{form.edit!r}: {host.path} ({type(host.module).__name__}) does not multiply by its weight alone."
            )
        shift = form.of(torch.zeros_like(gains)[None] if b is None else b[None])[0]
        return (w + offset) * gains - offset, shift


def _plain(x: Tensor) -> Tensor:
    return x.double().cpu() if x.is_floating_point() and x.device.type != "meta" else x


def _kind(module: nn.Module) -> str:
    own = dict(module.named_parameters(recurse=False))
    if isinstance(module, nn.Linear) or _is_conv1d(module):
        return "linear"
    if type(module) is nn.Embedding:
        return "embedding"
    names_norm = "norm" in type(module).__name__.lower()
    return (
        "norm" if names_norm and "weight" in own and set(own) <= {"weight", "bias"} and own["weight"].ndim == 1 else ""
    )


def _is_conv1d(module: nn.Module) -> bool:
    """transformers' linear layer whose weight is [in, out]."""
    return type(module).__name__ == "Conv1D" and getattr(module, "weight", torch.empty(0)).ndim == 2


def _width(module: nn.Module) -> int | None:
    weight: Any = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return None
    return weight.shape[0] if isinstance(module, nn.Linear) else weight.shape[-1]


def _rows(module: nn.Module, weight: Tensor) -> Tensor:
    """The weight as [in, out], and back."""
    return weight if _is_conv1d(module) else weight.T


def _offset(module: Any, like: Tensor) -> float | None:
    """0 where a norm multiplies by its weight, 1 by one plus it (Gemma); None by something else. Found by trying."""
    bias = {"bias": torch.zeros_like(module.bias)} if getattr(module, "bias", None) is not None else {}
    x = torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(like)
    for offset in (0.0, 1.0):
        with torch.no_grad():
            given = functional_call(module, {"weight": torch.full_like(module.weight, -offset), **bias}, (x,))
        if not bool(given.any()):
            return offset
    return None
