"""How well gradients rank places, beside exact edits of the same places on Gemma 3 270M: rows of `bench/sweep.py`.

Compared by rank over all places that can have an effect (from the first token that differs on), with the null of
shuffled places; and the share of the tenth with the largest exact effect that is among the tenth told.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import inscape as ins
from bench.common import Row
from inscape.circuits.attribution.first_order import gradient_times_activation
from inscape.circuits.attribution.integrated import integrated_gradients
from inscape.circuits.attribution.patching import attribution_patching
from inscape.circuits.attribution.relevance import relevance

STEPS = 8  # of integrated gradients


def agreement(model: "ins.Model", clean: str, corrupted: str, metric: Any) -> list[Row]:
    """Every estimate beside the exact numbers it stands for."""
    one, two = (model.tokenizer(t)["input_ids"] for t in (clean, corrupted))
    first = next(i for i, (a, b) in enumerate(zip(one, two, strict=True)) if a != b)
    live = list(range(first, len(two)))
    kinds: dict[str, dict[str, Any]] = {
        "resid_post": {"sites": "layers.*.resid_post", "positions": live},
        "mlp_out": {"sites": "layers.*.mlp_out", "positions": live},
        "each head's z": {"sites": "layers.*.attn.z", "heads": "all", "positions": live},
    }
    rows = []
    for name, how in kinds.items():
        exact = ins.sweep(model, clean, corrupted, metric=metric, **how)
        rows.append(_row("attribution patching", name, attribution_patching(
            model, clean, corrupted, metric=metric, **how), exact))  # fmt: skip
        if "heads" not in how:
            told = _estimated(exact, lambda site: _integrated(model, clean, corrupted, metric, site), live)
            rows.append(_row(f"integrated gradients, {STEPS} steps a site", name, told, exact))
    for name in ("resid_post", "mlp_out"):
        exact = ins.sweep(model, corrupted, metric=metric, edit=ins.ablate, sites=f"layers.*.{name}")
        told = _estimated(exact, lambda site: _times_activation(model, corrupted, metric, site), range(len(two)))
        rows.append(_row("gradient x activation, of zero ablation", name, told, exact))
    return rows


def _integrated(model: "ins.Model", clean: str, corrupted: str, metric: Any, site: str) -> Tensor:
    """Each position's share of patching a whole site, [pos]."""
    there = ins.run(model, clean, read=site)
    found = integrated_gradients(model, corrupted, metric, site, baseline=there, steps=STEPS, tolerance=None)
    return -found.over("pos")[site][0]


def _times_activation(model: "ins.Model", text: str, metric: Any, site: str) -> Tensor:
    return -gradient_times_activation(model, text, metric, site).over("pos")[site][0]


def _estimated(exact: "ins.Grid", change: Callable[[str], Tensor], at: Any) -> "ins.Grid":
    """A grid of the same places: the base run's metric plus what was told of each."""
    told = torch.stack([change(site)[list(at)] for site in exact.sites])
    values = exact.base[0] + told
    return replace(exact, values=values, per_pair=values[None])


def _row(method: str, sites: str, told: "ins.Grid", exact: "ins.Grid") -> Row:
    found = relevance(told, exact)
    said = {"rank_correlation": float(found.rank), "p": found.p, "pearson": found.value, "top_tenth": found.top}
    cells = exact.values.numel()
    print(f"  {method}, {sites} ({cells} places): rank {float(found.rank):.2f} (p {found.p:.2g}), Pearson "
          f"{found.value:.2f}, {found.top:.0%} of the top tenth", flush=True)  # fmt: skip
    return {"title": "estimates beside exact edits", "case": method, "sites": sites, "places": cells, **said}
