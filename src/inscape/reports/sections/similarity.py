"""Which layers hold the same, and in how many directions: similarity of all layers, and effective dimension."""

import torch
from torch import Tensor

from inscape.core.trace import Trace
from inscape.engine.forward import run
from inscape.models.model import Model
from inscape.read.geometry.spectrum import Spectrum, spectrum
from inscape.read.similarity import SimilarityMatrix, cka_matrix
from inscape.reports.material import Material
from inscape.reports.words import layer_axis, layer_labels, number_of
from inscape.view.charts import heatmap, lines
from inscape.view.figure import Figure, Section

TITLE = "Which layers hold the same"
MOST = 2000  # positions that are compared
LEAST = 24


def section(model: Model, material: Material) -> Section:
    """Linear CKA of all layers, the same with every unit at its own scale, and how many directions each layer uses."""
    names = [f"{b.name}.resid_post" for b in model.blocks if f"{b.name}.resid_post" in model.sites]
    if len(names) < 2:
        return Section(TITLE, skipped="fewer than two layers of this model have a stream to compare.")
    rows = _rows(model, material, names)
    n = min(map(len, rows.values()))
    if n < LEAST or len({len(v) for v in rows.values()}) > 1:
        return Section(
            TITLE, skipped=f"{n} positions that all layers share are too few to compare layers (below {LEAST})."
        )
    plain = cka_matrix(rows)
    scaled = cka_matrix({k: _scaled(v) for k, v in rows.items()})
    spectra = [spectrum(v, seed=material.seed) for v in rows.values()]
    says = (
        f"{n:,} positions{', the first of each input left out' if material.skip_first else ''}; CKA without the bias "
        "of few items. Positions of one text are no independent items, so the shuffled line is a floor and no test."
    )
    call = (
        "from inscape.read.similarity import cka_matrix\ncka_matrix(ins.run(model, texts, read='layers.*.resid_post'))"
    )
    return Section(TITLE, (_map(plain, call), _last(plain, scaled, call), _dimension(names, spectra)), says=says)


def _rows(model: Model, material: Material, names: list[str]) -> dict[str, Tensor]:
    """Real positions of all inputs at every layer, the first of each left out where it is an attention sink."""
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for one in material.runs:
        trace: Trace = run(model, one, read=names)
        for name in names:
            value = trace[name].detach().flatten(2) if trace[name].ndim > 2 else trace[name].detach()[:, None]
            mask = trace.mask
            if mask is None or mask.shape != value.shape[:2]:
                mask = torch.ones(value.shape[:2], dtype=torch.bool)
            keep = mask.bool() & (mask.long().cumsum(1) > 1) if material.skip_first else mask.bool()
            found[name].append(value[keep.to(value.device)].float().cpu())
    whole = {name: torch.cat(parts) for name, parts in found.items()}
    n = len(next(iter(whole.values())))
    if n <= MOST:
        return whole
    spread = torch.linspace(0, n - 1, MOST).long()
    return {name: v[spread] if len(v) == n else v for name, v in whole.items()}


def _scaled(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / x.std(0).clamp(min=1e-6 * float(x.std(0).max()) + 1e-30)


def _floor(made: SimilarityMatrix) -> float:
    assert made.deviation is not None
    return 2 * float(made.deviation[0, 0])


def _map(made: SimilarityMatrix, call: str) -> Figure:
    labels = layer_labels(made.rows)
    near = made.values.diagonal(1)
    least = int(near.argmin())
    spec = heatmap(
        made.values.clamp(min=0), labels, labels, value_title="linear CKA", x_title="layer", y_title="layer",
        rows_up=True, numbers=False, width=420, height=420,
    )  # fmt: skip
    return Figure(
        "vega",
        spec,
        f"Neighbouring layers have a CKA of {float(near.mean()):.2f} on average; the largest step is from "
        f"{number_of(made.rows[least])} to {number_of(made.rows[least + 1])} ({float(near[least]):.2f}).",
        control=f"positions of one layer paired at random with those of the other: 0 on average, and two deviations "
        f"{_floor(made):.3f}, for every pair of layers.",
        call=call + ".values",
    )


def _last(plain: SimilarityMatrix, scaled: SimilarityMatrix, call: str) -> Figure:
    one, two = plain.values[:, -1], scaled.values[:, -1]
    apart = (one - two).abs()[:-1]
    most = int(apart.argmax())
    spec = lines(
        {"as they are": one, "every unit at its own scale": two},
        x=layer_axis(plain.rows),
        control={"shuffled positions (mean + 2 deviations)": [_floor(plain)] * len(one)},
        y_title="CKA with the last layer",
        zero=True,
    )
    return Figure(
        "vega",
        spec,
        f"As they are and with every unit at its own scale, layers differ by up to {float(apart[most]):.2f} in how "
        f"alike they are to the last ({number_of(plain.rows[most])}): between lies the work of a few large units.",
        control=f"positions paired at random: mean 0, two deviations {_floor(plain):.3f}.",
        call=call + ".values[:, -1]",
    )


def _dimension(names: list[str], spectra: list[Spectrum]) -> Figure:
    ratio = [s.participation_ratio for s in spectra]
    entropy = [s.entropy_rank for s in spectra]
    shuffled = [s.shuffled for s in spectra if s.shuffled is not None]
    apart, chance = [s.participation_ratio for s in shuffled], [s.entropy_rank for s in shuffled]
    low = min(range(len(ratio)), key=lambda i: ratio[i])
    spec = lines(
        {"participation ratio": ratio, "entropy rank": entropy},
        x=layer_axis(names),
        control={"participation ratio, units shuffled apart": apart, "entropy rank, units shuffled apart": chance},
        scale="log",
        y_title="effective number of directions",
    )
    return Figure(
        "vega",
        spec,
        f"By their variances the layers use between {min(ratio):.1f} and {max(ratio):.1f} directions (participation "
        f"ratio), fewest in {number_of(names[low])}; the entropy rank, which counts small ones for more, goes from "
        f"{min(entropy):.0f} to {max(entropy):.0f}.",
        control="each unit's values dealt to the positions anew: no correlation is left, and what keeps the number "
        f"small is units of unlike size alone ({min(apart):.1f} to {max(apart):.1f}).",
        call="from inscape.read.geometry.spectrum import spectrum\nspectrum(trace[site][trace.mask])",
    )
