"""Curves of faithfulness are what one knock-out a size gives, and tell a circuit's ranking from random ones."""

import pytest
import torch

import inscape as ins
from inscape.circuits.faithfulness import faithfulness_curve, ranked_heads
from inscape.circuits.knockout import knock_out
from inscape.circuits.paths import path_patching
from inscape.core.circuit import Circuit, Node
from tests.common.hand_built import SAYS, WRITES, induction_by_hand
from tests.common.small import gpt2
from tests.common.zoo import build

CLEAN = torch.tensor([[0, 3, 5, 1, 6, 2, 3], [0, 2, 6, 1, 5, 4, 2]])
CORRUPTED = torch.tensor([[0, 4, 5, 1, 6, 2, 3], [0, 3, 6, 1, 5, 4, 2]])
METRIC = ins.logit_diff([5, 6], [1, 1])
EVERY = [(layer, head) for layer in range(3) for head in range(4)]


def small():
    clean = torch.tensor([[5, 9, 13, 17, 21, 25], [6, 10, 14, 18, 22, 26]])
    corrupted = clean.clone()
    corrupted[:, 2] = torch.tensor([40, 41])
    return clean, corrupted, ins.logit_diff(3, 7)


def test_a_known_circuit_is_whole_with_its_two_heads():
    model = induction_by_hand()
    order = [SAYS, WRITES, (0, 1 - WRITES[1]), (1, 1 - SAYS[1])]
    curve = faithfulness_curve(model, order, CLEAN, CORRUPTED, metric=METRIC, n_sets=30)
    assert curve.sizes == (1, 2, 3, 4)
    assert curve.faithfulness.value.tolist() == pytest.approx([0, 1, 1, 1], abs=1e-3)
    assert curve.completeness.value.tolist() == pytest.approx([1, 1, 1, 1], abs=1e-3)
    assert curve.needed(0.9) == 2
    assert curve.faithfulness_area.observed == pytest.approx((0.5 + 1 + 1) / 4, abs=1e-3)
    assert float(curve.faithfulness_null[:, 1].mean()) < 0.6  # one of four random pairs of heads is the circuit
    assert "of 4 heads, 2 pairs" in str(curve)


@pytest.mark.parametrize("how", ["resample", "zero"])
def test_every_size_is_one_knock_out(how):
    model = ins.open(build("gemma3_text")) if how == "resample" else gpt2()
    clean, corrupted, metric = small()
    order = [(2, 1), (0, 3), (1, 2), (2, 0), (0, 0)]
    curve = faithfulness_curve(model, order, clean, corrupted, metric=metric, how=how, sizes=[1, 3, 5], n_sets=3)
    for i, n in enumerate(curve.sizes):
        alone = knock_out(model, order[:n], clean, corrupted, metric=metric, how=how, control=None)
        assert float(curve.faithfulness.value[i]) == pytest.approx(alone.faithfulness.value, abs=1e-4)
        assert float(curve.completeness.value[i]) == pytest.approx(alone.completeness.value, abs=1e-4)


def test_with_every_head_nothing_is_lost_and_random_rankings_end_there_too():
    clean, corrupted, metric = small()
    curve = faithfulness_curve(gpt2(), EVERY, clean, corrupted, metric=metric, n_sets=4)
    assert curve.sizes == (1, 2, 3, 4, 6, 8, 12)
    for found in (curve.faithfulness.value[-1], curve.completeness.value[-1], *curve.faithfulness_null[:, -1]):
        assert float(found) == pytest.approx(1.0, abs=1e-6)
    assert curve.faithfulness_null.shape == (4, 7)
    assert float(curve.faithfulness_p[-1]) == 1.0


def test_a_share_is_a_ratio_of_means_so_that_a_pair_without_contrast_weighs_nothing():
    from inscape.circuits.heads_out import Kept

    kept = Kept(torch.tensor([[1.0, 4.0], [0.5, 1e-3], [2.0, 6.0]]).double(), torch.tensor([4.0, 1e-6, 8.0]).double())
    assert kept.share.tolist() == pytest.approx([3.5 / 12, 10.001 / 12], abs=1e-6)
    found = kept.interval(0, seed=0, gone=True)
    assert found.value == pytest.approx(1 - 3.5 / 12, abs=1e-6)
    assert found.low <= found.value <= found.high


def test_without_a_control_there_is_no_p_and_one_pair_has_no_interval():
    clean, corrupted, metric = small()
    curve = faithfulness_curve(
        gpt2(), EVERY, clean[:1], corrupted[:1], metric=metric, control=None, sizes=[1, 12], padding_side="left"
    )
    assert bool(curve.faithfulness_p.isnan().all())
    assert float(curve.faithfulness.high[0]) == float("inf")
    assert curve.needed(2.0) is None


def test_heads_are_ranked_by_the_size_of_their_effect_or_by_its_sign():
    model = induction_by_hand()
    grid = path_patching(model, CLEAN, CORRUPTED, metric=METRIC)
    assert ranked_heads(model, grid)[0] == SAYS
    clean, corrupted, metric = small()
    swept = ins.sweep(
        gpt2(), clean, corrupted, sites="layers.*.attn.z", heads="all", positions=None, metric=metric, direction="noise"
    )
    ranked, signed = (ranked_heads(gpt2(), swept, signed=s) for s in (False, True))
    effect = (swept.values - swept.base.mean()) * torch.sign(swept.other.mean() - swept.base.mean())
    assert sorted(ranked) == sorted(signed) == EVERY
    assert [abs(float(effect[h])) for h in ranked] == sorted((abs(float(effect[h])) for h in EVERY), reverse=True)
    assert [float(effect[h]) for h in signed] == sorted((float(effect[h]) for h in EVERY), reverse=True)


def test_a_circuit_is_ranked_by_its_weights():
    clean, corrupted, metric = small()
    circuit = Circuit({Node(0, 1): 0.1, Node(2, 3): -0.5, Node(1): 9.0})
    curve = faithfulness_curve(gpt2(), circuit, clean, corrupted, metric=metric, control=None)
    assert curve.order == ((2, 3), (0, 1))


BAD = [
    ({"order": []}, "this circuit has no heads"),
    ({"order": [(0, 9)]}, "head 0.9 is not in this model"),
    ({"order": [(0, 1), (0, 1)]}, "head 0.1 is in this ranking twice"),
    ({"sizes": [0, 1]}, "they are rising numbers from 1 to 2"),
    ({"sizes": [2, 1]}, "they are rising numbers from 1 to 2"),
    ({"control": "random"}, "it can be 'layer-matched' or None"),
    ({"how": "mean"}, "it can be resample or zero"),
    ({"metric": None}, "faithfulness_curve needs a metric"),
    ({"metric": lambda x: torch.zeros(len(x))}, "are no contrast"),
]


@pytest.mark.parametrize(("how", "said"), BAD, ids=[said for _, said in BAD])
def test_what_is_no_curve_says_why(how, said):
    clean, corrupted, metric = small()
    given = {"order": [(0, 1), (1, 2)], "metric": metric} | how
    with pytest.raises(ins.InputError, match=said):
        faithfulness_curve(gpt2(), given.pop("order"), clean, corrupted, n_sets=2, **given)


def test_a_grid_of_positions_ranks_no_heads():
    clean, corrupted, metric = small()
    with pytest.raises(ins.InputError, match="this grid has the axes site, position"):
        ranked_heads(gpt2(), ins.sweep(gpt2(), clean, corrupted, metric=metric))
    with pytest.raises(ins.SiteError, match=r"embed lies in no layer; layers are layers.0 to layers.2"):
        gpt2().layer_of("embed")
