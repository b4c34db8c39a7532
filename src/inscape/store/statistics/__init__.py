"""Statistics of recorded activations: one pass, any cuts, mergeable, kept beside the rows."""

from inscape.store.statistics.contract import Statistic
from inscape.store.statistics.cross import Cross, linear_cka
from inscape.store.statistics.extremes import Extremes
from inscape.store.statistics.keys import locate
from inscape.store.statistics.moments import Covariance, Moments
from inscape.store.statistics.one_pass import one_pass
from inscape.store.statistics.pca import PCA, Components, components_of
from inscape.store.statistics.quantiles import Quantiles
from inscape.store.statistics.topk import TopExamples

__all__ = [
    "PCA",
    "Components",
    "Covariance",
    "Cross",
    "Extremes",
    "Moments",
    "Quantiles",
    "Statistic",
    "TopExamples",
    "components_of",
    "linear_cka",
    "locate",
    "one_pass",
]
