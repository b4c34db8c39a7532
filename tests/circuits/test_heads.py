"""Head scores: planted heads have their score, even attention is at chance, and the probe is what it says."""

import pytest
import torch

import inscape as ins
from inscape.circuits.heads import head_scores
from tests.common.zoo import build
from tests.read.planted import even_gpt2, positional_gpt2


def test_even_attention_scores_chance_everywhere() -> None:
    made = head_scores(even_gpt2(), length=8)
    for kind, score in made.scores.items():
        torch.testing.assert_close(score, made.chance[kind][:, None].expand_as(score))
    wanted = sum(1 / (q + 1) for q in range(9, 17)) / 8
    assert float(made.chance["induction"][0]) == pytest.approx(wanted)


def test_a_planted_previous_token_head_is_found() -> None:
    made = head_scores(positional_gpt2(1), length=8)
    assert float(made.scores["previous"][0, 0]) > 0.95
    assert float(made.scores["induction"][0, 0]) < 0.05
    assert made.top("previous", 1)[0][:2] == ("layers.0", 0)


def test_a_head_that_goes_by_position_keeps_its_induction_score_on_the_shuffled_probe() -> None:
    made = head_scores(positional_gpt2(7), length=8)  # looks L - 1 back, whatever the tokens are
    assert made.control is not None
    assert float(made.scores["induction"][0, 0]) > 0.95
    assert float(made.control["induction"][0, 0]) > 0.95


def test_a_sliding_window_leaves_what_it_cannot_see_empty() -> None:
    made = head_scores(ins.open(build("gemma3_text")), length=12)
    seen = made.scores["induction"].isnan().all(1)
    assert bool(seen.any())
    assert not bool(made.scores["previous"].isnan().any())


def test_models_that_cannot_run_the_probe_say_why() -> None:
    with pytest.raises(ins.ModelError, match="does not read tokens"):
        head_scores(ins.open(build("vit")))
    with pytest.raises(ins.ModelError, match="no attention pattern"):
        head_scores(ins.open(build("mamba")))
    with pytest.raises(ins.ModelError, match="tokens alone"):
        head_scores(ins.open(build("clip")))
    with pytest.raises(ins.InputError, match="previous"):
        head_scores(even_gpt2(), length=4).top("copying")
