"""The logit lens: against the model's own scores, and where the truth is planted."""

import pytest
import torch

import inscape as ins
from inscape.read.lenses.logit import logit_lens
from tests.common.small import gpt2, gpt2_module
from tests.common.zoo import build, inputs_for
from tests.read.planted import silent_gpt2

ROWS = [[1, 5, 9, 13, 17, 21], [2, 6, 10]]


def test_the_last_layer_says_what_the_model_says() -> None:
    model = gpt2()
    reading = logit_lens(model, ROWS, k=3)
    whole = torch.log_softmax(ins.run(model, ROWS).output.logits, -1)
    real = reading.mask
    assert reading.layers[-1] == "layers.2.resid_post"
    assert bool((reading.rank[-1][real] == 1).all())
    assert torch.equal(reading.top[-1][real], whole.topk(3).indices[real])
    torch.testing.assert_close(reading.probability[-1][real], whole.topk(3).values.exp()[real])
    torch.testing.assert_close(reading.entropy[-1][real], -(whole.exp() * whole).sum(-1)[real], atol=1e-4, rtol=1e-4)
    assert float(reading.kl[-1].abs().max()) < 1e-5


def test_chunks_do_not_change_what_is_read() -> None:
    whole, small = logit_lens(gpt2(), ROWS), logit_lens(gpt2(), ROWS, budget=1)
    assert torch.equal(whole.rank, small.rank)
    assert whole.control is not None
    assert small.control is not None
    assert torch.equal(whole.control, small.control)
    torch.testing.assert_close(whole.kl, small.kl, atol=1e-5, rtol=1e-4)


def test_layers_that_write_nothing_leave_the_first_layer_at_the_final_answer() -> None:
    reading = logit_lens(silent_gpt2(), ROWS)
    assert bool((reading.rank[:, reading.mask] == 1).all())
    assert float(reading.kl.abs().max()) < 1e-5
    assert reading.control is not None
    assert float(reading.control[:, reading.mask].float().mean()) > 1.5  # another position's token is not on top


def test_the_rules_after_the_head_are_part_of_the_lens() -> None:
    for name, word in (("gemma2", "softcap"), ("cohere", "times"), ("granite", "divided")):
        reading = logit_lens(ins.open(build(name)), inputs_for(name))
        assert bool((reading.rank[-1] == 1).all())
        if word != "softcap" or "softcap" in reading.how:
            assert word in reading.how
        assert "norm" in reading.how


def test_a_head_that_is_not_one_row_a_position_is_refused() -> None:
    with pytest.raises(ins.ModelError, match="not one row a position"):
        logit_lens(ins.open(build("vit")), inputs_for("vit"))


def test_a_head_with_more_in_it_than_is_known_is_refused() -> None:
    with pytest.raises(ins.ModelError, match="differ from the model's own"):
        logit_lens(ins.open(build("t5")), inputs_for("t5"))


def test_a_row_loses_its_padding() -> None:
    row = logit_lens(gpt2(), ROWS).row(1)
    assert row.rank.shape == (3, 1, 3)
    assert row.tokens is not None
    assert row.tokens.tolist() == [[2, 6, 10]]


def test_the_lens_leaves_no_hook() -> None:
    from tests.common.small import hooks_left

    logit_lens(gpt2(), ROWS)
    assert hooks_left(gpt2_module()) == 0


def test_an_unknown_control_is_refused() -> None:
    with pytest.raises(ins.InputError, match="shuffle"):
        logit_lens(gpt2(), ROWS, control="mean")
