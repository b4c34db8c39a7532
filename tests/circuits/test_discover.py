"""Discovery finds a hand-built circuit and nothing else; knocking out tells it from random ones."""

from dataclasses import replace

import pytest
import torch

import inscape as ins
from inscape.circuits.discover import Trail, compare, discover
from inscape.circuits.knockout import knock_out
from inscape.circuits.paths import path_patching
from inscape.core.circuit import Circuit, Node, circuit_of
from tests.common.hand_built import SAYS, WRITES, induction_by_hand
from tests.common.small import gpt2

CLEAN = torch.tensor([[0, 3, 5, 1, 6, 2, 3], [0, 2, 6, 1, 5, 4, 2]])
CORRUPTED = torch.tensor([[0, 4, 5, 1, 6, 2, 3], [0, 3, 6, 1, 5, 4, 2]])
METRIC = ins.logit_diff([5, 6], [1, 1])
TRAIL = (Trail("says"), Trail("writes", "says", "k"), Trail("asks", "says", "q"))


def test_the_known_circuit_is_found_and_no_more():
    model = induction_by_hand()
    found = discover(model, CLEAN, CORRUPTED, trail=TRAIL, metric=METRIC)
    assert found.heads == (WRITES, SAYS)
    assert found.roles == {Node(*SAYS): "says", Node(*WRITES): "writes"}
    assert set(found.edges) == {("1.1", "logits", ""), ("0.0", "1.1", "k")}
    assert found.edges["0.0", "1.1", "k"] == pytest.approx(1.0, abs=1e-3)


def test_a_pair_of_little_contrast_does_not_decide_which_heads_matter(monkeypatch):
    model = gpt2()
    clean = torch.tensor([[5, 9, 13, 17], [6, 10, 14, 18]])
    corrupted = torch.tensor([[5, 40, 13, 17], [6, 41, 14, 18]])
    grid = path_patching(model, clean, corrupted, metric=ins.logit_diff([3, 4], [7, 8]))
    values = torch.zeros(2, 3, 4)
    values[0, 1, 2], values[1, 2, 3] = 3.0, 0.04  # of 4 and of 0.01
    made = replace(grid, per_pair=values, values=values.mean(0), base=torch.zeros(2), other=torch.tensor([4.0, 0.01]))
    assert int(made.normalised().argmax()) == 2 * 4 + 3
    torch.testing.assert_close(made.pooled()[1, 2], torch.tensor(3.0 / 4.01))
    monkeypatch.setattr("inscape.circuits.discover.path_patching", lambda *given, **more: made)
    found = discover(model, clean, corrupted, trail=(Trail("says"),), top=1, metric=METRIC)
    assert found.heads == ((1, 2),)
    with pytest.raises(ins.InputError, match="no second run to measure against"):
        replace(made, other=None).pooled()


def test_a_circuit_alone_keeps_the_behaviour_and_without_it_nothing_is_left():
    model = induction_by_hand()
    tried = knock_out(model, [WRITES, SAYS], CLEAN, CORRUPTED, metric=METRIC, minimality=True, n_sets=50)
    assert tried.faithfulness.value == pytest.approx(1.0, abs=1e-4)
    assert tried.completeness.value == pytest.approx(1.0, abs=1e-4)
    assert all(fall == pytest.approx(1.0, abs=1e-3) for fall in tried.minimality.values())
    assert tried.faithfulness_p > 0.1  # of two heads a layer, a random set is often the circuit itself
    assert "random sets of the same layers" in str(tried)


def test_an_idle_head_adds_nothing_and_is_not_minimal():
    model = induction_by_hand()
    tried = knock_out(model, [WRITES, SAYS, (0, 1)], CLEAN, CORRUPTED, metric=METRIC, minimality=True, control=None)
    assert tried.faithfulness.value == pytest.approx(1.0, abs=1e-4)
    assert tried.minimality[Node(0, 1)] == pytest.approx(0.0, abs=1e-4)
    half = knock_out(model, [SAYS], CLEAN, CORRUPTED, metric=METRIC, control=None)
    assert half.faithfulness.value == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("how", ["resample", "zero"])
@pytest.mark.parametrize("mlps", [False, True])
def test_it_is_what_explicit_runs_give(how, mlps):
    model = gpt2()
    clean = torch.tensor([[5, 9, 13, 17, 21, 25]])
    corrupted = torch.tensor([[5, 9, 40, 17, 21, 25]])
    inside = [(0, 1), (1, 2), (2, 0), (2, 3)]
    tried = knock_out(model, inside, clean, corrupted, metric=ins.logit_diff(3, 7), how=how, mlps=mlps, control=None)
    sites = [f"layers.{i}.attn.z" for i in range(3)] + [f"layers.{i}.mlp_out" for i in range(3)] * mlps
    theirs = ins.run(model, corrupted, read=sites)

    def value(heads):
        edits = []
        for i in range(3):
            out = [h for h in range(4) if (i, h) not in heads]
            for site, places in ((f"layers.{i}.attn.z", {"heads": out}), (f"layers.{i}.mlp_out", {})):
                if site in sites and len(heads) < 12 and (out or "mlp" in site):
                    edit = ins.patch(site, theirs, **places) if how == "resample" else ins.ablate(site, **places)
                    edits.append(edit)
        x = ins.run(model, clean, edits=edits).output.logits[0, -1]
        return float(x[3] - x[7])

    full, none = value([(i, h) for i in range(3) for h in range(4)]), value([])
    assert tried.faithfulness.value == pytest.approx((value(inside) - none) / (full - none), abs=1e-3)


def test_an_mlp_is_minimal_by_what_is_lost_when_it_alone_leaves_the_circuit():
    model = gpt2()
    clean, corrupted = torch.tensor([[5, 9, 13, 17, 21, 25]]), torch.tensor([[5, 9, 40, 17, 21, 25]])
    how = {"metric": ins.logit_diff(3, 7), "mlps": True, "control": None}
    whole = circuit_of([(0, 1), (1, 2), (2, 0)], [0, 2])
    tried = knock_out(model, whole, clean, corrupted, minimality=True, **how)
    assert list(tried.minimality) == [Node(0, 1), Node(1, 2), Node(2, 0), Node(0), Node(2)]
    for layer in (0, 2):
        less = circuit_of(whole.heads, [m for m in whole.mlps if m != layer])
        fall = tried.faithfulness.value - knock_out(model, less, clean, corrupted, **how).faithfulness.value
        assert tried.minimality[Node(layer)] == pytest.approx(fall, abs=1e-5)
        assert abs(fall) > 1e-3


def test_circuits_are_compared_beside_random_ones_of_their_layers():
    a = circuit_of([(1, 2), (2, 3), (3, 0), (3, 1)], roles={Node(1, 2): "x"})
    b = circuit_of([(1, 2), (2, 3), (3, 0), (3, 5)], roles={Node(1, 2): "x"})
    same = compare(a, b, 8)
    assert (same.jaccard, same.of_first, same.of_second) == (3 / 5, 3 / 4, 3 / 4)
    assert same.by_role == {"x": 1.0}
    # three shared: (1/8)(1/8)(13/28) with one of layer 3, 2 (1/8)(7/8)(1/28) with both of it and one other
    assert same.p == pytest.approx(0.0151, abs=0.008)
    apart = compare(a, circuit_of([(1, 5), (2, 6), (3, 2), (3, 3)]), 8)
    assert apart.jaccard == 0
    assert apart.p > 0.5


def test_a_circuit_survives_a_file(tmp_path):
    made = Circuit({Node(1, 2): 0.5, Node(3): -0.1}, {("1.2", "logits", ""): 0.5}, {Node(1, 2): "mover"}, "m", "made")
    made.save(tmp_path / "c.json")
    read = Circuit.load(tmp_path / "c.json")
    assert read.as_dict() == made.as_dict()
    assert (read.heads, read.mlps) == (((1, 2),), (3,))
    (tmp_path / "c.json").write_text('{"kind": "circuit"')
    with pytest.raises(ins.FileError, match="is no JSON file"):
        Circuit.load(tmp_path / "c.json")
    (tmp_path / "c.json").write_text('{"kind": "edits"}')
    with pytest.raises(ins.FileError, match="holds no circuit of version 1"):
        Circuit.load(tmp_path / "c.json")
    with pytest.raises(ins.FileError, match="there is no file"):
        Circuit.load(tmp_path / "d.json")


def test_what_is_no_circuit_says_why():
    with pytest.raises(ins.InputError, match="'9-6' is no node"):
        Node.of("9-6")
    with pytest.raises(ins.InputError, match="has an end that is no node"):
        Circuit({Node(1, 2): 1.0}, {("1.2", "3.4", "q"): 1.0})
    with pytest.raises(ins.InputError, match=r"3.mlp has a role and is no node"):
        Circuit({Node(1, 2): 1.0}, {}, {Node(3): "x"})
    model = gpt2()
    for heads, said in (([], "this circuit has no heads"), ([(0, 9)], r"head 0.9 is not in this model")):
        with pytest.raises(ins.InputError, match=said):
            knock_out(model, heads, CLEAN, CORRUPTED, metric=METRIC)
    with pytest.raises(ins.InputError, match="goes back from 'movers', which no step"):
        discover(model, CLEAN, CORRUPTED, trail=(Trail("a", "movers"),), metric=METRIC)
    with pytest.raises(ins.InputError, match="pairs are no contrast: knocking out every head"):
        knock_out(model, [(0, 1)], CLEAN, CORRUPTED, metric=lambda x: torch.zeros(len(x)))
