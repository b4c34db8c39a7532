"""Samples as one vector a site, under whatever edits, and where asked for with gradients: what maps are fitted to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.errors import InputError, NotFiniteError
from inscape.engine.forward import run
from inscape.engine.planning import names_of, point_of
from inscape.engine.probe import evaluating
from inscape.models.model import Model
from inscape.steer.states import check_texts
from inscape.store.bucket import batches_of
from inscape.store.items import Item, items_of
from inscape.store.stacks import Stack, stack_of

POOLS = ("mean", "last", "max")


def sites_of(model: Model, patterns: Any) -> tuple[str, ...]:
    """Sites in forward order that have units. Raises: SiteError, InputError for scores between tokens or states."""
    sites = tuple(dict.fromkeys(names_of(model, patterns)))
    order = {name: i for i, name in enumerate(model.points)}
    for site in sites:
        axes = point_of(model, site).axes
        has_units = axes == IMAGE or axes == ("batch", "class") or (axes[1] == "pos" and len(axes) in (3, 4))
        if not has_units or axes[-1] in ("d_state", "part") or site.endswith("router.experts"):
            raise InputError(f"{site} has axes {' '.join(axes)}: there are no units there with one number a token.")
    return tuple(sorted(sites, key=lambda site: order.get(site, len(order))))


IMAGE = ("batch", "channel", "height", "width")


@dataclass(frozen=True, eq=False)
class Pooled:
    """Samples of one model, to be read at sites as one vector each.

    pool: "mean" over a sample's real tokens (or places of an image), "last" token, or "max". name: what messages call
    the samples. shapes: site to the shape of its units, known after the first reading.
    """

    model: Model
    items: list[Item]
    sites: tuple[str, ...]
    pool: str
    name: str
    batch_tokens: int = 4096
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, model: Model, samples: Any, sites: tuple[str, ...], pool: str, name: str, *, batch_tokens: int = 4096,
        max_length: int | None = None, at_least: int = 2,
    ) -> "Pooled":  # fmt: skip
        """Tokenised once. samples: texts, token ids, images, or the module's own arguments as one batch.

        Raises: InputError for fewer than `at_least`, for none that has tokens, for an unknown pool.
        """
        if pool not in POOLS:
            raise InputError(f"pool={pool!r} is none of {', '.join(map(repr, POOLS))}.")
        given = _rows(samples) if isinstance(samples, Mapping) else check_texts(samples, name)
        if len(given) < at_least:
            raise InputError(
                f"{name} has {len(given)} sample{'s' if len(given) != 1 else ''}: a distribution takes {at_least} at "
                "least, and some thirty to be worth fitting."
            )
        stack = stack_of(model, sites)
        items = items_of(model, given, max_length=max_length, with_target=stack.runs_decoder)
        made = cls(model, items, sites, pool, name, batch_tokens)
        if sum(len(b.members) for b in made._batches(range(len(items)))) < len(items):
            raise InputError(f"a sample of {name} has no tokens: leave it out.")
        return made

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def stack(self) -> Stack:
        return stack_of(self.model, self.sites)

    def states(
        self,
        edits: Sequence[Edit] = (),
        *,
        sites: Sequence[str] | None = None,
        rows: Sequence[int] | None = None,
        grad: bool = False,
    ) -> dict[str, Float[Tensor, "n units"]]:
        """One vector a sample and site, after the edits there, float32 or wider, in the order of `rows` (all).

        Raises: NotFiniteError.
        """
        rows = range(len(self)) if rows is None else rows
        wanted = list(self.sites if sites is None else sites)
        parts: dict[str, list[Tensor]] = {site: [] for site in wanted}
        order: list[int] = []
        with evaluating(self.model.module):
            for batch in self._batches(rows):
                trace = run(self.model, batch.inputs, read=wanted, edits=list(edits), output=False, grad=grad)
                order += batch.members
                for site in wanted:
                    parts[site].append(self._pooled(site, trace[site], batch.counted.mask))
        back = torch.tensor(order).argsort()
        found = {site: torch.cat(values)[back.to(values[0].device)] for site, values in parts.items()}
        for site, x in found.items():
            if not grad and not bool(torch.isfinite(x).all()):
                raise NotFiniteError(
                    f"{self.name}: {int((~torch.isfinite(x)).any(1).sum())} samples are not finite at {site}.\n"
                    "  open the model in a wider dtype, or weaken the edits."
                )
        return found

    def _batches(self, rows: Sequence[int]) -> list[Any]:
        items = [self.items[i] for i in rows]
        return batches_of(self.model, items, self.stack.counted, self.batch_tokens, 32)

    def _pooled(self, site: str, x: Tensor, mask: Tensor | None) -> Float[Tensor, "n units"]:
        if not x.is_floating_point():
            raise InputError(f"{site} holds {x.dtype}: its units have no scale.")
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        axes = point_of(self.model, site).axes
        if axes == IMAGE:
            self.shapes[site] = (x.shape[1], 1, 1)
            mask, x = None, x.flatten(2).transpose(1, 2)
            if self.pool == "last":
                raise InputError(f"pool='last': {site} is of images, which have no last place; take 'mean' or 'max'.")
        elif axes[-1] == "class":
            self.shapes[site] = (x.shape[1],)
            return x
        else:
            self.shapes[site] = tuple(x.shape[2:])
            x = x.flatten(2)
        if mask is None or mask.shape != x.shape[:2]:
            mask = torch.ones(x.shape[:2], dtype=torch.bool)
        mask = mask.to(x.device, torch.bool)[..., None]
        if self.pool == "last":
            columns = torch.arange(x.shape[1], device=x.device)
            return x[torch.arange(len(x), device=x.device), (mask[..., 0] * columns).amax(1)]
        if self.pool == "max":
            return x.masked_fill(~mask, -torch.inf).amax(1)
        return torch.where(mask, x, 0).sum(1) / mask.sum(1)


def _rows(batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The samples of a batch of the module's own arguments."""
    n = {len(x) for x in batch.values() if isinstance(x, Tensor)}
    if len(n) != 1:
        raise InputError(f"a batch of arguments has one row a sample; got {', '.join(map(str, batch))} of {n} rows.")
    return [{name: x[i] for name, x in batch.items() if isinstance(x, Tensor)} for i in range(*n)]
