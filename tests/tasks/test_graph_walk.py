"""Walks stay on the links of their graph, and every node has its token."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape import tasks
from inscape.tasks.graph_walk import DAYS, WORDS
from inscape.tasks.graphs import NAMED, grid, hexagonal, links_of, nearest_places, random_connected, reached, ring
from tests.common.tokenizers import OpenWords, words_of

WORD = words_of(" ".join((*WORDS, *DAYS, "the")))


def test_named_graphs_are_what_they_are_called():
    assert grid(3, 4).sum() == 2 * (2 * 4 + 3 * 3)
    assert sorted(grid(4, 4).sum(1).tolist()) == [2] * 4 + [3] * 8 + [4] * 4
    assert ring(5).sum(1).tolist() == [2] * 5
    one = hexagonal(1, 1)
    assert torch.equal(one.sum(1), torch.full((6,), 2))
    honeycomb = hexagonal(3, 3)
    assert len(honeycomb) == 30
    assert int(honeycomb.sum()) // 2 == len(honeycomb) + 9 - 1  # Euler: corners - sides + hexagons = 1
    assert set(honeycomb.sum(1).tolist()) == {2, 3}
    for make in NAMED.values():
        assert bool(reached(make(), 0).all())


@given(seed=st.integers(0, 10**6), nodes=st.integers(3, 18))
def test_drawn_graphs_are_whole_and_symmetric(seed, nodes):
    generator = torch.Generator().manual_seed(seed)
    for links in (random_connected(nodes, 2.5, generator), nearest_places(nodes, 2, generator)):
        assert links_of(links) is not None  # links_of refuses anything else
        assert len(links) == nodes


@given(seed=st.integers(0, 10**6), graph=st.sampled_from(sorted(NAMED)))
def test_a_walk_goes_along_links_and_labels_name_its_words(seed, graph):
    made = tasks.graph_walk(OpenWords(WORD), 2, graph=graph, length=30, seed=seed)
    assert bool(made.links[made.nodes[:, :-1], made.nodes[:, 1:]].all())
    for row in range(2):
        labels = made.labels(row)
        ids = torch.tensor(made.ids[row])
        assert torch.equal(ids[labels >= 0], made.tokens[labels[labels >= 0]])
        assert int((labels >= 0).sum()) == 30


def test_a_uniform_walk_visits_nodes_as_often_as_they_have_links():
    made = tasks.graph_walk(OpenWords(WORD), 40, length=600, seed=3)
    share = torch.bincount(made.nodes.flatten(), minlength=16).double() / made.nodes.numel()
    expected = made.links.double().sum(1) / made.links.sum()
    torch.testing.assert_close(share, expected, rtol=0, atol=0.006)


def test_a_shuffled_walk_has_the_same_words_and_no_graph():
    made = tasks.graph_walk(OpenWords(WORD), 4, length=200, seed=0)
    mixed = made.shuffled(1)
    for row in range(4):
        assert sorted(made.ids[row]) == sorted(mixed.ids[row])
        labels = mixed.labels(row)
        assert torch.equal(torch.tensor(mixed.ids[row])[labels >= 0], made.tokens[labels[labels >= 0]])
    on = made.links[mixed.nodes[:, :-1], mixed.nodes[:, 1:]].double().mean()
    assert float(on) == pytest.approx(made.chance, abs=0.06)


def test_days_of_the_week_stand_where_no_two_that_follow_are_linked():
    made = tasks.graph_walk(OpenWords(WORD), 1, graph="ring", size={"nodes": 7}, words=DAYS, arrange="conflicting")
    gap = (made.order[:, None] - made.order).abs()
    assert not bool((((gap == 1) | (gap == 6)) & made.links).any())
    assert sorted(made.words) == sorted(DAYS)


class Pieces:
    """Words cut into pieces of two letters; a piece that begins a word has the space before it."""

    def __init__(self) -> None:
        self.known = ["<bos>"]

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        parts = [f" {w}"[i : i + 3 if i == 0 else i + 2] for w in text.split() for i in (0, *range(3, len(w) + 1, 2))]
        self.known += [p for p in dict.fromkeys(parts) if p not in self.known]
        return {"input_ids": [0] * add_special_tokens + [self.known.index(p) for p in parts]}

    def decode(self, ids: list[int]) -> str:
        return "".join(self.known[i] for i in ids)


def test_words_of_several_tokens_are_refused_or_labelled_at_their_last():
    common = {"graph": "ring", "size": {"nodes": 3}, "words": ["abcd", "efghi", "jk"], "length": 12}
    with pytest.raises(
        ins.TokenError, match=r"1 of 3 words are one token here, and 3 are needed: 'abcd' is ' ab'\|'cd'"
    ):
        tasks.graph_walk(Pieces(), 1, **common)
    tokenizer = Pieces()
    made = tasks.graph_walk(tokenizer, 2, tokens="last", **common)
    for walks in (made, made.shuffled(0)):
        labels = walks.labels(1)
        assert tokenizer.decode(walks.ids[1][1:]).split() == [walks.words[i] for i in walks.nodes[1].tolist()]
        for i, node in enumerate(labels.tolist()):
            if node >= 0:
                assert walks.words[node].endswith(tokenizer.decode([walks.ids[1][i]]).strip())
        first = torch.tensor(walks.ids[1])[walks.begins[1]]
        assert torch.equal(first, walks.tokens[walks.nodes[1]])
    with pytest.raises(ins.TokenError, match="several of these words begin with the token ' ab'"):
        tasks.graph_walk(Pieces(), 1, tokens="last", **common | {"words": ["abcd", "abij", "jk"]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"graph": "star"}, "named ones are grid, ring, hex"),
        ({"graph": [[0, 1, 0], [1, 0, 0], [0, 0, 0]]}, r"cannot reach the nodes \[2\]"),
        ({"graph": [[0, 1], [0, 0]]}, "not a symmetric square"),
        ({"graph": [[1, 1], [1, 0]]}, "node 0 is linked to itself"),
        ({"graph": [[0, 1], [1, 0]], "size": {"rows": 2}}, "leave rows= out"),
        ({"graph": "ring", "size": {"nodes": 2}}, "a ring has at least 3 nodes"),
        ({"size": {"rows": 0}}, "sizes count from 1"),
        ({"size": {"rows": 9, "columns": 9}}, "81 nodes and 48 words"),
        ({"words": ["apple", "apple"]}, "'apple' is in the list of words twice"),
        ({"arrange": "sorted"}, "'shuffled', 'given' or 'conflicting'"),
        ({"tokens": "first"}, "'single' or 'last'"),
        ({"length": 1}, "of at least two words"),
    ],
)
def test_what_cannot_be_walked_is_refused(options, message):
    with pytest.raises(ins.InputError, match=message):
        tasks.graph_walk(OpenWords(WORD), 1, **options)
