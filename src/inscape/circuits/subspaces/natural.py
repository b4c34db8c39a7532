"""In which directions real inputs vary at a site, and which of these are read: what a patch uses and inputs do not."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def dormant_share(
    subspace: Float[Tensor, "d k"], moved: Float[Tensor, "row d"], slope: Float[Tensor, "row d"],
    natural: Float[Tensor, "n d"], *, kept: float = 0.99,
) -> tuple[float, float, int]:  # fmt: skip
    """The share of an exchange's linear effect that runs through directions which real inputs do not use.

    With P the projector on the principal components that hold `kept` of the variance of `natural`, and m the change
    V V' moved: sum |slope . (m - P m)| over sum |slope . P m| + |slope . (m - P m)|. Returns it, the same of the whole
    change `moved`, and the number of components. Few rows of `natural` make both larger: compare them.
    """
    basis = torch.linalg.qr(subspace.double()).Q
    centred = natural - natural.mean(0)
    _, s, vh = torch.linalg.svd(centred, full_matrices=False)
    power = s.square().cumsum(0) / s.square().sum()
    n = int((power < kept - 1e-12).sum()) + 1
    used = vh[:n].T

    def share(change: Tensor) -> float:
        inside = change @ used @ used.T
        through = (slope * inside).sum(1).abs().sum()
        beside = (slope * (change - inside)).sum(1).abs().sum()
        return float(beside / (through + beside)) if float(through + beside) > 0 else 0.0

    return share(moved @ basis @ basis.T), share(moved), n


def axis_report(
    values: Float[Tensor, "n d"], reader: Float[Tensor, "out d"], axes: Float[Tensor, "d k"] | None = None,
    *, tol: float = 1e-6,
) -> list[dict[str, Any]]:  # fmt: skip
    """For each axis (the site's own when left out): does it vary on real inputs (active), does the reader see it?"""
    basis = torch.eye(values.shape[1], dtype=torch.float64) if axes is None else axes.double()
    spread = (values.double() @ basis).std(0)
    seen = (reader.double() @ basis).norm(dim=0)
    return [
        {
            "axis": i,
            "spread": float(spread[i]),
            "seen": float(seen[i]),
            "active": bool(spread[i] > tol * spread.max()),
            "connected": bool(seen[i] > tol * seen.max()),
        }
        for i in range(basis.shape[1])
    ]
