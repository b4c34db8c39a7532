"""Two conditions on the same items: is the difference real?"""

from itertools import product
from math import comb

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.nulls.permutation import Tested, permutation_p
from inscape.core.nulls.values import CHUNK, Seed, Values, array, check_draws, flags, generator, groups, vector


def sign_flip_test(
    differences: Values,
    *,
    by: Values | None = None,
    n: int = 10_000,
    seed: Seed = 0,
    alternative: str = "two-sided",
) -> Tested:
    """The mean difference of paired items beside means with signs chosen at random.

    If the two conditions were the same, each item's difference could as well have the other sign. All 2^m choices are
    taken where they are at most n (m items), and then p is exact; else n random ones. Choose `mcnemar` for right or
    wrong. It asks about the mean: with a heavy tail one item decides.

    differences: a - b, one an item. by: the item of each, where several belong to one; they flip together.
    Raises: InputError for NaN or no items. Source: Fisher 1935; Nichols & Holmes 2002 on its use.
    """
    check_draws(n)
    held = vector(differences, "differences")
    group = groups(by, "by", len(held))
    total = np.bincount(group, weights=held)
    observed = float(total.sum() / len(held))
    m = len(total)
    if m < 40 and 2**m <= n:
        signs = np.array(list(product((1.0, -1.0), repeat=m)))
        null = torch.from_numpy(signs @ total / len(held))
        # Every choice is there, the observed one among them: it is not counted a second time.
        return Tested(observed, float(permutation_p(observed, null[1:], alternative)), null, alternative)
    rng, parts = generator(seed), []
    for start in range(0, n, chunk := max(1, CHUNK // m)):
        signs = rng.integers(0, 2, (min(chunk, n - start), m)) * 2.0 - 1.0
        parts.append(signs @ total / len(held))
    null = torch.from_numpy(np.concatenate(parts))
    return Tested(observed, float(permutation_p(observed, null, alternative)), null, alternative)


def sign_flipped(differences: Values, *, n: int = 1000, seed: Seed = 0) -> Float[Tensor, "n *axes"]:
    """Means over items with signs chosen at random, n times: for many members, the null of `max_over_family`.

    `mean over items of s_i difference_i`, the same signs for all members, so that what they share is kept.
    differences: [item, *axes]. Choose `sign_flip_test` for one member, where few items are taken exactly.
    Cost: one matrix product. Raises: InputError for NaN or no items.
    """
    check_draws(n)
    held = array(differences, "differences")
    signs = generator(seed).integers(0, 2, (n, len(held))) * 2.0 - 1.0
    made = signs @ held.reshape(len(held), -1) / len(held)
    return torch.from_numpy(made.reshape(n, *held.shape[1:]))


def mcnemar(a: Values, b: Values, *, alternative: str = "two-sided") -> float:
    """The p value of two methods being right equally often on the same items, exact.

    Only items on which they differ count: of those, as many should go to either. `greater` asks if a is right more
    often. Choose `sign_flip_test` for scores that are not right or wrong.

    a, b: right or wrong, one an item. Raises: InputError for other values; ShapeError for different numbers of items.
    Source: McNemar 1947, with the binomial's tails in place of the chi-square.
    """
    first = flags(a, "a")
    second = flags(b, "b", len(first))
    ours, theirs = int(((first == 1) & (second == 0)).sum()), int(((first == 0) & (second == 1)).sum())
    m = ours + theirs

    def at_least(k: int) -> float:
        return sum(comb(m, i) for i in range(k, m + 1)) / 2**m

    if alternative == "greater":
        return at_least(ours)
    if alternative == "less":
        return at_least(theirs)
    if alternative == "two-sided":
        return min(1.0, 2 * at_least(max(ours, theirs)))
    raise InputError(f"alternative={alternative!r} is no side; there are 'greater', 'less' and 'two-sided'.")
