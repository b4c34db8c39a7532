"""What paths of neurons say about classes: who is used where, which classes share neurons, what a few of them keep."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.edits.sources import ablate
from inscape.core.errors import InputError
from inscape.core.nulls.matched import layer_matched_sets
from inscape.core.nulls.permutation import Tested, permutation_test
from inscape.core.nulls.values import generator


@dataclass(frozen=True, eq=False)
class PathStats:
    """Paths by class.

    frequency: how often each neuron is on a path of the class, [class, layer, unit]; sums to k over the units.
    similarity: of classes, the mean over layers of the shared frequency, sum min(f_a, f_b) / k, [class, class].
    overlap: of every two inputs, the mean over layers of the share of neurons they share, [row, row]. same, different:
    its mean over pairs of one class and of two. test: of same - different against shuffled labels. control: the same
    difference and test with the labels shuffled beforehand, which must find nothing.
    """

    frequency: Float[Tensor, "class layer unit"]
    similarity: Float[Tensor, "class class"]
    overlap: Float[Tensor, "row row"]
    same: float
    different: float
    test: Tested
    control: Tested

    def most_used(self, share: float, *, seed: int = 0) -> Bool[Tensor, "class layer unit"]:
        """The neurons of each layer that a class uses most: that share of the layer. Ties are broken by chance."""
        if not 0 < share <= 1:
            raise InputError(f"share={share}: it is of a layer's neurons, above 0 and at most 1.")
        n = max(1, round(share * self.frequency.shape[2]))
        noise = torch.from_numpy(generator(seed).random(tuple(self.frequency.shape))).float()
        best = (self.frequency + noise * 1e-6).topk(n, dim=2).indices
        return torch.zeros_like(self.frequency, dtype=torch.bool).scatter(2, best, True)


def path_stats(
    indices: Int[Tensor, "row layer k"], labels: Int[Tensor, " row"], n_units: int, *, n: int = 1000, seed: int = 0
) -> PathStats:
    """Frequencies, similarities and overlaps of paths by class, with the null of shuffled labels.

    indices: of `NeuronPaths`. n_units: neurons in a layer. n: shuffles. Cost: row x row x layer x k numbers.
    Raises: InputError for fewer than two classes, or a class of one input, which has no pair.
    """
    counts = labels.bincount()
    if len(indices) != len(labels) or int((counts > 0).sum()) < 2 or int(counts[counts > 0].min()) < 2:
        raise InputError(
            f"{len(indices)} paths with {len(labels)} labels of sizes {counts.tolist()}: overlaps need two classes "
            "with two inputs each."
        )
    rows, layers, k = indices.shape
    used = torch.zeros(rows, layers, n_units).scatter(2, indices.cpu(), 1.0)
    frequency = torch.stack([used[labels == c].mean(0) if bool((labels == c).any()) else torch.zeros_like(used[0])
                             for c in range(len(counts))])  # fmt: skip
    similarity = torch.minimum(frequency[:, None], frequency[None]).sum(-1).mean(-1) / k
    overlap = torch.einsum("alu,blu->ab", used, used) / (layers * k)
    pairs = torch.triu_indices(rows, rows, 1)
    shared = overlap[pairs[0], pairs[1]]

    def apart(given: Any) -> float:
        same = torch.as_tensor(given)[pairs[0]] == torch.as_tensor(given)[pairs[1]]
        return float(shared[same].mean() - shared[~same].mean())

    mixed = labels[torch.from_numpy(generator(seed + 1).permutation(rows))]
    same = labels[pairs[0]] == labels[pairs[1]]
    return PathStats(
        frequency, similarity, overlap, float(shared[same].mean()), float(shared[~same].mean()),
        permutation_test(apart, labels, n=n, seed=seed), permutation_test(apart, mixed, n=n, seed=seed),
    )  # fmt: skip


def any_units(mask: Bool[Tensor, "class layer unit"], *, seed: int = 0) -> Bool[Tensor, "class layer unit"]:
    """As many units as the mask has for each class and layer, drawn at random: the control of `most_used`."""
    order = torch.from_numpy(generator(seed).random(tuple(mask.shape)).argsort(2))
    return mask.gather(2, order)


def keep_only(
    mask: Bool[Tensor, "class layer unit"], labels: Int[Tensor, " row"], sites: Sequence[str], at: Any = None
) -> list[Edit]:
    """Edits that leave each row the neurons its class keeps and set all others of these sites to zero."""
    if mask.shape[1] != len(sites):
        raise InputError(f"the mask has {mask.shape[1]} layers, and there are {len(sites)} sites.")
    return [ablate(site, "zero", units=~mask[labels, layer], at=at) for layer, site in enumerate(sites)]


def size_matched(
    activations: Float[Tensor, "row layer unit"], indices: Int[Tensor, "row layer k"], *, near: int = 5, seed: int = 0
) -> Int[Tensor, "row layer k"]:
    """For every neuron of a path another of its layer whose |activation| is about as large: one of the `near` nearest.

    A control for removals: the largest neurons do the most harm wherever they are. Neurons of the path are left out.
    """
    out = []
    for row, path in enumerate(indices.tolist()):
        size = {layer: activations[row, layer].abs() for layer in range(len(path))}
        chosen = [(layer, unit) for layer, units in enumerate(path) for unit in units]
        (drawn,) = layer_matched_sets(
            chosen, activations.shape[2], n=1, exclude=chosen, size=size, nearest=near, seed=seed * 1_000_003 + row
        )
        out.append([[unit for layer, unit in drawn if layer == here] for here in range(len(path))])
    return torch.tensor(out)
