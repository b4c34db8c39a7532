"""How long does linear CKA of all 171 pairs of 18 layers take, 4,000 items of 640 units, and how right is it?

Baseline: the NumPy feature-space function of Kornblith et al. (their notebook), pair by pair, on the same float32 rows.
Checked before anything is timed: every value of both spaces against float64 (error below 1e-6), biased and debiased,
also with a massive unit and a large mean; and that the memory of the stream does not grow with the rows.
"""

import numpy as np
import torch

from bench.common import SEED, paired, resident, rounds, set_up, write
from inscape.read.similarity import MutualKNN, cka_matrix, map_layers, similarity_matrix
from inscape.store.statistics import Covariance, Cross

LAYERS, ITEMS, UNITS = 18, 4000, 640
TARGETS = {"sample": 1.2, "feature": 2.2}  # seconds, from the measured prototypes


def layers(items: int = ITEMS, n: int = LAYERS, d: int = UNITS) -> list[torch.Tensor]:
    """A walk: each layer is the one before it and something new; one massive unit, and a large mean, as in Gemma."""
    draw = torch.Generator().manual_seed(SEED)
    x = torch.randn(items, d, generator=draw)
    found = []
    for _ in range(n):
        x = x + 0.4 * torch.randn(items, d, generator=draw)
        own = x.clone()
        own[:, 7] = 60 * own[:, 7] + 800
        found.append(own)
    return found


def kornblith(x: np.ndarray, y: np.ndarray) -> float:
    """feature_space_linear_cka of Kornblith et al. 2019, biased."""
    x, y = x - x.mean(0, keepdims=True), y - y.mean(0, keepdims=True)
    between = np.linalg.norm(x.T @ y) ** 2
    return float(between / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def all_pairs(rows: list[np.ndarray]) -> np.ndarray:
    out = np.eye(len(rows))
    for i in range(len(rows)):
        for j in range(i, len(rows)):
            out[i, j] = out[j, i] = kornblith(rows[i], rows[j])
    return out


def exact(rows: list[torch.Tensor], debiased: bool) -> torch.Tensor:
    """By the statistics of the store, in float64; debiased by the sums of the definition."""
    n, k = len(rows[0]), len(rows)
    wide = [r.double() - r.double().mean(0) for r in rows]
    own = [Covariance().update(r) for r in wide]
    inner = torch.empty(k, k, dtype=torch.float64)
    for i in range(k):
        for j in range(i, k):
            scatter = own[i].scatter_ if i == j else Cross().update(wide[i], wide[j]).scatter_
            inner[i, j] = inner[j, i] = scatter.square().sum()
    if debiased:
        size = torch.stack([r.square().sum(1) for r in wide])
        inner -= n / (n - 2) * size @ size.T
        inner += size.sum(1)[:, None] * size.sum(1) / ((n - 1) * (n - 2))
    return inner / (inner.diagonal()[:, None] * inner.diagonal()).sqrt()


def check(rows: list[torch.Tensor]) -> dict[str, float]:
    """Largest errors against float64. Raises AssertionError above 1e-6."""
    errors = {}
    for debiased in (False, True):
        known = exact(rows, debiased)
        for space in ("sample", "feature"):
            error = float((cka_matrix(rows, debiased=debiased, space=space, control=None).values - known).abs().max())
            errors[f"{space}{', debiased' if debiased else ''}"] = error
            assert error < 1e-6, f"{space}, debiased={debiased}: error {error:.1e}"
    plain = torch.from_numpy(all_pairs([r.numpy() for r in rows]))
    errors["Kornblith et al. in NumPy"] = float((plain - exact(rows, False)).abs().max())
    for name, error in errors.items():
        print(f"  largest error against float64: {name}: {error:.1e}")
    return errors


class Repeated:
    """Rows that are made when they are read: long without being held."""

    def __init__(self, rows: torch.Tensor, times: int) -> None:
        self.rows, self.shape, self.dtype = rows, (len(rows) * times, rows.shape[1]), rows.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice) -> torch.Tensor:
        at = torch.arange(*index.indices(len(self))) % len(self.rows)
        return self.rows[at]


def memory(rows: list[torch.Tensor]) -> dict[str, float]:
    """MB on top of the rows, for as many rows and for five times as many. Raises when it grows with them."""
    found = {}
    for times in (5, 10):  # both beyond the rows that are added up in float32 alone
        long = {str(i): Repeated(r, times) for i, r in enumerate(rows)}
        held: list[int] = []
        before = resident()
        cka_matrix(long, space="feature", progress=lambda *_, held=held: held.append(resident()))
        found[f"{times * len(rows[0]):,} rows"] = round((max(held) - before) / 1e6)
    print(f"  memory of the stream on top of the rows, MB: {found}")
    low, high = found.values()
    assert high < 1.25 * low + 60, found
    return found


def main() -> None:
    set_up()
    rows = layers()
    errors = check(rows)
    held = memory(rows)
    arrays = [r.numpy() for r in rows]
    cases = {
        "sample space": (lambda: cka_matrix(rows, debiased=False, space="sample", control=None), 0.2),
        "stream": (lambda: cka_matrix(rows, debiased=False, space="feature", control=None), 0.37),
        "sample space, debiased with p": (lambda: cka_matrix(rows, space="sample"), None),
        "stream, debiased with p": (lambda: cka_matrix(rows, space="feature"), None),
    }
    size = {"layers": len(rows), "rows": len(rows[0]), "units": rows[0].shape[1], "dtype": "float32"}
    found = paired("linear CKA of all pairs", lambda: all_pairs(arrays), cases, samples=rounds(5), warm_up=1, **size)
    for line, limit in zip(found, TARGETS.values(), strict=False):
        line["seconds_to_reach"] = limit
        said = "met" if line["median_s"] <= limit else "MISSED"
        print(f"  {line['case']}: {line['median_s']:.2f} s (to reach: {limit} s; {said})")
    few = {str(i): r[:1000] for i, r in enumerate(rows)}
    found += paired(
        "others, 1,000 items", lambda: all_pairs([r.numpy() for r in few.values()]),
        {
            "mutual 10-NN, 100 shuffles": (lambda: similarity_matrix(few, measure=MutualKNN()), None),
            "maps between all layers, shuffled beside": (lambda: map_layers(few), None),
        },
        samples=rounds(5), warm_up=1, **{**size, "rows": 1000},
    )  # fmt: skip
    write("similarity", found, errors=errors, stream_mb=held)


if __name__ == "__main__":
    main()
