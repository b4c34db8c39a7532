"""Centred kernel alignment of two sites, or of all pairs of sites at once, with what shuffled pairing would give."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from inscape.core.errors import InputError
from inscape.core.progress import Progress
from inscape.core.readout import Labels, Rows, check_control, units_of
from inscape.read.similarity.columns import columns_of, same_rows, together
from inscape.read.similarity.feature_space import floats_of, streamed_sums
from inscape.read.similarity.resampled import resampled_cka
from inscape.read.similarity.result import Similarity, SimilarityMatrix
from inscape.read.similarity.sample_space import centred, linear_sums, rbf_sums

BUDGET = 2 << 30


def cka(
    x: Rows,
    y: Rows,
    *,
    kernel: str = "linear",
    debiased: bool = True,
    fraction: float = 1.0,
    control: str | None = "shuffle",
    resamples: int = 0,
    by: Labels | None = None,
    level: float = 0.95,
    space: str | None = None,
    budget_bytes: int = BUDGET,
    device: Any = None,
    seed: int = 0,
    progress: Progress = None,
) -> Similarity:
    """CKA of two sites; all as in `cka_matrix`, whose only pair this is."""
    found = cka_matrix(
        {"x": x}, {"y": y}, kernel=kernel, debiased=debiased, fraction=fraction, control=control, resamples=resamples,
        by=by, level=level, space=space, budget_bytes=budget_bytes, device=device, seed=seed, progress=progress,
    )  # fmt: skip
    return found["x", "y"]


def cka_matrix(
    sites: Any,
    against: Any = None,
    *,
    names: str | Sequence[str] | None = None,
    kernel: str = "linear",
    debiased: bool = True,
    fraction: float = 1.0,
    control: str | None = "shuffle",
    resamples: int = 0,
    by: Labels | None = None,
    level: float = 0.95,
    space: str | None = None,
    budget_bytes: int = BUDGET,
    device: Any = None,
    seed: int = 0,
    progress: Progress = None,
) -> SimilarityMatrix:
    """CKA of all pairs of sites: `HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))`, K and L the items' kernels at two sites.

    1 when the distances between items are proportional, blind to rotation, scale and translation, not to a stretch of
    single directions: with a linear kernel it is about the directions of largest variance, and one massive dimension
    can be all of it. Choose `cca` where directions are to count alike, `map_layers` to ask what of B follows from A.
    debiased: HSIC without the diagonal's bias; of unrelated sites it is 0. The plain one is
    `sqrt(PR_x PR_y) / (n - 1)` there (PR: participation ratio), which is near 1 for fewer items than dimensions.
    kernel: "rbf" is `exp(-|x - y|^2 / 2 s^2)`, s = fraction x the median distance.

    sites, against: a store, a trace, {name: rows}, a list, [layer, n, d]; all pairs of the first when the second is
    left out. names: patterns that choose among `sites`.
    control: "shuffle" gives mean and deviation over all pairings of the items (exactly) and p (by a gamma law with the
    skew that the spectra imply; none below 1e-6). Both take rows to be independent items: not tokens of one prompt.
    resamples: with a number, intervals: items (groups of `by`) are drawn again as weights, an item never paired with
    its own copy. space: "sample" costs about n^2/2 sum d, "feature" n sum d_i d_j over pairs and reads a store in one
    pass; left out, the one with fewer operations whose rows or products fit budget_bytes. Sums in float64 of float32
    products: the error is below 1e-6.
    Raises: ShapeError for sites of different items; InputError for a site that does not vary, too few items, and
    intervals or an RBF kernel of more rows than fit.
    Source: Kornblith et al. 2019, arXiv:1905.00414; debiased as Nguyen et al. 2021, arXiv:2010.15327, by Song et al.
    2012; shuffled moments by Kazi-Aoual et al. 1995, which for the debiased are 0 and sqrt(2 / n(n-3)).
    """
    check_control(control, name="CKA")
    if kernel not in ("linear", "rbf") or space not in ("sample", "feature", None) or not fraction > 0:
        raise InputError(
            f"kernel={kernel!r}, space={space!r}, fraction={fraction}: there are 'linear' and 'rbf'; 'sample' and "
            "'feature'; fractions above 0."
        )
    if resamples and not debiased:
        raise InputError(
            "an interval is given for the debiased CKA: drawing items again adds the bias of the plain one once more."
        )
    mine = columns_of(sites, names)
    theirs = columns_of(against) if against is not None else {}
    n = same_rows(mine, theirs)
    columns: dict[str, Rows] = {
        f"{side}{name}": x for side, g in (("", mine), ("against ", theirs)) for name, x in g.items()
    }
    labels = tuple(columns)
    widths = [units_of(x, name) for name, x in columns.items()]
    space = space or _cheaper(n, widths, kernel, bool(resamples), budget_bytes)
    if (resamples or kernel == "rbf") and space == "feature":
        raise InputError("intervals and RBF kernels need the kernels themselves: leave space= out, or take 'sample'.")
    low = high = None
    if space == "feature":
        sums = streamed_sums(
            columns, cubes=control is not None, budget_bytes=budget_bytes, device=device, progress=progress
        )
    else:
        held = _held(columns, n, widths, budget_bytes, device)
        sums = (
            linear_sums(held, cubes=control is not None, progress=progress)
            if kernel == "linear"
            else rbf_sums(held, fraction, cubes=control is not None, progress=progress)
        )
        if resamples:
            low, high = resampled_cka(held, kernel, fraction, resamples, by, level, seed, progress)
    values = sums.cka(debiased, labels)
    expected = deviation = p = None
    if control is not None:
        (expected, deviation), p = sums.shuffled(debiased), sums.p(debiased, labels)
    a = slice(0, len(mine))
    b = slice(len(mine), None) if theirs else a
    cut = [None if v is None else v[a, b].cpu() for v in (values, expected, deviation, p, low, high)]
    assert cut[0] is not None
    measure = f"{'' if debiased else 'biased '}{kernel} CKA"
    return SimilarityMatrix(
        cut[0], tuple(mine), tuple(theirs) or tuple(mine), measure, n, *cut[1:], level=level, space=space
    )


def _cheaper(n: int, widths: Sequence[int], kernel: str, whole: bool, budget: int) -> Literal["sample", "feature"]:
    """The space with fewer operations, of those that fit."""
    if kernel != "linear" or whole:
        return "sample"
    k = len(widths)
    fits = 4 * n * sum(widths) <= budget
    return "sample" if fits and n * n * (sum(widths) + k * k) / 2 <= n * floats_of(widths) else "feature"


def _held(columns: Mapping[str, Rows], n: int, widths: Sequence[int], budget: int, device: Any) -> list[torch.Tensor]:
    """All rows of all columns, centred, float32."""
    if 4 * n * sum(widths) > budget:
        raise InputError(
            f"{n:,} rows of {sum(widths):,} units take {4 * n * sum(widths) / 2**30:,.1f} GiB, above the budget.\n"
            "  take some of the rows (core.readout.picked), or a linear kernel without resamples, which is streamed."
        )
    out = []
    for name, x in columns.items():  # one column after the other: its float64 copy is the only one
        out.append(centred(torch.cat([parts[0] for _, parts in together({name: x}, dtype=_wide(x), device=device)])))
    return out


def _wide(x: Rows) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
