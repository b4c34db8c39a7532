"""Subspaces: exchanging them between runs, finding them (DAS), and telling those a model uses from illusions."""

from inscape.circuits.subspaces.audit import Audit, Thresholds, audit
from inscape.circuits.subspaces.contrast import Contrast, Effect
from inscape.circuits.subspaces.das import Subspace, das
from inscape.circuits.subspaces.example import closed_example
from inscape.circuits.subspaces.first_order import Room, first_order
from inscape.circuits.subspaces.natural import axis_report, dormant_share
from inscape.circuits.subspaces.rank_one import RankOne, rank1_equivalent
from inscape.circuits.subspaces.readers import Reader, Split, split

__all__ = [
    "Audit",
    "Contrast",
    "Effect",
    "RankOne",
    "Reader",
    "Room",
    "Split",
    "Subspace",
    "Thresholds",
    "audit",
    "axis_report",
    "closed_example",
    "das",
    "dormant_share",
    "first_order",
    "rank1_equivalent",
    "split",
]
