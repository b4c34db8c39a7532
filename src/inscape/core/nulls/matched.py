"""Random sets of heads or neurons that a chosen set can be compared with."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from inscape.core.errors import InputError
from inscape.core.nulls.values import Seed, Values, generator, vector

Unit = tuple[int, int]  # layer, head or neuron


def layer_matched_sets(
    chosen: Iterable[Unit],
    units_by_layer: int | Sequence[int] | Mapping[int, int],
    *,
    n: int = 1000,
    exclude: Collection[Unit] = (),
    size: Mapping[int, Values] | Sequence[Values] | None = None,
    nearest: int = 10,
    seed: Seed = 0,
) -> list[tuple[Unit, ...]]:
    """n random sets with as many members in each layer as the chosen one.

    Late heads matter for every task: a set is only special if it beats sets of the same layers. For an overlap leave
    `exclude` empty (the chosen set is one of the possible draws); for an ablation give `exclude=chosen`. Where large
    activations matter by themselves, `size` matches them too: each chosen unit is replaced by one of the `nearest`
    units of its layer in size.

    chosen: pairs (layer, head). units_by_layer: how many heads there are, for all layers or each. exclude: units that
    no set may hold. size: one number a unit, for every layer that occurs. Sets are sorted; two of them may be equal.
    Raises: InputError for a unit that is not there or is there twice, or a layer with too few units left.
    """
    chosen = list(chosen)
    _check(chosen, units_by_layer)
    rng = generator(seed)
    barred = set(exclude)
    if size is None:
        pools: dict[int, np.ndarray] = {}
        for layer, count in sorted(Counter(layer for layer, _ in chosen).items()):
            pools[layer] = np.array([u for u in range(_units(units_by_layer, layer)) if (layer, u) not in barred])
            if len(pools[layer]) < count:
                raise _too_few(layer, count, len(pools[layer]))
        counts = Counter(layer for layer, _ in chosen)
        return [
            tuple(
                sorted(
                    (layer, int(u)) for layer in pools for u in rng.choice(pools[layer], counts[layer], replace=False)
                )
            )
            for _ in range(n)
        ]
    near = [_near(unit, units_by_layer, barred, size, nearest) for unit in chosen]
    return [_one_of_each(near, rng) for _ in range(n)]


def layer_matched_orders(
    order: Iterable[Unit], units_by_layer: int | Sequence[int] | Mapping[int, int], *, n: int = 1000, seed: Seed = 0
) -> list[tuple[Unit, ...]]:
    """n random orders whose first k members have as many in each layer as the first k of this one, for every k.

    The null of a curve over growing sets: each random order is a curve of its own, so that whole curves (and the area
    under them) can be compared, not only one size at a time. Sibling: `layer_matched_sets`, for a single set.
    Raises: as `layer_matched_sets`.
    """
    order = list(order)
    _check(order, units_by_layer)
    rng = generator(seed)
    out = []
    for _ in range(n):
        left = {layer: rng.permutation(_units(units_by_layer, layer)).tolist() for layer, _ in order}
        out.append(tuple((layer, left[layer].pop()) for layer, _ in order))
    return out


def _one_of_each(near: list[list[Unit]], rng: np.random.Generator) -> tuple[Unit, ...]:
    """One unit near each chosen one, no unit twice; in random order, so that none always chooses first."""
    taken: set[Unit] = set()
    for i in rng.permutation(len(near)):
        free = [unit for unit in near[i] if unit not in taken]
        if not free:
            raise InputError(
                f"layer {near[i][0][0]} has no unit left that is near enough in size and not taken.\n"
                f"  raise nearest={len(near[i])}, or choose fewer units."
            )
        taken.add(free[int(rng.integers(len(free)))])
    return tuple(sorted(taken))


def _near(
    unit: Unit,
    units_by_layer: int | Sequence[int] | Mapping[int, int],
    barred: set[Unit],
    size: Mapping[int, Values] | Sequence[Values],
    nearest: int,
) -> list[Unit]:
    layer, index = unit
    try:
        sizes = vector(size[layer], f"size of layer {layer}", _units(units_by_layer, layer))
    except LookupError:
        raise InputError(f"size says nothing of layer {layer}.\n  give one number a unit for every layer.") from None
    order = np.argsort(np.abs(sizes - sizes[index]), kind="stable")
    free = [(layer, int(u)) for u in order if (layer, int(u)) not in barred]
    if not free:
        raise _too_few(layer, 1, 0)
    return free[:nearest]


def _check(chosen: list[Unit], units_by_layer: int | Sequence[int] | Mapping[int, int]) -> None:
    if not chosen:
        raise InputError("there is no unit in the chosen set, so no set can be like it.")
    twice = [unit for unit, count in Counter(chosen).items() if count > 1]
    if twice:
        raise InputError(f"unit {twice[0]} is in the chosen set twice.\n  give every (layer, head) once.")
    for layer, unit in chosen:
        if not 0 <= unit < _units(units_by_layer, layer):
            raise InputError(f"layer {layer} has {_units(units_by_layer, layer)} units, and no unit {unit}.")


def _units(units_by_layer: int | Sequence[int] | Mapping[int, int], layer: int) -> int:
    if isinstance(units_by_layer, int):
        return units_by_layer
    if not isinstance(units_by_layer, Mapping) and not 0 <= layer < len(units_by_layer):
        raise InputError(f"there are {len(units_by_layer)} layers, and no layer {layer}.")
    try:
        return int(units_by_layer[layer])
    except LookupError:
        raise InputError(f"units_by_layer says nothing of layer {layer}.") from None


def _too_few(layer: int, wanted: int, left: int) -> InputError:
    return InputError(
        f"layer {layer} needs {wanted} units and has {left} that are not excluded.\n"
        f"  exclude fewer, or compare with sets of other layers."
    )
