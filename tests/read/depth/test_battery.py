"""Lens profile, erasure and the whole battery, on the net written by hand and on random ones."""

import pytest
import torch

import inscape as ins
from inscape.models.toy.layered import SETTLED, layered_net
from inscape.read.depth.erasure import residual_erasure
from inscape.read.depth.last_token import last_effects
from inscape.read.depth.lens_profile import lens_profile
from inscape.read.depth.report import depth_report, half_difference
from inscape.read.lenses.logit import logit_lens
from tests.common.small import gpt2
from tests.common.zoo import build, inputs_for

IDS = [[0, 3, 5, 2, 7, 1], [1, 2, 3, 4, 5, 6, 7]]
ROWS = [[1, 5, 9, 13, 17, 21], [2, 6, 10]]


def test_the_lens_is_surer_after_every_layer_that_writes_the_answer() -> None:
    made = lens_profile(ins.open(layered_net()), IDS, k=1)
    assert made.overlap[:, SETTLED:].min() == 1.0
    assert made.overlap[:, :SETTLED].max() < 1.0
    kl = made.kl.mean(0)
    assert float(kl[:SETTLED].std()) < 1e-4  # nothing is written along the head before
    assert bool((kl[SETTLED:].diff() < 0).all())
    assert float(kl[-1]) == pytest.approx(0.0, abs=1e-5)
    assert made.control is not None
    assert float(made.control[:, -1].max()) == 0.0  # all tokens differ, and so do their answers
    assert made.intervals()["kl"].low.shape == kl.shape


def test_the_profile_is_the_mean_of_the_lens_without_the_first_token() -> None:
    model = gpt2()
    made = lens_profile(model, ROWS, control=None)
    reading = logit_lens(model, ROWS[:1])
    torch.testing.assert_close(made.kl[0], reading.kl[:, 0, 1:].mean(1))
    assert made.control is None
    assert float(made.overlap[0, -1]) == 1.0
    with pytest.raises(ins.InputError, match="besides its first"):
        lens_profile(model, [[3]])
    with pytest.raises(ins.InputError, match="'shuffle'"):
        lens_profile(model, ROWS, control="noise")
    with pytest.raises(ins.InputError, match="no inputs"):
        lens_profile(model, [])


def test_a_token_that_nobody_looks_at_can_be_erased() -> None:
    model = ins.open(layered_net())  # no attention: the last prediction hangs on the last token alone
    made = residual_erasure(model, IDS, at=(-2, -1))
    assert float(made.kl[..., 0].abs().max()) < 1e-6
    assert float(made.kl[:, 0, 1].min()) > 0.1


def test_erasure_is_that_of_a_plain_run() -> None:
    model = gpt2()
    made = residual_erasure(model, ROWS, at=[[2], [1]], control=None)
    site = "layers.0.resid_post"
    states = [ins.run(model, [row], read=site)[site][0] for row in ROWS]
    mean = torch.cat([s[1:] for s in states]).mean(0)
    clean = ins.run(model, ROWS[:1]).output.logits[0, -1].log_softmax(-1)
    gone = ins.run(model, ROWS[:1], edits=[ins.replace(site, mean, at=2)]).output.logits[0, -1].log_softmax(-1)
    assert float(made.kl[0, 0, 0]) == pytest.approx(float((clean.exp() * (clean - gone)).sum()), rel=1e-3)
    assert made.control is None


def test_wrong_erasures_are_refused() -> None:
    with pytest.raises(ins.InputError, match="'noise'"):
        residual_erasure(gpt2(), ROWS, control="zero")
    with pytest.raises(ins.InputError, match="predicts no next token"):
        residual_erasure(ins.open(build("bert")), [inputs_for("bert")])
    with pytest.raises(ins.InputError, match="no inputs"):
        residual_erasure(gpt2(), [])
    with pytest.raises(ins.InputError, match="one list an input"):
        residual_erasure(gpt2(), ROWS, at=[[1], [1, 2]])


def test_the_battery_finds_the_written_depth() -> None:
    made = depth_report(ins.open(layered_net()), IDS, thresholds={"overlap": 0.9})
    assert made.effective["reach"] == SETTLED
    assert made.effective["future reach"] == 0
    assert made.effective["kl"] is not None
    assert made.effective["kl"] >= SETTLED
    halves = made.halves()
    assert halves["reach"].low > 0
    assert set(made.curves()) == {"relative", "cosine", "reach", "future reach", "kl", "overlap"}
    torch.testing.assert_close(half_difference(torch.tensor([[1.0, 2.0, 5.0, 6.0]])), torch.tensor([-4.0]))


def test_the_battery_runs_on_encoders_and_refuses_one_prompt() -> None:
    one = {k: v[:1] for k, v in inputs_for("bert").items()}
    made = depth_report(ins.open(build("bert")), [one, one])
    assert made.future is None
    assert made.lens is None
    with pytest.raises(ins.InputError, match="two or more"):
        depth_report(gpt2(), ROWS[:1])
    with pytest.raises(ins.InputError, match="there are kl, overlap, reach"):
        depth_report(gpt2(), ROWS, thresholds={"depth": 1.0})


def test_the_last_prediction_minds_the_layers_that_write_it() -> None:
    made = last_effects(ins.open(layered_net(sure=0.3)), IDS)
    assert made.kl.shape == (2, 8)
    quiet, needed = made.kl[:, [0, 2]], made.kl[:, [1, 3, 4, 5, 6, 7]]
    assert float(quiet.max()) < 1e-6
    assert float(needed.min()) > 1e-3
    torch.testing.assert_close(made.kl[:, 1], made.kl[:, 3], atol=1e-5, rtol=0)  # both undo layer 4, and no more
    assert made.score().value == pytest.approx(float((made.kl.mean(0) * torch.arange(8)).sum() / made.kl.mean(0).sum()))


def test_last_effects_are_those_of_plain_runs() -> None:
    model = gpt2()
    for at, places in (("last", -1), ("all", slice(1, None))):
        made = last_effects(model, ROWS[:1], "mlp", at=at)
        clean = ins.run(model, ROWS[:1]).output.logits[0, -1].log_softmax(-1)
        gone = (
            ins.run(model, ROWS[:1], edits=[ins.skip("layers.1.mlp", at=places)]).output.logits[0, -1].log_softmax(-1)
        )
        assert float(made.kl[0, 1]) == pytest.approx(float((clean.exp() * (clean - gone)).sum()), rel=1e-3, abs=1e-7)
    with pytest.raises(ins.EditError, match="at is 'last' or 'all'"):
        last_effects(model, ROWS, at="first")
    with pytest.raises(ins.InputError, match="no inputs"):
        last_effects(model, [])
    with pytest.raises(ins.InputError, match="predicts no next token"):
        last_effects(ins.open(build("bert")), [inputs_for("bert")])
