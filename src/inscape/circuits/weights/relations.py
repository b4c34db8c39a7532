"""Does a head's token map follow a relation: the next in order, the one before, the same token, any pairs of yours?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.circuits.weights.token_map import TokenMap
from inscape.core.errors import InputError
from inscape.core.nulls.family import Corrected, max_over_family
from inscape.core.nulls.permutation import permuted


@dataclass(frozen=True, eq=False)
class Group:
    """One class of a relation: its members' tokens, and (source, right target) as indices into them."""

    name: str
    ids: Int[Tensor, " member"]
    pairs: Int[Tensor, "pair 2"]


@dataclass(frozen=True, eq=False)
class Relation:
    """A relation between tokens of the same class."""

    name: str
    groups: tuple[Group, ...]

    @property
    def tokens(self) -> Int[Tensor, " token"]:
        """Every token of its classes, once: what a token map needs as sources and targets."""
        return torch.cat([g.ids for g in self.groups]).unique()

    @property
    def chance(self) -> float:
        """The share that a random choice within the class gets right."""
        sizes = torch.cat([torch.full((len(g.pairs),), float(len(g.ids))) for g in self.groups])
        return float((1 / sizes).mean())


def successor(classes: Sequence[Any]) -> Relation:
    """Each member to the next. classes: of `tasks.ordinals`; anything with `name`, `ids` and `steps` [step, 2]."""
    return _relation("successor", classes, lambda steps, n: steps)


def predecessor(classes: Sequence[Any]) -> Relation:
    """Each member to the one before."""
    return _relation("predecessor", classes, lambda steps, n: steps.flip(1))


def copy(classes: Sequence[Any]) -> Relation:
    """Each member to itself."""
    return _relation("copy", classes, lambda steps, n: torch.arange(n)[:, None].expand(n, 2))


def custom(name: str, classes: Mapping[str, Mapping[int, int]]) -> Relation:
    """Your own: class -> {source token: target token}, as ids; members of a class are all that stand in it.

    Raises: InputError for a class with fewer than two members, where nothing could be wrong.
    """
    groups = []
    for label, pairs in classes.items():
        members = list(dict.fromkeys([*pairs, *pairs.values()]))
        if len(members) < 2 or not pairs:
            raise InputError(
                f"the class {label!r} of the relation {name!r} has {len(members)} members; give two or more."
            )
        index = {token: i for i, token in enumerate(members)}
        rows = [(index[a], index[b]) for a, b in pairs.items()]
        groups.append(Group(label, torch.tensor(members), torch.tensor(rows)))
    if not groups:
        raise InputError(f"the relation {name!r} has no class.")
    return Relation(name, tuple(groups))


def _relation(name: str, classes: Sequence[Any], pairs_of: Any) -> Relation:
    groups = tuple(
        Group(c.name, torch.as_tensor(c.ids), pairs_of(torch.as_tensor(c.steps), len(c.ids)).clone()) for c in classes
    )
    if not any(len(g.pairs) for g in groups):
        raise InputError(f"no class has two members in a row, so there is no {name} to look for.")
    return Relation(name, tuple(g for g in groups if len(g.pairs)))


@dataclass(frozen=True, eq=False)
class RelationScores:
    """How often the largest entry within the class is the right one, for every head.

    score: over all sources. by_class: the same class by class. chance: of a random choice within the class.
    corrected: p values for the best of all heads under targets shuffled within classes; `threshold(0.99)` is the line
        that the best head of such a map stays below in 99 of 100 cases. null: scores of the shuffled relations.
    right: which sources each head gets right. sources: their tokens.
    """

    relation: str
    heads: tuple[str, ...]
    score: Float[Tensor, " head"]
    by_class: dict[str, Float[Tensor, " head"]]
    chance: float
    null: Float[Tensor, "draw head"]
    corrected: Corrected
    right: Bool[Tensor, "head source"]
    sources: Int[Tensor, " source"]

    def top(self, n: int = 5) -> list[tuple[str, float, float]]:
        """The n best heads: (name, score, p corrected for all heads)."""
        best = self.score.topk(min(n, len(self.score)))
        return [(self.heads[i], float(self.score[i]), float(self.corrected.p[i])) for i in best.indices.tolist()]


def relation_score(map: TokenMap, relation: Relation, *, draws: int = 1000, seed: int = 0) -> RelationScores:
    """The share of tokens whose largest target within their class is the right one, with a null for the best head.

    Within the class, because the largest of the whole vocabulary hides weak heads; per class too, because in small
    classes a guess is often right. The null shuffles the right targets among the sources of a class and takes the best
    head of each draw, since the best of many heads is what one looks at.
    map: must hold all members of the relation as targets; sources without a state (NaN rows) are left out.
    Cost: one argmax a class and head, and `draws` comparisons.
    Raises: InputError when members are missing from the map.
    Source: Gould et al. 2023, arXiv:2312.09230; the max-statistic null is added here.
    """
    at_source = {int(t): i for i, t in enumerate(map.sources)}
    at_target = {int(t): i for i, t in enumerate(map.targets)}
    chosen, labels, group, sources = [], [], [], []
    for number, g in enumerate(relation.groups):
        missing = [int(t) for t in g.ids if int(t) not in at_target]
        missing += [int(g.ids[a]) for a in g.pairs[:, 0] if int(g.ids[a]) not in at_source]
        if missing:
            raise InputError(
                f"the map lacks {len(missing)} tokens of the class {g.name!r}, such as {missing[0]}.\n"
                "  make it with source_tokens=relation.tokens."
            )
        rows = torch.tensor([at_source[int(g.ids[a])] for a in g.pairs[:, 0]])
        columns = torch.tensor([at_target[int(t)] for t in g.ids])
        block = map.scores[:, rows][:, :, columns]
        known = ~block.isnan().any(0).any(-1)
        chosen.append(block[:, known].argmax(-1))
        labels.append(g.pairs[known, 1])
        group.append(torch.full((int(known.sum()),), number))
        sources.append(g.ids[g.pairs[known, 0]])
    guesses, right_ones, groups = torch.cat(chosen, 1), torch.cat(labels), torch.cat(group)
    if not len(right_ones):
        raise InputError("no source token of the relation has a state in this map.")
    right = guesses == right_ones
    null = permuted(lambda y: (guesses == y).double().mean(1), right_ones, within=groups, n=draws, seed=seed).float()
    score = right.float().mean(1)
    by_class: dict[str, Tensor] = {}
    for number, g in enumerate(relation.groups):
        here = groups == number
        if bool(here.any()):
            name = g.name if g.name not in by_class else f"{g.name} ({number})"
            by_class[name] = right[:, here].float().mean(1)
    corrected = max_over_family(score, null)
    return RelationScores(
        relation.name, map.heads, score, by_class, relation.chance, null, corrected, right, torch.cat(sources)
    )
