"""An opened model: the module as it is, its tokenizer, its family's table and its sites."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from inscape.core.errors import ModelError, SiteError
from inscape.core.site import Site, SiteTable
from inscape.models.family import Family
from inscape.models.points import Block, Point, Resolved, resolve


@dataclass(eq=False)
class Model:
    """An opened `nn.Module` with its sites. The module is the user's own: nothing in it is replaced or copied.

    module: the module as given (a compiled one is opened by the module inside). tokenizer, processor: may be None.
    family: the table that names its insides. notes: what opening it found worth saying. been: fingerprints that it has
    had since it was opened: training changes them, and what was found before goes on being meant for it.
    """

    module: nn.Module
    tokenizer: Any = None
    processor: Any = None
    family: Family = field(default_factory=lambda: Family("none", (), ()))
    source: str = ""
    notes: tuple[str, ...] = ()
    status: dict[str, tuple[str, str]] = field(default_factory=dict)
    inferred: bool = False
    plans: dict[Any, Any] = field(default_factory=dict, repr=False)
    ready: bool = False
    been: set[str] = field(default_factory=set, repr=False)

    @cached_property
    def resolved(self) -> Resolved:
        return resolve(self.module, self.family)

    @property
    def points(self) -> dict[str, Point]:
        """Where every offered site is met, in forward order."""
        if not any(status == "withdrawn" for status, _ in self.status.values()):
            return self.resolved.points
        return {n: p for n, p in self.resolved.points.items() if self.status.get(n, ("",))[0] != "withdrawn"}

    @property
    def sites(self) -> SiteTable:
        """The sites this model offers; call it with a pattern to filter."""
        if "sites" not in self.plans:  # cleared with the plans when `verify` changes what is offered
            self.plans["sites"] = SiteTable(site for site in self.all_sites if site.status != "withdrawn")
        return self.plans["sites"]

    @cached_property
    def main_prefixes(self) -> frozenset[str]:
        """Prefixes of the stacks whose positions are those of the tokens."""
        found = {stack.prefix for stack, _ in self.resolved.stacks}
        if "decoder." in found:
            return frozenset({"decoder.", ""})
        return (
            frozenset({"text.", ""}) if "text." in found else frozenset({"", *(found if found == {"vision."} else ())})
        )

    @cached_property
    def is_encoder_decoder(self) -> bool:
        """Does a decoder stand beside an encoder, each with tokens of its own?"""
        return {"encoder.", "decoder."} <= {stack.prefix for stack, _ in self.resolved.stacks}

    @cached_property
    def compile_places(self) -> tuple[nn.Module, ...]:
        """Where people compile: the model itself and its blocks."""
        return (self.module, *(block.module for _, blocks in self.resolved.stacks for block in blocks))

    @property
    def all_sites(self) -> SiteTable:
        """Every site of the table, withdrawn ones included."""
        base = "inferred" if self.inferred else "table"
        return SiteTable(
            Site(p.name, p.shape, p.meaning, p.path, *self.status.get(p.name, (base, "")))
            for p in self.resolved.points.values()
        )

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The repeated blocks of the main stack: the one whose stream reaches the output."""
        stacks = self.resolved.stacks
        return max(stacks, key=lambda s: (s[0].prefix in ("", "decoder.", "text."), len(s[1])))[1] if stacks else ()

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    def layer_of(self, site: str) -> int:
        """Which of `blocks` a site lies in. Raises: SiteError for one that lies in none."""
        found = next((i for i, b in enumerate(self.blocks) if str(site).startswith(f"{b.name}.")), None)
        if found is None:
            raise SiteError(f"{site} lies in no layer; layers are {self.blocks[0].name} to {self.blocks[-1].name}.")
        return found

    @property
    def config(self) -> Any:
        return getattr(self.module, "config", None)

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        return next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)

    @property
    def fingerprint(self) -> str:
        """A short name for exactly these weights: changes when any sampled weight does."""
        from inscape.models.fingerprint import fingerprint

        found = fingerprint(self.module)
        self.been.add(found)
        return found

    def check_meant(self, fingerprint: str, what: str = "this direction is") -> None:
        """Refuse what was found in another model: a vector of the right width means nothing there.

        An empty fingerprint is meant for any. Cost: milliseconds, once for each fingerprint.
        """
        if not fingerprint or fingerprint in self.been or fingerprint == self.fingerprint:
            return
        raise ModelError(
            f"{what} for the model {fingerprint}, this one is {self.fingerprint}.\n"
            "  fit it on this model, or carry it over with `steer.transfer`; if it means the same here (a tuned or "
            "merged\n  model, another dtype), say so: direction.meant_for(model)."
        )

    def check_ready(self) -> None:
        """Raises ModelError when the weights are not there to be run."""
        if self.ready:
            return
        meta = next((n for n, p in self.module.named_parameters() if p.device.type == "meta"), None)
        if meta is not None and not hasattr(self.module, "hf_device_map"):
            raise ModelError(
                f"this model's weights are on the meta device ({meta}): it has shapes but no values.\n"
                "  load the weights first; model.sites works without them."
            )
        self.ready = True

    def verify(self, inputs: Any = None, **options: Any) -> Any:
        """Prove every offered name on this very model; what fails is withdrawn. See `engine.verify.verify`."""
        from inscape.engine.verify import verify

        return verify(self, inputs, **options)

    def __repr__(self) -> str:
        n = sum(p.numel() for p in self.module.parameters())
        return (
            f"Model({self.source or type(self.module).__name__}: {self.family.name}, {self.n_layers} layers, "
            f"{n / 1e6:,.1f} M parameters, {str(self.dtype).removeprefix('torch.')}, {self.device})"
        )
