"""Whose weights give the value of a site, or read it.

1. A module whose output is the value.
2. The linear modules that read it (`mlp.act`, `attn.z`; of a norm's output, where the norm cannot take the edit up).
3. The stream after a branch: a shift of it is a shift of what the branch adds.

Modules are compared with the value on a short input, bit by bit, so that no table has to say whose it is.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from inscape.core.errors import EditError
from inscape.engine.probe import record
from inscape.models.model import Model
from inscape.steer.affine_form import AffineForm
from inscape.steer.folding import Host, given_width, kind_of, read_width


class Hosts:
    """The hosts of the sites of one model, found on one input."""

    def __init__(self, model: Model, inputs: Any) -> None:
        self.model, self.inputs = model, inputs
        self.modules = {n: m for n, m in model.module.named_modules() if kind_of(m)}
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

    def of(self, site: str, form: AffineForm) -> list[Host]:
        """Those who take up this map at this site. Raises: EditError saying why nobody can."""
        writer, branch = self._writer(site), self._branch(site)
        reason = writer.refusal(form) if writer else None
        if writer and reason is None:
            return [writer]
        if branch is None:
            readers = self._readers(site)
            refused = next((r for host in readers if (r := host.refusal(form)) is not None), None)
            if readers and refused is None:
                return readers
            reason = reason or refused or f"no module of this model gives {site} from its weights alone."
        elif writer is None and not form.is_shift:
            reason = (
                f"{site} is a sum of what all layers below added, and no single weight gives it.\n"
                "  to remove a direction from the whole stream, project it out of embed, layers.*.attn_out and "
                "layers.*.mlp_out."
            )
        elif writer is None:
            writer = self._writer(branch)
            reason = f"no module gives {branch}, the last part of {site}, from its weights alone."
            reason = reason if writer is None else writer.refusal(form)
            if writer and reason is None:
                return [writer]
        raise EditError(f"{form.edit!r}: {reason}")

    def _writer(self, site: str) -> Host | None:
        value = self.value(site)
        near = [path for path in self._near(site) if given_width(self.modules[path]) == value.shape[2:].numel()]
        self.read(f"@{path}" for path in near)
        path = next((path for path in near if self._is(f"@{path}", value)), None)
        return None if path is None else self._host(path, "out")

    def _readers(self, site: str) -> list[Host]:
        value = self.value(site)
        near = [path for path in self._near(site) if read_width(self.modules[path]) == value.shape[2:].numel()]
        self.read(f"@{path}{side}" for path in near for side in (":in", ""))
        return [self._host(path, "in") for path in near if self._is(f"@{path}:in", value)]

    def _is(self, name: str, value: Tensor) -> bool:
        found = self.values[name]
        return found is not None and torch.equal(found.reshape(-1), value.reshape(-1))

    def _host(self, path: str, side: str) -> Host:
        module, shared = self.modules[path], {}
        for name, parameter in module.named_parameters(recurse=False):
            others = [owner for owner in self.owners[id(parameter)] if owner != path]
            shared |= {name: ", ".join(others)} if others else {}
        return Host(path, module, side, self.value(f"@{path}"), shared)

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
