"""A small graph as text: who knows whom, what each likes, and a question about one of them.

    Mary likes tea and knows John and Anna. John likes tea and knows Mary. Tom likes fish and knows Paul. ...
    Anna knows Mary and Paul. Probably Anna likes                                       -> " tea", not " fish"

Nodes form blocks that like one thing each, and know one another more than those of other blocks (a stochastic block
graph). What the asked node likes is not written: it follows from whom it knows. Every node is one stretch of tokens.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from inscape.core.errors import InputError
from inscape.tasks.drafts import Draft, Text, check_choice, check_range, collect
from inscape.tasks.pairs import Pairs
from inscape.tasks.tokens import Tokens
from inscape.tasks.words import NAMES, SHOPPING

Links = frozenset[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class GraphTexts:
    """Prompt pairs about graphs, and the graphs.

    pairs: what every task gives; roles: asked (the name in the question), end. adjacency: who knows whom, as in the
    true graph; written: as the text says it, another where links were rewired. labels: the block of each node.
    spans: [start, stop) of the tokens of each node's sentence; nodes are numbered as their sentences come. target: the
    node asked for; other: the second node asked for where the question is of a link, else the same.
    """

    pairs: Pairs
    adjacency: Bool[Tensor, "n node node"]
    written: Bool[Tensor, "n node node"]
    labels: Int[Tensor, "n node"]
    spans: Int[Tensor, "n node 2"]
    target: Int[Tensor, " n"]
    other: Int[Tensor, " n"]


def graph_text(
    model: Any,
    n: int = 32,
    *,
    nodes: int = 8,
    blocks: int = 2,
    inside: float = 0.7,
    between: float = 0.1,
    ask: str = "label",
    hops: int = 1,
    links: str = "true",
    seed: int = 0,
) -> GraphTexts:
    """Stochastic block graphs, one a prompt, and a question whose answer the links decide.

    ask="label": which thing the asked node likes, which is its block's; nodes nearer than `hops` links do not say what
    they like either, so that with hops=2 the answer is two links away. Corrupted: the blocks exchange what they like.
    ask="link": does one node know another, yes or no; corrupted asks for a node of the other answer.
    links: "true", or "rewired": the text states links with the same number for every node, drawn at random, while the
    answer stays that of the true graph: the control in which links say nothing.
    model: an opened model or a tokenizer. nodes: 4 to 24. inside, between: how likely a link is in a block and between.
    Raises: TokenError when too few names or things are one token; InputError for numbers that make no such graph.
    """
    check_choice("graph_text", "ask", ask, ("label", "link"))
    check_choice("graph_text", "links", links, ("true", "rewired"))
    check_choice("graph_text", "hops", hops, (1, 2))
    check_range("graph_text", "nodes", nodes, 4, 24)
    check_range("graph_text", "blocks", blocks, 2, nodes // 2)
    if not 0 <= between <= inside <= 1 or not inside:
        raise InputError(
            f"graph_text(inside={inside}, between={between}): give 0 <= between <= inside <= 1, inside > 0."
        )
    tokens = Tokens(model)
    names, notes = tokens.singles(NAMES, "names", after="When", at_least=nodes)
    things, more = tokens.singles(SHOPPING, "things", at_least=blocks)
    make = _Maker(random.Random(seed), names, things, nodes, blocks, (inside, between), ask, hops, links == "rewired")
    pairs = collect(f"graph text, {ask}", tokens, make.drafts(), n, notes=(*notes, *more))
    spans = torch.stack([pairs.roles[f"node_{i}"][:, [0, -1]] for i in range(nodes)], 1)
    spans[..., 1] += 1
    kept = {role: at for role, at in pairs.roles.items() if not role.startswith("node_")}
    facts = pairs.facts
    return GraphTexts(
        replace(pairs, roles=kept),
        torch.stack([_matrix(x, nodes) for x in facts["links"]]),
        torch.stack([_matrix(x, nodes) for x in facts["written"]]),
        torch.tensor(facts["labels"]),
        spans,
        torch.tensor(facts["target"]),
        torch.tensor(facts["other"]),
    )


@dataclass(frozen=True)
class _Maker:
    rng: random.Random
    names: Sequence[str]
    things: Sequence[str]
    nodes: int
    blocks: int
    chances: tuple[float, float]
    ask: str
    hops: int
    rewired: bool

    def drafts(self) -> Iterator[Draft | None]:
        turn = 0
        while True:
            labels = [i % self.blocks for i in range(self.nodes)]
            self.rng.shuffle(labels)
            links = self._links(labels)
            target = self.rng.randrange(self.nodes)
            near = [_distance(links, target, i, self.nodes) for i in range(self.nodes)]
            names, things = (
                self.rng.sample(list(self.names), self.nodes),
                self.rng.sample(list(self.things), self.blocks),
            )
            written = rewired(links, self.rng, self.nodes) if self.rewired else links
            facts = {"links": links, "written": written, "labels": tuple(labels), "target": target}
            hidden = {i for i in range(self.nodes) if near[i] < self.hops} if self.ask == "label" else set()
            if self.ask == "label":
                votes = [labels[i] for i in range(self.nodes) if near[i] == self.hops]
                if 2 * votes.count(labels[target]) <= len(votes):
                    yield None
                    continue  # the links must decide: most of those at this distance are of the block
                moved = [*things[1:], things[0]]
                answer, wrong = things[labels[target]], moved[labels[target]]
                question = "Probably {asked} likes"
                yield Draft(
                    _text(names, things, labels, written, hidden, question, target, target),
                    _text(names, moved, labels, written, hidden, question, target, target),
                    f" {answer}", f" {wrong}", tuple(f" {x}" for x in things), facts=facts | {"other": target},
                )  # fmt: skip
                continue
            known = [i for i in range(self.nodes) if near[i] == 1]
            unknown = [i for i in range(self.nodes) if near[i] > 1]
            if not known or not unknown:
                yield None
            else:
                both = self.rng.choice(known), self.rng.choice(unknown)
                one, two = both if turn % 2 else both[::-1]
                turn += 1
                question = "Question: does {_target} know {asked}? Answer:"
                yield Draft(
                    _text(names, things, labels, written, hidden, question, target, one),
                    _text(names, things, labels, written, hidden, question, target, two),
                    " yes" if one in known else " no", " no" if one in known else " yes", facts=facts | {"other": one},
                )  # fmt: skip

    def _links(self, labels: Sequence[int]) -> Links:
        inside, between = self.chances
        return frozenset(
            (i, j)
            for i in range(self.nodes)
            for j in range(i)
            if self.rng.random() < (inside if labels[i] == labels[j] else between)
        )


def rewired(links: Links, rng: random.Random, nodes: int) -> Links:
    """The same number of links at every node, drawn at random: pairs of links exchange their ends, many times."""
    made = set(links)
    for _ in range(20 * len(made)):
        if len(made) < 2:
            break
        (a, b), (c, d) = rng.sample(sorted(made), 2)
        if rng.random() < 0.5:
            c, d = d, c
        new = {(max(a, d), min(a, d)), (max(c, b), min(c, b))}
        if len({a, b, c, d}) == 4 and not new & made:
            made -= {(a, b), (max(c, d), min(c, d))}
            made |= new
    return frozenset(made)


def _distance(links: Links, start: int, stop: int, nodes: int) -> int:
    """Links on the shortest way; as many as there are nodes where there is none."""
    reached, border, steps = {start}, {start}, 0
    while border and stop not in reached:
        border = {j for i in border for j in _neighbours(links, i)} - reached
        reached |= border
        steps += 1
    return steps if stop in reached else nodes


def _neighbours(links: Links, i: int) -> list[int]:
    return sorted({a for a, b in links if b == i} | {b for a, b in links if a == i})


def _matrix(links: Links, nodes: int) -> Tensor:
    made = torch.zeros(nodes, nodes, dtype=torch.bool)
    for i, j in links:
        made[i, j] = made[j, i] = True
    return made


def _text(
    names: Sequence[str], things: Sequence[str], labels: Sequence[int], links: Links, hidden: set[int], question: str,
    target: int, asked: int,
) -> Text:  # fmt: skip
    text, spans = "", {}
    for i, name in enumerate(names):
        said = [] if i in hidden else [f"likes {things[labels[i]]}"]
        known = [names[j] for j in _neighbours(links, i)]
        said += [f"knows {' and '.join(known)}"] if known else []
        sentence = f"{name} {' and '.join(said) or 'is here'}."
        spans[f"node_{i}"] = [(len(text), len(text) + len(sentence))]
        text += f"{sentence} "
    before, after = question.replace("{_target}", names[target]).split("{asked}")
    spans["asked"] = [(len(text + before), len(text + before + names[asked]))]
    return Text(text + before + names[asked] + after, spans)
