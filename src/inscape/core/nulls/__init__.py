"""The null kit: intervals, tests and controls that every score here can be asked for beside itself.

| you have | you want | take |
|---|---|---|
| one value an item | an interval of its mean | `bootstrap`; `bootstrap_each` for many means at once |
| right or wrong an item | an interval of the share | `share` |
| two methods on the same items | is the difference real | `sign_flip_test`; `mcnemar` for right or wrong |
| a score that depends on labels | is it above shuffled labels | `permutation_test` |
| a score for each of many heads | which are real, after looking at all | `max_over_family`, `benjamini_hochberg` |
| a set of heads or neurons | sets to compare it with | `layer_matched_sets`; `layer_matched_orders` for a ranking |
| a direction | directions to compare it with | `random_directions` |
| a score and a yes or no | how well it ranks, at equal length | `auc` |
| two scores of the same items | do they agree | `correlation`; `rank_correlation` for the few points of a curve |
| a number and right or wrong | does one follow the other | `logistic_slope` |
| a measure of a sequence | sequences without its order, phases or relations | `surrogate` |
| a curve | where it breaks, if it does | `changepoint` |

Items are what was drawn independently (prompts, images, subjects), not tokens of one prompt: give `by` where several
rows belong to one item. Everything is computed in float64 from an explicit seed; the same seed
gives the same numbers.
"""

from inscape.core.interval import Interval
from inscape.core.nulls.auc import Auc, auc
from inscape.core.nulls.bootstrap import Intervals, bootstrap, bootstrap_each, share
from inscape.core.nulls.changepoint import Changepoint, changepoint
from inscape.core.nulls.correlation import Correlation, correlation, rank_correlation
from inscape.core.nulls.directions import random_directions
from inscape.core.nulls.family import Corrected, benjamini_hochberg, max_over_family
from inscape.core.nulls.matched import layer_matched_orders, layer_matched_sets
from inscape.core.nulls.paired import mcnemar, sign_flip_test, sign_flipped
from inscape.core.nulls.permutation import Tested, permutation_p, permutation_test, permuted
from inscape.core.nulls.slope import Slope, logistic_slope
from inscape.core.nulls.surrogates import surrogate

__all__ = [
    "Auc",
    "Changepoint",
    "Corrected",
    "Correlation",
    "Interval",
    "Intervals",
    "Slope",
    "Tested",
    "auc",
    "benjamini_hochberg",
    "bootstrap",
    "bootstrap_each",
    "changepoint",
    "correlation",
    "layer_matched_orders",
    "layer_matched_sets",
    "logistic_slope",
    "max_over_family",
    "mcnemar",
    "permutation_p",
    "permutation_test",
    "permuted",
    "random_directions",
    "rank_correlation",
    "share",
    "sign_flip_test",
    "sign_flipped",
    "surrogate",
]
