"""Massive activations and sinks: planted ones are found, and nothing is found where nothing is."""

import pytest
import torch

import inscape as ins
from inscape.read.outliers.massive import massive
from inscape.read.outliers.sinks import attention_sinks
from tests.common.zoo import build, inputs_for
from tests.read.planted import even_gpt2, silent_gpt2

ROWS = [[1, 5, 9, 13, 17, 21], [2, 6, 5]]


def test_a_planted_massive_activation_is_found_where_it_is() -> None:
    model = silent_gpt2()
    with torch.no_grad():
        model.module.transformer.wte.weight[5, 7] = -9000.0
    made = massive(model, [[row] for row in ROWS])
    assert {(m.site, m.row, m.pos, m.token, m.dim) for m in made.found} == {
        (f"layers.{layer}.resid_post", row, pos, 5, 7) for layer in range(3) for row, pos in ((0, 1), (1, 2))
    }
    assert all(m.value == pytest.approx(-9000, abs=10) and m.ratio > 1000 for m in made.found)
    assert all(m.same_dim < 100 and m.same_token < 100 for m in made.found)
    assert made.first_only == 0.0


def test_a_model_without_them_has_none_and_says_how_large_its_values_are() -> None:
    made = massive(silent_gpt2(), [ROWS])
    assert made.found == ()
    assert bool((made.top[:, 0] >= made.top[:, 2]).all())
    assert bool((made.top[:, 2] > made.median).all())
    assert made.n_values == 3 * 9 * 32  # padding does not count


def test_even_attention_is_at_chance_everywhere() -> None:
    made = attention_sinks(even_gpt2(), [[row] for row in ROWS])
    torch.testing.assert_close(made.first, made.chance)
    wanted = sum(1 / (q + 1) for q in range(1, 6)) / 5
    torch.testing.assert_close(made.received[0][:, 0], torch.full((2,), wanted))
    assert bool(made.received[0][:, -1].isnan().all())  # nobody comes after the last token


def test_a_model_without_attention_is_refused() -> None:
    with pytest.raises(ins.ModelError, match="no attention pattern"):
        attention_sinks(ins.open(build("mamba")), [inputs_for("mamba")])
