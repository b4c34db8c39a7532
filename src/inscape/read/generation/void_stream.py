"""Voids while a model generates: lengths alone, one number a layer and token."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.step import Step
from inscape.read.generation.voids import VoidMap, voids_of_norms


@dataclass(eq=False)
class VoidStream:
    """Watches a generation for voids: `ins.generate(model, prompts, watch=voids := VoidStream())`, then `voids.map`.

    The same numbers as `void_map` on the finished text, for every token that was fed (the last new one is chosen and
    not fed). size is NaN: only lengths are seen. Where a model rescales its stream between blocks (RWKV), use
    `void_map`, which looks at both ends of every block. Skip while generating with `skip_voids`.
    Cost: one norm of all layers a step; memory: a number a layer and token.
    Parameters: alpha, see `void_map`; layers: the names of a stack, with * for the number.
    """

    alpha: float = 0.8
    layers: str = "layers.*"
    names: tuple[str, ...] = ()
    _norms: list[Tensor] = field(default_factory=list, repr=False)
    _live: list[Tensor] = field(default_factory=list, repr=False)
    _prompt: int = 0

    @property
    def sites(self) -> Sequence[str]:
        return (self.layers.replace("*", "0") + ".resid_pre", f"{self.layers}.resid_post")

    def begin(self, sites: tuple[str, ...]) -> None:
        self.names = tuple(s.removesuffix(".resid_post") for s in sites if s.endswith(".resid_post"))
        self._norms, self._live, self._prompt = [], [], 0

    def keep(self, x: Tensor, step: Step) -> Tensor:
        return x if x.shape[1] == 1 else x.float().norm(dim=-1, keepdim=True)

    def see(self, values: Sequence[Tensor], step: Step, live: Bool[Tensor, "batch pos"]) -> None:
        stacked = torch.stack(tuple(values))
        self._norms.append(stacked.float().norm(dim=-1) if stacked.shape[-1] > 1 else stacked[..., 0])
        self._live.append(live)
        self._prompt = self._prompt or step.prompt

    @property
    def map(self) -> VoidMap:
        """The voids so far. Raises: InputError before anything was generated."""
        if not self._norms:
            raise InputError("nothing was watched yet.\n  pass this to ins.generate(..., watch=...).")
        norm, mask = torch.cat([n.cpu() for n in self._norms], -1), torch.cat(self._live, 1)
        void, change, threshold = voids_of_norms(norm, self.alpha)
        unknown = torch.full_like(change, float("nan"))
        return VoidMap(
            void & mask, change, norm, threshold, unknown, mask, min(self._prompt, mask.shape[1]), self.alpha, "trace",
            self.names,
        )  # fmt: skip
