"""Residual updates: the identity on many families, and sizes and cosines where they are planted."""

import pytest
import torch

import inscape as ins
from inscape.read.geometry.updates import contributions, updates
from tests.common.small import gpt2
from tests.common.zoo import build, inputs_for
from tests.read.planted import silent_gpt2

ROWS = [[1, 5, 9, 13, 17, 21], [2, 6, 10]]


@pytest.mark.parametrize("name", ["gpt2", "gemma3_text", "cohere", "deepseek_v3", "mamba", "vit", "modernbert", "t5"])
def test_what_is_added_is_all_there_is(name: str) -> None:
    read = updates(ins.open(build(name)), inputs_for(name))
    assert read.error is not None
    assert read.error < 1e-5


def test_a_stream_that_is_normalised_after_every_addition_claims_no_identity() -> None:
    read = updates(ins.open(build("bert")), inputs_for("bert"))
    assert read.error is None
    made = contributions(ins.open(build("bert")), [inputs_for("bert")])
    assert not made.additive


def test_planted_updates_have_their_known_size_and_cosine() -> None:
    plain = silent_gpt2()
    written = torch.randn(32, generator=torch.Generator().manual_seed(3))
    model = silent_gpt2({1: written})
    stream = ins.run(plain, ROWS[:1], read="layers.0.resid_post")["layers.0.resid_post"][0, 1:]
    made = contributions(model, [ROWS[:1]])
    wanted = float((written.norm() / stream.norm(dim=-1)).mean())
    assert float(made.relative["mlp_out"][1]) == pytest.approx(wanted, rel=1e-4)
    assert float(made.relative["mlp_out"][0]) == pytest.approx(0.0, abs=1e-6)
    cosine = float(torch.cosine_similarity(written.expand_as(stream), stream, dim=-1).mean())
    assert float(made.cosine["mlp_out"][1]) == pytest.approx(cosine, abs=1e-5)
    assert float(made.control["mlp_out"][1]) == pytest.approx(cosine, abs=1e-5)  # a constant is the same at every token


def test_the_first_token_and_padding_are_left_out() -> None:
    with_first = contributions(gpt2(), [ROWS], skip_first=False)
    without = contributions(gpt2(), [ROWS])
    assert (with_first.n_tokens, without.n_tokens) == (9, 7)


def test_only_one_token_is_refused() -> None:
    with pytest.raises(ins.InputError, match="no token is left"):
        contributions(gpt2(), [[[5]]])


def test_a_model_without_a_stream_is_refused() -> None:
    with pytest.raises(ins.ModelError, match="no residual stream"):
        updates(ins.open(build("resnet")), inputs_for("resnet"))
