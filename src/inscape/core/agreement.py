"""How far two groupings of the same items agree, beyond what chance would give."""

import numpy as np

from inscape.core.errors import InputError, ShapeError
from inscape.core.readout import Labels, labels_of


def adjusted_mutual_information(a: Labels, b: Labels) -> float:
    """`(I(a; b) - E) / ((H(a) + H(b)) / 2 - E)`, E of groupings drawn at random with the same sizes.

    1 for the same grouping under any names, about 0 for unrelated ones of any number of groups (below 0 is possible);
    plain mutual information rises with the number of groups. Two groupings of one group each agree: 1.
    Cost: the products of sizes of groups. Raises: ShapeError for unlike lengths, InputError for no items.
    Source: Vinh, Epps & Bailey 2010; as scikit-learn's, with the arithmetic mean.
    """
    if not len(a):
        raise InputError("there are no items: how two groupings of nothing agree cannot be said.")
    if len(a) != len(b):
        raise ShapeError(f"{len(a)} and {len(b)} labels: both groupings are of the same items.")
    one, two = (np.unique(labels_of(x, len(a)), return_inverse=True)[1] for x in (a, b))
    n = len(one)
    table = np.zeros((one.max() + 1, two.max() + 1))
    np.add.at(table, (one, two), 1)
    rows, columns = table.sum(1), table.sum(0)
    if len(rows) == len(columns) == 1 or (len(rows) == len(columns) == n):
        return 1.0
    full = table > 0
    mutual = float((table[full] / n * np.log(n * table[full] / np.outer(rows, columns)[full])).sum())
    entropy = [-float((x / n * np.log(x / n)).sum()) for x in (rows, columns)]
    expected = _expected(rows.astype(int), columns.astype(int), n)
    bottom = sum(entropy) / 2 - expected
    tiny = np.finfo(float).eps
    return (mutual - expected) / (max(bottom, tiny) if bottom >= 0 else min(bottom, -tiny))


def _expected(rows: np.ndarray, columns: np.ndarray, n: int) -> float:
    """The mean mutual information of random groupings of these sizes: every cell is hypergeometric."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])  # log of factorials
    total = 0.0
    for a in rows:
        for b in columns:
            k = np.arange(max(1, a + b - n), min(a, b) + 1)
            weight = (logs[a] + logs[b] + logs[n - a] + logs[n - b] - logs[n] - logs[k] - logs[a - k] - logs[b - k]
                      - logs[n - a - b + k])  # fmt: skip
            total += float((k / n * np.log(n * k / (a * b)) * np.exp(weight)).sum())
    return total
