"""Correlating a lens with known quantities: planted ones are found in their layer, shuffled ones are not."""

import copy

import pytest
import torch
from scipy.stats import spearmanr

import inscape as ins
from inscape.core.errors import InputError, ShapeError
from inscape.read.lenses.logit import checked_unembedding
from inscape.read.localize import correlate
from tests.common.small import gpt2_module

ITEMS = torch.randint(4, 64, (12, 6), generator=torch.Generator().manual_seed(1))
CANDIDATES = list(range(10, 40))


def planted(layer: int, quantity: torch.Tensor) -> "ins.Model":
    """A small GPT-2 whose one block adds, by its bias, a direction that the head reads as this order of candidates."""
    module = copy.deepcopy(gpt2_module())
    read = module.lm_head.weight.detach()[CANDIDATES] * module.transformer.ln_f.weight.detach()
    read = read - read.mean(1, keepdim=True)  # what the head reads past the norm, which centres
    direction = torch.linalg.pinv(read, rtol=0.1) @ (quantity - quantity.mean())
    with torch.no_grad():
        module.transformer.h[layer].mlp.c_proj.bias.add_(200 * direction / direction.norm())
    return ins.open(module)


def test_values_are_the_mean_spearman_of_each_item():
    model = ins.open(gpt2_module())
    target = torch.randn(12, 30, generator=torch.Generator().manual_seed(0))
    found = correlate(model, ITEMS, CANDIDATES, {"x": target, "y": target[0]}, n=20)
    stages = ("layers.0.resid_pre", "layers.0.resid_post", "layers.1.resid_post", "layers.2.resid_post")
    assert found.stages == stages
    unembed = checked_unembedding(model, ITEMS)
    trace = ins.run(model, ITEMS, read=list(stages))
    for i, stage in enumerate(stages):
        lens = unembed(trace[stage][:, -1])[:, CANDIDATES]
        each = [spearmanr(a, b).statistic for a, b in zip(lens, target, strict=True)]
        assert found.value["x"][i].item() == pytest.approx(sum(each) / 12, abs=1e-6)
        shared = [spearmanr(a, target[0]).statistic for a in lens]
        assert found.value["y"][i].item() == pytest.approx(sum(shared) / 12, abs=1e-6)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_planted_quantity_is_found_in_its_layer(layer):
    quantity = torch.randn(30, generator=torch.Generator().manual_seed(3))
    other = torch.randn(30, generator=torch.Generator().manual_seed(4))
    found = correlate(planted(layer, quantity), ITEMS, CANDIDATES, {"planted": quantity, "other": other}, n=400)
    assert found.jump("planted") == f"layers.{layer}"
    assert found.value["planted"].max() > found.band("planted")
    assert found.p["planted"].min() < 0.01
    assert found.value["other"].max() < found.band("other")
    assert found.layers == ("layers.0", "layers.1", "layers.2")
    assert found.peak("planted") in found.layers[layer:]


def test_under_the_null_the_best_layer_is_rarely_significant():
    model = ins.open(gpt2_module())
    generator = torch.Generator().manual_seed(5)
    targets = {str(i): torch.randn(30, generator=generator) for i in range(60)}
    found = correlate(model, ITEMS, CANDIDATES, targets, n=200)
    assert sum(float(p.min()) < 0.05 for p in found.p.values()) <= 8  # 3 expected


def test_a_baseline_takes_out_what_every_input_shows():
    quantity = torch.randn(30, generator=torch.Generator().manual_seed(3))
    model = planted(1, quantity)
    neutral = torch.randint(4, 64, (30, 6), generator=torch.Generator().manual_seed(8))
    plain = correlate(model, ITEMS, CANDIDATES, {"x": quantity}, n=50)
    without = correlate(model, ITEMS, CANDIDATES, {"x": quantity}, baseline=neutral, n=50)
    assert plain.value["x"][2] > 0.6
    assert without.value["x"][2].abs() < 0.4


def test_another_position_is_read_where_asked():
    model = ins.open(gpt2_module())
    target = torch.randn(30, generator=torch.Generator().manual_seed(0))
    there = correlate(model, ITEMS, CANDIDATES, {"x": target}, at=3, n=10)
    ending = correlate(model, ITEMS[:, :4], CANDIDATES, {"x": target}, n=10)
    torch.testing.assert_close(there.value["x"], ending.value["x"])


def test_what_cannot_be_localized_says_so():
    model = ins.open(gpt2_module())
    with pytest.raises(ShapeError, match=r"'x' has shape \(5,\); it is one number a candidate \(30,\)"):
        correlate(model, ITEMS, CANDIDATES, {"x": torch.zeros(5)})
    with pytest.raises(InputError, match="'x' is the same for all candidates"):
        correlate(model, ITEMS, CANDIDATES, {"x": torch.zeros(30)})
    with pytest.raises(InputError, match="2 different candidates cannot be ranked"):
        correlate(model, ITEMS, [4, 5, 5], {"x": torch.zeros(3)})
    found = correlate(model, ITEMS, CANDIDATES, {"x": torch.randn(30)}, n=5)
    with pytest.raises(InputError, match="no quantity is called 'y'; there are x"):
        found.jump("y")
