"""Random walks on a graph whose nodes are words: who is linked to whom can only be learned from the walk.

    apple bird coat bird apple lamp coat ...          a grid of 4 x 4; after " bird" may come its neighbours alone
One walk serves every length of context: a causal model has seen the first t words at word t. For words that have an
order of their own (days of the week) `conflicting` gives a ring that contradicts it.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from inscape.core.errors import InputError, TokenError
from inscape.tasks.graphs import links_of, walk
from inscape.tasks.tokens import Tokens

WORDS = (
    "apple", "bird", "car", "egg", "house", "milk", "plane", "opera", "box", "sand", "sun", "mango", "rock", "math",
    "code", "phone", "river", "chair", "clock", "bread", "cloud", "glass", "horse", "island", "key", "moon", "paint",
    "queen", "salt", "tower", "valley", "wheel", "bridge", "desk", "engine", "flag", "garden", "jacket", "leaf",
    "mirror", "orange", "ring", "window", "camera", "dragon", "guitar", "lemon", "rocket",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True, eq=False)
class GraphWalks:
    """Walks of one length on one graph, and which node stands at which token.

    ids: the tokens of each walk as fed, special ones included. words: the name of each node. links: who is linked to
    whom. nodes: the walk itself. begins, at: where the first and the last token of each step's word is in `ids`.
    tokens: the first token of each node's word after a space: where the model says what comes next. order: which word
    of those given stands at each node, so that their own order can be compared. notes: words left out.
    """

    ids: tuple[tuple[int, ...], ...]
    words: tuple[str, ...]
    links: Bool[Tensor, "node node"]
    nodes: Int[Tensor, "walk step"]
    begins: Int[Tensor, "walk step"]
    at: Int[Tensor, "walk step"]
    tokens: Int[Tensor, " node"]
    order: Int[Tensor, " node"]
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_nodes(self) -> int:
        return len(self.words)

    @property
    def chance(self) -> float:
        """Mass on the neighbours where all words are as probable: links a node / nodes."""
        return float(self.links.double().sum(1).mean()) / self.n_nodes

    def labels(self, row: int) -> Int[Tensor, " pos"]:
        """The node at every token of a walk; -1 where there is none."""
        out = torch.full((len(self.ids[row]),), -1)
        out[self.at[row]] = self.nodes[row]
        return out

    def shuffled(self, seed: int = 0) -> "GraphWalks":
        """The same words of each walk in another order: the control in which only who comes after whom is gone.

        Words of several tokens stay whole.
        """
        generator = torch.Generator().manual_seed(seed)
        ids, nodes, at, begins = [], [], [], []
        for row, tokens in enumerate(self.ids):
            starts, ends = self.begins[row].tolist(), (self.at[row] + 1).tolist()
            order = torch.randperm(len(ends), generator=generator).tolist()
            pieces = [tokens[starts[i] : ends[i]] for i in order]
            ids.append((*tokens[: starts[0]], *(t for p in pieces for t in p), *tokens[ends[-1] :]))
            nodes.append(self.nodes[row][order])
            at.append(torch.tensor([len(p) for p in pieces]).cumsum(0) + starts[0] - 1)
            begins.append(at[-1] + 1 - torch.tensor([len(p) for p in pieces]))
        kept = {"nodes": torch.stack(nodes), "at": torch.stack(at), "begins": torch.stack(begins)}
        return replace(self, ids=tuple(ids), **kept)

    def __repr__(self) -> str:
        n = int(self.links.sum()) // 2
        return (
            f"GraphWalks({len(self)} walks of {self.nodes.shape[1]} words on {self.n_nodes} nodes with {n} links; "
            f"{self.chance:.3f} on neighbours by chance)"
        )


def graph_walk(
    model: Any,
    n: int = 12,
    *,
    graph: Any = "grid",
    size: Mapping[str, int] | None = None,
    words: Sequence[str] | None = None,
    length: int = 400,
    tokens: str = "single",
    arrange: str = "shuffled",
    seed: int = 0,
) -> GraphWalks:
    """n uniform random walks on one graph, whose nodes are words of the tokenizer at hand.

    model: an opened model or a tokenizer. graph: "grid", "ring", "hex" with `size` (rows=, columns= or nodes=), or a
    matrix of links. words: at least as many as nodes; common ones that have little to do with one another if left out.
    length: words a walk. tokens: "single" refuses words of several tokens after a space, "last" takes them and labels
    their last token. arrange: which word stands at which node: "shuffled" (drawn), "given" (in their order), or
    "conflicting": so that words next to each other in the given order are not linked, for words with an order of their
    own on a ring.
    Raises: TokenError for words of several tokens, with their pieces; InputError for too few words, a graph in parts.
    Source: Park et al. 2024, arXiv:2501.00070; the words are ours.
    """
    if n < 1 or length < 2:
        raise InputError(f"graph_walk(n={n}, length={length}): at least one walk, of at least two words.")
    if tokens not in ("single", "last"):
        raise InputError(f"tokens={tokens!r}: it can be 'single' or 'last' (of several tokens, the last is labelled).")
    links = links_of(graph, **(size or {}))
    known, given = Tokens(model), tuple(words if words is not None else WORDS)
    pieces, notes = _pieces(known, given, tokens, allow_fewer=words is None)
    if len(pieces) < len(links):
        raise InputError(
            f"{len(links)} nodes and {len(pieces)} words: every node needs one of its own.\n"
            "  give words=, or a smaller graph."
        )
    names, order = list(pieces), _arranged(arrange, links, len(pieces), seed)
    chosen = [names[int(i)] for i in order]
    nodes = walk(links.expand(n, -1, -1), length, torch.Generator().manual_seed(seed))
    start, ids, at, begins = known.ids(""), [], [], []
    for row in nodes.tolist():
        parts = [pieces[chosen[i]] for i in row]
        ids.append((*start, *(t for p in parts for t in p)))
        lengths = torch.tensor([len(p) for p in parts])
        at.append(lengths.cumsum(0) + len(start) - 1)
        begins.append(at[-1] + 1 - lengths)
    first = torch.tensor([pieces[w][0] for w in chosen])
    if len(set(first.tolist())) < len(first):
        shared = known.pieces([int(first.mode().values)])[0]
        raise TokenError(
            f"several of these words begin with the token {shared!r}, so that a prediction does not tell them apart.\n"
            "  leave out all but one of them."
        )
    walked = nodes, torch.stack(begins), torch.stack(at)
    return GraphWalks(tuple(ids), tuple(chosen), links, *walked, first, order, notes)


def _pieces(
    known: Tokens, words: Sequence[str], tokens: str, *, allow_fewer: bool
) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
    """The tokens of every word after a space, and what was left out."""
    if len(set(words)) < len(words):
        twice = next(w for w in words if list(words).count(w) > 1)
        raise InputError(f"{twice!r} is in the list of words twice; every node has a word of its own.")
    if tokens == "single":
        kept, notes = known.singles(words, "words", at_least=1 if allow_fewer else len(words))
        return {w: (known.one("the", f" {w}"),) for w in kept}, notes
    before = known.ids("the")
    return {w: known.ids(f"the {w}")[len(before) :] for w in words}, ()


def _arranged(arrange: str, links: Bool[Tensor, "node node"], n_words: int, seed: int) -> Int[Tensor, " node"]:
    """Which word stands at each node."""
    n, rng = len(links), random.Random(seed)
    if arrange == "given":
        return torch.arange(n)
    if arrange == "shuffled":
        return torch.tensor(rng.sample(range(n_words), n))
    if arrange != "conflicting":
        raise InputError(f"arrange={arrange!r}: it can be 'shuffled', 'given' or 'conflicting'.")
    best: tuple[float, list[int]] = (2.0, [])
    for _ in range(2000):  # the arrangement that links fewest words that follow each other in their own order
        order = rng.sample(range(n), n)
        apart = torch.tensor(order)
        gap = (apart[:, None] - apart).abs()
        follow = ((gap == 1) | (gap == n - 1)) & links
        best = min(best, (float(follow.sum()) / float(links.sum()), order))
        if best[0] == 0:
            break
    return torch.tensor(best[1])
