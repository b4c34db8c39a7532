"""Probes: what can be read off activations, as directions and decision rules.

| you have | you want | take |
|---|---|---|
| a yes or no | a direction, few rows, nothing to tune | `MeanDifference` |
| classes | the best accuracy of a plane | `LogisticProbe`; `LDA` for few rows, in closed form |
| numbers, or rows of another site | a linear map | `RidgeProbe` |
| statements and their negations, no labels | what splits them consistently | `CCS` |
| classes that no plane tells apart | is it there at all | `MLPProbe`, beside its `selectivity` |
| every layer | which one knows it | `probe_sites` |
| probes of several layers, data sets or models | does one hold for the other | `transfer` |
"""

from inscape.read.probes.ccs import CCS
from inscape.read.probes.lda import LDA
from inscape.read.probes.logistic import LogisticProbe
from inscape.read.probes.mean_difference import MeanDifference
from inscape.read.probes.mlp import MLPProbe
from inscape.read.probes.ridge import RidgeProbe
from inscape.read.probes.selectivity import control_labels, selectivity
from inscape.read.probes.sites import SiteScores, probe_sites
from inscape.read.probes.splits import folds_of
from inscape.read.probes.transfer import Transfer, transfer

__all__ = [
    "CCS",
    "LDA",
    "LogisticProbe",
    "MLPProbe",
    "MeanDifference",
    "RidgeProbe",
    "SiteScores",
    "Transfer",
    "control_labels",
    "folds_of",
    "probe_sites",
    "selectivity",
    "transfer",
]
