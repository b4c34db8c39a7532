"""Output signatures whose distributions have nothing to do with the label, or are sharper for a yes."""

from typing import Any

import torch
from torch import Tensor

from bench.nothing_there.case import Case
from inscape.read.signatures import HEURISTICS, LOSNet, SignatureBaseline, Signatures, cross_validated, detect
from inscape.read.signatures.capturing import step_statistics


def drawn(seed: int, effect: float, n: int = 60, each: int = 1) -> tuple[Signatures, Tensor]:
    """Signatures of six steps over twenty tokens, and a yes or no; `each` in turn share it and how sharp they are."""
    g = torch.Generator().manual_seed(seed)
    document = torch.arange(n) // each
    yes = (torch.rand(n // each, generator=g) < 0.5)[document]
    sharp = 1 + effect * yes + (torch.rand(n // each, generator=g)[document] if each > 1 else 0)
    scores = torch.randn(n, 6, 20, generator=g) * sharp[:, None, None]
    came = torch.multinomial(scores.softmax(-1).reshape(-1, 20), 1, generator=g)[:, 0]
    flat = step_statistics(scores.reshape(-1, 20), came, 8)
    wide: dict[str, Any] = {name: value.reshape(n, 6, *value.shape[1:]) for name, value in flat.items()}
    wide["top"], wide["rank"] = wide["top"].half(), wide["rank"].int()
    return Signatures(**wide, mask=torch.ones(n, 6, dtype=torch.bool), tokens=came.reshape(n, 6).int(), n_vocab=20), yes


def of_detect(groups: str) -> Case:
    """A heuristic's area; groups: items of one document share much, and its label or not."""

    def case(seed: int, effect: float) -> float:
        x, yes = drawn(seed, effect)
        score = HEURISTICS["entropy"](x)
        if groups == "none":
            return detect(-score, yes, n=99, seed=seed).p
        g = torch.Generator().manual_seed(seed + 1)
        document = torch.arange(60) // 3
        if groups == "whole":
            yes = (torch.rand(20, generator=g) < 0.5)[document]
        score = torch.randn(20, generator=g)[document] + 0.5 * torch.randn(60, generator=g) + 2 * effect * yes
        return detect(score, yes, document, n=99, seed=seed).p

    return case


def of_readout(readout: object, each: int = 1) -> Case:
    """A readout cross-validated: what it detects in items it was not fitted on; each: items of a document."""

    def case(seed: int, effect: float) -> float:
        x, yes = drawn(seed, 2 * effect, 60 * each, each)
        groups = (torch.arange(len(yes)) // each).tolist() if each > 1 else None
        return cross_validated(readout, x, yes, groups, n_folds=3, n=59, seed=seed).p

    return case


CASES: dict[str, Case] = {
    "detect, area of a heuristic": of_detect("none"),
    "detect, items of documents with one label": of_detect("whole"),
    "detect, items of documents with several labels": of_detect("inside"),
    "SignatureBaseline, cross-validated": of_readout(SignatureBaseline("entropy")),
    "SignatureBaseline, cross-validated, items of documents": of_readout(SignatureBaseline("entropy"), 3),
    "LOSNet, cross-validated": of_readout(LOSNet(width=8, heads=1, epochs=2, patience=2, lr=1e-2)),
}
