"""What to store of each row: all of it, its largest units, a random projection, or its length."""

from dataclasses import dataclass

import torch
from torch import Tensor

from inscape.core.errors import InputError


@dataclass(frozen=True)
class TopK:
    """The k units of largest magnitude of each row: stores `<name>` (values) and `<name>.units` (their numbers)."""

    k: int

    def __str__(self) -> str:
        return f"top {self.k} by magnitude"


@dataclass(frozen=True)
class Project:
    """`x R`, with R a seeded Gaussian d_in x d of variance 1/d: inner products survive in expectation (Johnson &
    Lindenstrauss 1984), at d numbers a row."""

    d: int
    seed: int = 0

    def __str__(self) -> str:
        return f"random projection to {self.d}, seed {self.seed}"

    def matrix(self, d_in: int, device: torch.device) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return (torch.randn(d_in, self.d, generator=generator) / self.d**0.5).to(device)


@dataclass(frozen=True)
class Norm:
    """The Euclidean length of each row."""

    def __str__(self) -> str:
        return "norm"


Keep = TopK | Project | Norm | None


def top_k(k: int) -> TopK:
    """Store the k units of largest magnitude a row, with their numbers: for wide, sparse sites such as `mlp.act`."""
    if k < 1:
        raise InputError(f"top_k({k}): at least one unit has to be kept.")
    return TopK(k)


def project(d: int, seed: int = 0) -> Project:
    """Store a random projection to d numbers a row: keeps distances, forgets directions. Fixed by its seed."""
    if d < 1:
        raise InputError(f"project({d}): at least one number has to be kept.")
    return Project(d, seed)


def checked(keep: object) -> Keep:
    """What a user wrote for one site. Raises InputError for anything else."""
    if keep is None or isinstance(keep, (TopK, Project, Norm)):
        return keep
    if keep == "norm":
        return Norm()
    raise InputError(
        f"{keep!r} says nothing about what to store of a row; it can be ins.top_k(k), ins.project(d, seed) or 'norm'.\n"
        "  which rows there are is said once for all sites, by reduce=."
    )


def applied(keep: Keep, name: str, rows: Tensor, matrices: dict[str, Tensor]) -> dict[str, Tensor]:
    """The columns that rows [n, ...] become; matrices holds the projections already made."""
    if keep is None:
        return {name: rows}
    if isinstance(keep, Norm):
        return {name: torch.linalg.vector_norm(rows.float(), dim=-1)}
    if isinstance(keep, Project):
        if name not in matrices:
            matrices[name] = keep.matrix(rows.shape[-1], rows.device)
        return {name: rows.float() @ matrices[name]}
    if keep.k > rows.shape[-1]:
        raise InputError(f"top_k({keep.k}) at {name}: a row has {rows.shape[-1]} units.")
    units = rows.abs().topk(keep.k, -1, sorted=True).indices
    return {name: rows.gather(-1, units), f"{name}.units": units.to(torch.int32)}
