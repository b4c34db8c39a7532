"""What speaks for and against each site of one model: equations that hold or do not, collected by the proofs."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from inscape.core.site import Site
from inscape.models.family import Stack
from inscape.models.model import Model
from inscape.models.points import Block, Point


@dataclass(frozen=True)
class Claim:
    """One piece of evidence on a site: `holds` or not, in a sentence, with its relative error."""

    holds: bool
    sentence: str
    error: float


@dataclass(eq=False)
class Evidence:
    """The recorded values of one forward pass and what was concluded from them.

    tolerance: largest relative error that still counts as equal, from the dtype unless given. notes: why a site stays
    unproven. read_only: sites whose values are right but where an edit does not go on along the stream.
    """

    model: Model
    inputs: Any
    values: dict[str, Tensor]
    fired: dict[str, int]
    output: Tensor | None
    tolerance: float
    claims: dict[str, list[Claim]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    read_only: set[str] = field(default_factory=set)

    def value(self, point: Point | None) -> Tensor | None:
        return self.values.get(point.name) if point is not None else None

    def of(self, block: Block, short: str) -> Tensor | None:
        """The value of a site of this block, when it is offered and fired."""
        point = block.points.get(short)
        return None if point is None or self.status(point.name) == "withdrawn" else self.values.get(point.name)

    def hold(self, site: str, sentence: str, error: float = 0.0) -> None:
        self.claims.setdefault(site, []).append(Claim(True, sentence, error))

    def deny(self, site: str, sentence: str, error: float = float("inf")) -> None:
        self.claims.setdefault(site, []).append(Claim(False, sentence, error))

    def judge(self, site: str, sentence: str, error: float) -> bool:
        """Hold or deny by the error."""
        ok = error <= self.tolerance
        (self.hold if ok else self.deny)(
            site, sentence if ok else f"not true here: {sentence} (off by {error:.1e})", error
        )
        return ok

    def status(self, site: str) -> str:
        claims = self.claims.get(site, [])
        if any(not c.holds for c in claims):
            return "withdrawn"
        return "proven" if claims else "unproven"

    def proof(self, site: str) -> tuple[str, float]:
        """The sentence and the error to show: the first denial, else all that holds."""
        claims = self.claims.get(site, [])
        denied = next((c for c in claims if not c.holds), None)
        if denied is not None:
            return denied.sentence, denied.error
        text = "; ".join(dict.fromkeys(c.sentence for c in claims)) or self.notes.get(
            site, "it fires; no equation is known for it"
        )
        return text, max((c.error for c in claims), default=float("nan"))


def parts_of(ev: Evidence, stack: Stack, block: Block) -> list[str]:
    """Short names of what the block adds to its stream, in the order in which it does."""
    order = ("ssm_out", "attn_out", "cross_out", "mlp_out")
    twin = twin_of(block)
    return [n for n in order if n in block.points and block.points[n].name in ev.values and n != twin]


def twin_of(block: Block) -> str | None:
    """In a hybrid whose attention and recurrence share one name: the part which this block has not."""
    attn, ssm = block.points.get("attn_out"), block.points.get("ssm_out")
    if attn is None or ssm is None or attn.path != ssm.path:
        return None
    return "ssm_out" if "attn.z" in block.points else "attn_out"


def gap(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the largest entry of b; infinite for other shapes and values not finite."""
    if a.shape != b.shape or not b.numel():
        return float("inf")
    a, b = a.double(), b.double()
    error = float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))
    return error if error == error else float("inf")


def sum_gap(total: Tensor, start: Tensor, parts: list[Tensor]) -> float:
    """How far `start` + parts is from `total`, per row relative to the smallest part.

    A part far smaller than the stream drowns in rounding: what rounding of the stream itself explains is taken off,
    and a row counts only where that is small beside the smallest part. Infinite when no row can tell.
    """
    if any(p.shape != total.shape for p in (start, *parts)):
        return float("inf")
    wide = [x.double() for x in (total, start, *parts)]
    norm = [x.norm(dim=-1) for x in wide]
    small = torch.stack(norm[2:]).amin(0) if parts else norm[1]
    rounding = 4 * (len(parts) + 1) * torch.finfo(total.dtype).eps * torch.stack(norm).amax(0)
    off = (wide[0] - sum(wide[1:])).norm(dim=-1)
    tells = rounding < 0.1 * small
    if not bool(tells.any()):
        return float("inf")
    error = float((((off - rounding).clamp(min=0)) / small)[tells].max())
    return error if error == error else float("inf")


def tolerance_for(dtype: torch.dtype) -> float:
    """Largest relative error that rounding alone explains."""
    return {torch.float64: 1e-9, torch.float32: 2e-4, torch.float16: 2e-2, torch.bfloat16: 6e-2}.get(dtype, 2e-4)


def site_of(ev: Evidence, name: str) -> Site:
    return ev.model.all_sites[name]
