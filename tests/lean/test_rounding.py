"""Rounded weights: on the grid, never far from the weight, and the given model is left as it is."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.lean.rounding import rounded, rounded_weights
from tests.common.small import gpt2
from tests.common.zoo import build, inputs_for


@given(st.integers(0, 10_000), st.integers(2, 8))
def test_no_weight_moves_more_than_half_a_step_and_twice_is_once(seed: int, bits: int) -> None:
    w = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed))
    made = rounded_weights(w, bits)
    step = w.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    assert bool(((made - w).abs() <= step / 2 + 1e-6).all())
    assert int(made[0].unique().numel()) <= 2**bits - 1
    torch.testing.assert_close(rounded_weights(made, bits), made)


def test_zero_channels_stay_zero() -> None:
    assert float(rounded_weights(torch.zeros(2, 3), 4).abs().max()) == 0.0


@pytest.mark.parametrize("name", ["gpt2", "gemma3_text", "llama"])
def test_the_given_model_is_left_alone_and_fewer_bits_change_more(name: str) -> None:
    model, inputs = ins.open(build(name)), inputs_for(name)
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    plain = ins.run(model, inputs).output.logits
    far = [float((ins.run(rounded(model, b), inputs).output.logits - plain).abs().max()) for b in (3, 8, 16)]
    assert far[0] > far[1] > far[2]
    assert far[2] < 1e-2
    for k, v in model.module.state_dict().items():
        assert torch.equal(v, before[k])
    made = rounded(model, 4)
    assert made.module.get_input_embeddings().weight is model.module.get_input_embeddings().weight
    assert made.fingerprint != model.fingerprint
    assert "rounded to 4 bits" in made.notes[-1]


def test_the_head_is_rounded_when_asked() -> None:
    model = gpt2()
    made = rounded(model, 4, head=True)
    assert not torch.equal(made.module.lm_head.weight, model.module.lm_head.weight)
    assert made.module.lm_head.weight is made.module.transformer.wte.weight  # tied stays tied


def test_other_bits_and_models_are_refused() -> None:
    with pytest.raises(ins.InputError, match="2 to 16 bits"):
        rounded(gpt2(), 1)
    with pytest.raises(ins.ModelError, match="no linear layer"):
        rounded(ins.open(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1))))
