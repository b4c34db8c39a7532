"""Neuron sparsity: known vectors, counted zeros, and the Gaussian control against its formula."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.read.sparsity.neurons import hoyer, neuron_sparsity
from tests.common.small import gpt2
from tests.common.zoo import build, inputs_for


@given(n=st.integers(2, 64), size=st.floats(0.1, 100))
def test_hoyer_is_one_for_a_single_neuron_and_zero_for_equal_ones(n: int, size: float) -> None:
    single = torch.zeros(n, dtype=torch.float64)
    single[n // 2] = -size
    assert float(hoyer(single)) == pytest.approx(1.0)
    assert float(hoyer(torch.full((n,), size, dtype=torch.float64))) == pytest.approx(0.0, abs=1e-9)
    assert float(hoyer(torch.zeros(n, dtype=torch.float64))) == 0.0


def test_zeros_are_counted() -> None:
    model = ins.open(build("opt"))
    inputs = inputs_for("opt")
    made = neuron_sparsity(model, [inputs])
    trace = ins.run(model, inputs, read="layers.*.mlp.act")
    for layer, name in enumerate(made.layers):
        assert float(made.zero[layer]) == pytest.approx(float((trace[name] == 0).float().mean()), abs=1e-5)
    assert 0.2 < float(made.zero.mean()) < 0.8  # OPT's neurons are rectified


def test_the_gaussian_control_is_what_the_formula_says() -> None:
    rows = torch.randint(3, 60, (8, 40), generator=torch.Generator().manual_seed(0))
    made = neuron_sparsity(gpt2(), [rows], threshold=0.3)
    assert made.control_near is not None
    assert made.control_near.tolist() == pytest.approx([math.erf(0.3 / math.sqrt(2))] * 3, abs=0.01)
    assert made.control_hoyer is not None
    assert 0.15 < float(made.control_hoyer.mean()) < 0.3


def test_a_model_without_neurons_is_refused() -> None:
    with pytest.raises(ins.ModelError, match=r"mlp\.act"):
        neuron_sparsity(ins.open(build("resnet")), [inputs_for("resnet")])
