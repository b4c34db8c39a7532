"""Skip effects: zero where nothing is written, known where it is planted, equal to the plain way of doing it."""

import pytest
import torch

import inscape as ins
from inscape.circuits.skipping import skip_effects
from tests.common.small import gpt2
from tests.common.zoo import build, inputs_for
from tests.read.planted import silent_gpt2

ROWS = [[1, 5, 9, 13, 17, 21], [2, 6, 10]]


def test_only_the_layer_that_writes_has_an_effect() -> None:
    made = skip_effects(silent_gpt2({1: torch.randn(32, generator=torch.Generator().manual_seed(0)) * 3}), ROWS)
    assert made.kl is not None
    assert made.loss is not None
    assert made.kl.tolist()[0::2] == pytest.approx([0, 0], abs=1e-6)
    assert float(made.kl[1]) > 0.05
    assert made.stream.tolist()[0::2] == [0, 0]
    assert made.control["replace"].kl is not None
    assert float(made.control["replace"].kl[0]) == pytest.approx(0.0, abs=1e-6)  # noise as long as nothing is nothing


def test_the_numbers_are_those_of_a_plain_run_with_the_layer_skipped() -> None:
    model = gpt2()
    made = skip_effects(model, ROWS, control=None)
    clean = torch.log_softmax(ins.run(model, ROWS).output.logits, -1)
    edited = torch.log_softmax(ins.run(model, ROWS, edits=[ins.skip("layers.1", at=slice(1, None))]).output.logits, -1)
    places = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 1)]  # those with a next token, the first left alone
    kl = [float((clean[p].exp() * (clean[p] - edited[p])).sum()) for p in places]
    loss = [float(clean[r, c, ROWS[r][c + 1]] - edited[r, c, ROWS[r][c + 1]]) for r, c in places]
    assert made.n_positions == len(places)
    assert made.kl is not None
    assert made.loss is not None
    assert float(made.kl[1]) == pytest.approx(sum(kl) / 5, rel=1e-3)
    assert float(made.loss[1]) == pytest.approx(sum(loss) / 5, abs=1e-4)
    assert made.per_input is not None
    assert float(made.per_input[1, 1]) == pytest.approx(kl[-1], rel=1e-3)


def test_a_layer_that_says_the_same_everywhere_does_not_mind_another_tokens_update() -> None:
    model = silent_gpt2({1: torch.randn(32, generator=torch.Generator().manual_seed(0)) * 3})
    made = skip_effects(model, ROWS, control="shuffle")
    assert float(made.control["shuffle"].stream.max()) < 1e-6
    mixed = skip_effects(gpt2(), ROWS, control="shuffle").control["shuffle"]
    assert float(mixed.stream.min()) > 0.0


@pytest.mark.parametrize("part", ["attn", "mlp"])
def test_parts_are_skipped_alone(part: str) -> None:
    model = silent_gpt2({1: torch.ones(32)})
    made = skip_effects(model, ROWS, part=part)
    assert (float(made.stream[1]) > 0) == (part == "mlp")


def test_noise_moves_the_stream_as_far_as_the_skip_in_the_last_layer() -> None:
    made = skip_effects(silent_gpt2({2: torch.randn(32, generator=torch.Generator().manual_seed(0))}), ROWS)
    assert float(made.control["noise"].stream[2]) > 0.3 * float(made.stream[2])


def test_encoders_and_image_models_have_an_effect_without_a_loss() -> None:
    for name in ("bert", "vit"):
        made = skip_effects(ins.open(build(name)), inputs_for(name))
        assert made.kl is not None
        assert made.loss is None
        assert float(made.kl.min()) > 0


def test_wrong_words_are_refused() -> None:
    with pytest.raises(ins.EditError, match="attn"):
        skip_effects(gpt2(), ROWS, part="head")
    with pytest.raises(ins.EditError, match="noise"):
        skip_effects(gpt2(), ROWS, control="zero")
    with pytest.raises(ins.ModelError, match="could be skipped"):
        skip_effects(ins.open(build("resnet")), inputs_for("resnet"))
