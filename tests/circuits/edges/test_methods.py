"""Greedy cuts, scores and learned masks: what they find on a net whose circuit is known, and that they are exact."""

import json

import pytest
import torch

import inscape as ins
from inscape.circuits.attribution.edges import edge_attribution
from inscape.circuits.edges import best_edges, edge_faithfulness, greedy_cost, greedy_edges, learned_edges
from inscape.circuits.edges.best import first_connected, grown
from inscape.circuits.edges.chance import random_paths
from inscape.circuits.edges.exact import EdgeRuns
from inscape.circuits.edges.wiring import Wiring
from inscape.core.circuit import Circuit, Node, circuit_of
from inscape.core.metrics import kl, logit_diff
from tests.common.hand_built import induction_by_hand
from tests.common.small import gpt2, gpt2_module
from tests.common.zoo import build

CLEAN = torch.tensor([[0, 3, 5, 1, 6, 2, 3], [0, 2, 6, 1, 5, 4, 2]])
CORRUPTED = torch.tensor([[0, 4, 5, 1, 6, 2, 3], [0, 3, 6, 1, 5, 4, 2]])
DIFF = logit_diff([5, 6], [1, 1])
KNOWN = {("embed", "0.0", "v"), ("0.0", "1.1", "k"), ("1.1", "logits", "")}  # which token came before, and what it says
IDS, OTHER = [[5, 9, 13, 17], [6, 10, 14, 18]], [[5, 40, 13, 17], [6, 41, 14, 18]]


@pytest.mark.parametrize("metric", [None, DIFF], ids=["kl", "logit_diff"])
@pytest.mark.parametrize("at_once", [1, 16])
def test_greedy_cuts_find_the_known_circuit_and_no_more(metric, at_once: int) -> None:
    found = greedy_edges(induction_by_hand(), CLEAN, CORRUPTED, threshold=0.01, metric=metric, at_once=at_once)
    assert set(found.edges) == KNOWN
    assert found.nodes.keys() == {Node(-1), Node(0, 0), Node(1, 1)}
    assert "22 cuts tried" in found.about  # of 46 edges; the others led nowhere any more


def test_greedy_cuts_of_nodes_find_its_nodes() -> None:
    found = greedy_edges(induction_by_hand(), CLEAN, CORRUPTED, level="nodes")
    assert found.nodes.keys() == {Node(-1), Node(0, 0), Node(1, 1)}
    assert "7 cuts tried" in found.about


@pytest.mark.parametrize("metric", [None, logit_diff(3, 7)], ids=["kl", "logit_diff"])
def test_several_cuts_at_once_are_one_cut_after_the_other(metric) -> None:
    model, threshold = ins.open(gpt2_module(2)), 0.001 if metric is None else 0.02
    found = greedy_edges(model, IDS, OTHER, threshold=threshold, metric=metric, split="qkv")
    runs = EdgeRuns.of(model, IDS, OTHER, kl() if metric is None else metric, split="qkv")
    keep, current = runs.all.clone(), float(runs.measure(runs.all[None]).mean())
    for r in sorted(range(len(runs.wiring.readers)), key=lambda r: -runs.wiring.readers[r].before):
        for w in reversed(range(runs.wiring.readers[r].before)):
            if not bool(runs.wiring.useful(keep)[r]):
                keep[w, r] = False
                continue
            keep[w, r] = False
            value = float(runs.measure(keep[None]).mean())
            change = value - current
            if change < threshold and (metric is None or change > -threshold):
                current = value
            else:
                keep[w, r] = True
    assert torch.equal(runs.wiring.keep_of(found), runs.wiring.connected(keep))
    assert 5 < int(keep.sum()) < runs.wiring.n_edges


def test_a_search_that_was_killed_goes_on_where_it_was(tmp_path) -> None:
    model, path = ins.open(gpt2_module(2)), tmp_path / "search.json"
    whole = greedy_edges(model, IDS, OTHER, threshold=0.001, split="qkv")

    def killed(message: str, _: float | None) -> None:
        if message.startswith("4 of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        greedy_edges(model, IDS, OTHER, threshold=0.001, split="qkv", checkpoint=path, progress=killed)
    assert json.loads(path.read_text())["done"] == 4
    seen = []
    again = greedy_edges(
        model, IDS, OTHER, threshold=0.001, split="qkv", checkpoint=path, progress=lambda m, _: seen.append(m)
    )
    assert seen[0].startswith("5 of")
    assert again.as_dict() == whole.as_dict()
    with pytest.raises(ins.FileError, match="is of another search"):
        greedy_edges(model, IDS, OTHER, threshold=0.3, checkpoint=path)
    path.write_text("{}")
    with pytest.raises(ins.FileError, match="is no checkpoint of greedy_edges"):
        greedy_edges(model, IDS, OTHER, threshold=0.001, split="qkv", checkpoint=path)


def test_what_a_search_takes_is_said_before_it_begins() -> None:
    cost, seen = greedy_cost(gpt2(), IDS, OTHER), []
    assert cost.cuts == 262
    assert cost.seconds > 0
    greedy_edges(gpt2(), IDS, OTHER, threshold=5.0, progress=lambda m, f: seen.append((m, f)))
    assert seen[0][0].startswith("at most 262 cuts, about")
    assert seen[-1][1] == 1.0


def test_scores_along_a_long_enough_path_find_the_known_circuit() -> None:
    model = induction_by_hand()  # its attention is saturated: five steps along the path step over where it turns
    scores = {n: edge_attribution(model, CLEAN, CORRUPTED, DIFF, steps=n) for n in (5, 50)}
    assert set(best_edges(model, scores[50], 3).edges) == KNOWN
    edge = ("0.0", "1.1", "k")
    assert abs(best_edges(model, scores[50], 3).edges[edge]) > 0.01
    assert abs(best_edges(model, scores[5], 3).edges.get(edge, 0.0)) < 1e-4  # nothing but rounding, wherever it ranks


def test_every_edge_of_a_grown_circuit_leads_from_the_embedding_to_the_logits() -> None:
    model = ins.open(build("llama"))
    scores = edge_attribution(model, IDS, OTHER, logit_diff(3, 7), steps=3)
    wiring = Wiring.of(model)
    order = grown(wiring, torch.rand(wiring.allowed.shape, generator=torch.Generator().manual_seed(0)))
    assert sorted(order) == [tuple(e) for e in wiring.allowed.nonzero().tolist()]
    before = torch.zeros_like(wiring.allowed)
    for n in (12, 30, 60, wiring.n_edges):
        for keep in (wiring.keep_of(best_edges(model, scores, n)), first_connected(wiring, order, n)):
            assert torch.equal(wiring.connected(keep), keep)
            assert n - 10 <= int(keep.sum()) <= n
        assert bool((before & ~keep).sum() == 0)  # a larger circuit holds the smaller one
        before = keep


def test_masks_find_the_known_circuit() -> None:
    model = induction_by_hand(4.0)  # not so sharp that no gradient passes its attention
    found = learned_edges(model, CLEAN, CORRUPTED, n=3, steps=100, lr=0.1, climb=0.05)
    assert set(found.edges) == KNOWN
    assert all(p.requires_grad for p in model.module.parameters())
    again = learned_edges(model, CLEAN, CORRUPTED, n=20, steps=5)
    assert again.as_dict() == learned_edges(model, CLEAN, CORRUPTED, n=20, steps=5).as_dict()


def test_the_known_circuit_is_faithful_complete_and_minimal_and_random_paths_are_not() -> None:
    model = induction_by_hand()
    found = greedy_edges(model, CLEAN, CORRUPTED)
    (tried,) = edge_faithfulness(model, found, CLEAN, CORRUPTED, metric=DIFF, minimality=True)
    assert (tried.n_edges, tried.of) == (3, 46)
    assert tried.faithfulness.value == pytest.approx(1.0, abs=1e-4)
    assert tried.completeness.value == pytest.approx(1.0, abs=1e-4)
    assert tried.minimality == {Node(0, 0): pytest.approx(1.0, abs=1e-3), Node(1, 1): pytest.approx(1.0, abs=1e-3)}
    assert float(tried.null.max()) < 0.01
    assert tried.p == pytest.approx(1 / 21)
    assert "3 of 46 edges keep" in str(tried)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_random_paths_hang_together_and_fill_up(name: str) -> None:
    wiring = Wiring.of(ins.open(build(name)))
    for n in (3, 20, 100):
        keep = random_paths(wiring, n, seed=1)
        assert torch.equal(wiring.connected(keep), keep)
        assert n - 3 <= int(keep.sum()) <= n
    assert not torch.equal(random_paths(wiring, 20, seed=1), random_paths(wiring, 20, seed=2))


def test_a_curve_ends_at_one_and_is_what_explicit_cuts_give() -> None:
    model = ins.open(build("llama"))
    metric = logit_diff(3, 7)
    scores = edge_attribution(model, IDS, OTHER, metric, steps=3)
    circuits = [best_edges(model, scores, n) for n in (20, 190)]
    curve = edge_faithfulness(model, circuits, IDS, OTHER, metric=metric, control="any", n_sets=3)
    assert curve[-1].faithfulness.value == pytest.approx(1.0, abs=1e-3)
    assert len(curve[0].null) == 3
    runs = EdgeRuns.of(model, IDS, OTHER, metric)
    keep = runs.wiring.keep_of(circuits[0])
    alone, full, none = runs.measure(torch.stack([keep, runs.all, torch.zeros_like(keep)]))
    assert curve[0].faithfulness.value == pytest.approx(float((alone - none).mean() / (full - none).mean()), abs=1e-4)
    assert curve[0].metric[0] == pytest.approx(float(alone.mean()), abs=1e-4)


def test_what_cannot_be_searched_says_why() -> None:
    model = gpt2()
    scores = edge_attribution(model, IDS, OTHER, logit_diff(3, 7))
    with pytest.raises(ins.InputError, match="an edge goes where the metric changes by less"):
        greedy_edges(model, IDS, OTHER, threshold=0.0)
    with pytest.raises(ins.InputError, match="it can be edges or nodes"):
        greedy_edges(model, IDS, OTHER, level="heads")
    with pytest.raises(ins.InputError, match="a circuit has at least one edge"):
        best_edges(model, scores, 0)
    with pytest.raises(ins.InputError, match=r"these scores say nothing of layers.0.attn.2"):
        best_edges(model, edge_attribution(induction_by_hand(), CLEAN, CORRUPTED, DIFF), 5)
    with pytest.raises(ins.InputError, match="this model has 262 edges to choose from"):
        learned_edges(model, IDS, OTHER, n=263)
    circuit = best_edges(model, scores, 30)
    with pytest.raises(ins.InputError, match="it can be 'paths', 'any' or None"):
        edge_faithfulness(model, circuit, IDS, OTHER, metric=logit_diff(3, 7), control="connected")
    with pytest.raises(ins.InputError, match="are no contrast: cutting every edge moves"):
        edge_faithfulness(model, circuit, IDS, OTHER, metric=lambda x: torch.zeros(len(x)))
    with pytest.raises(ins.InputError, match="has no edges"):
        edge_faithfulness(model, circuit_of([(0, 1)]), IDS, OTHER, metric=logit_diff(3, 7))
    assert isinstance(circuit, Circuit)
