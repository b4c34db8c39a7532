"""Kinds of heads that are known by what they look at: the token before, the same token, what followed it, the first."""

import torch

from inscape.circuits.heads.measured import Measured, beside
from inscape.circuits.heads.probes import Probes

UNIT = "attention"


def previous(probes: Probes) -> Measured:
    """Attention on the token before, beside keys drawn at random among those in sight."""
    return _beside_other_keys(probes, "previous")


def sink(probes: Probes) -> Measured:
    """Attention on the first position (the beginning-of-text token, where there is one), beside random keys."""
    return _beside_other_keys(probes, "first")


def duplicate(probes: Probes) -> Measured:
    """Attention on the same token, one period ago, beside that place with tokens in another order."""
    return _beside_other_order(probes, "duplicate")


def prefix(probes: Probes) -> Measured:
    """Attention on what followed the same token, beside the same place when the tokens stand in another order."""
    return _beside_other_order(probes, "induction")


def _beside_other_keys(probes: Probes, kind: str) -> Measured:
    made = probes.repeated
    assert made.elsewhere is not None
    return beside(made.scores[kind].mean(0), made.elsewhere, UNIT)


def _beside_other_order(probes: Probes, kind: str) -> Measured:
    """Means over as many rows of the control, drawn with replacement, the same ones for all heads.

    Or what random keys get, where that is more: next to no attention is not looking, however regular it is.
    """
    score, control = probes.repeated.scores[kind], probes.shuffled.scores[kind]
    generator = torch.Generator().manual_seed(probes.seed)
    drawn = torch.randint(len(control), (probes.draws, len(score)), generator=generator)
    counts = torch.nn.functional.one_hot(drawn, len(control)).sum(1).to(control) / len(score)
    elsewhere = probes.repeated.elsewhere
    assert elsewhere is not None
    return beside(score.mean(0), torch.einsum("dr,rlh->dlh", counts, control).maximum(elsewhere), UNIT)
