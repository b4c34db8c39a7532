"""A dose-response is the obvious loop over doses, curves and prompts; it finds what is planted, and says when not."""

import dataclasses
import functools
import json
from typing import Any

import pytest
import torch

import inscape as ins
from inscape.core.judges import Judge, length
from inscape.core.nulls import random_directions
from inscape.steer.dose import Dose
from inscape.steer.dose_response import dose_response, repeated
from inscape.steer.judges import answer_mass
from tests.common.small import direction, gpt2

DRAW = torch.Generator().manual_seed(0)
PROMPTS = [torch.randint(1, 64, (int(n),), generator=DRAW).tolist() for n in torch.randint(2, 7, (8,), generator=DRAW)]
D = direction()
DOSES = [0.1, 0.4, -0.4]


def low_ids() -> Judge:
    """The share of new tokens with an id below 32; the small model has no tokenizer, so texts are lists of ids."""
    return Judge(
        "low ids", lambda texts, _: [sum(int(i) < 32 for i in t.split()) / len(t.split()) for t in texts], False
    )


@functools.cache
def default() -> Dose:
    return measured(neutral=PROMPTS[:3])


def measured(**more) -> Dose:
    how = {"max_new_tokens": 4, "batch_rows": 16, "controls": ("random", "flipped", "wrong_layer")}
    return dose_response(gpt2(), D, PROMPTS, DOSES, low_ids(), **(how | more))


def test_it_is_the_obvious_loop():
    model, found = gpt2(), default()
    assert found.curves == ("direction", "random", "flipped", "wrong_layer")
    assert found.doses == (-0.4, 0.0, 0.1, 0.4)
    drawn = random_directions(D.vector, 64, seed=0)
    for d, dose in enumerate(found.doses):
        for i in (1, 6):
            prompt = PROMPTS[i]
            for c, v in enumerate(
                (D, ins.Direction(D.site, drawn[i]), -D, ins.Direction("layers.2.resid_post", D.vector))
            ):
                edits = [ins.add(v, dose, unit="relative")] if dose else []
                new = ins.generate(model, [prompt], edits, max_new_tokens=4).tokens[0].tolist()
                assert found.texts[c][d][i] == " ".join(map(str, new)), (dose, i, c)
                assert float(found.scores[c, d, i]) == pytest.approx(sum(t < 32 for t in new) / 4)
                assert float(found.repeats[c, d, i]) == pytest.approx(repeated(new))
                logits = ins.run(model, [prompt + new]).output.logits[0, len(prompt) - 1 : -1]
                loss = torch.nn.functional.cross_entropy(logits, torch.tensor(new))
                assert float(found.losses[c, d, i]) == pytest.approx(float(loss), rel=1e-3)
                plain = ins.generate(model, [prompt], max_new_tokens=4).tokens[0].tolist()
                p, q = (
                    ins.run(model, [prompt + plain], edits=e).output.logits[0, len(prompt) - 1 : -1].log_softmax(-1)
                    for e in ([], edits)
                )
                assert float(found.kls[c, d, i]) == pytest.approx(
                    float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-2, abs=1e-6
                )
    assert found.effect.value.shape == (4, 4)
    torch.testing.assert_close(found.effect.value, found.scores.mean(-1))
    assert bool((found.effect.low <= found.effect.value).all())
    torch.testing.assert_close(found.perplexity, found.losses.mean(-1).exp())


def test_dose_zero_is_the_plain_model_in_every_curve_and_flipped_is_the_other_side():
    found = default()
    zero = found.index(0.0)
    assert bool((found.kls[:, zero] == 0).all())
    assert bool((found.scores[:, zero] == found.scores[0, zero]).all())
    flipped = found.curves.index("flipped")
    assert torch.equal(found.scores[flipped, found.index(0.4)], found.scores[0, found.index(-0.4)])
    assert torch.equal(found.kls[flipped, found.index(-0.4)], found.kls[0, found.index(0.4)])
    assert bool((found.kls[0, found.index(0.4)] > found.kls[0, found.index(0.1)]).float().mean() > 0.7)


def test_batches_do_not_matter():
    one, many = measured(batch_rows=3), default()
    assert one.texts == many.texts
    torch.testing.assert_close(one.kls, many.kls, atol=1e-5, rtol=1e-3)


def test_a_planted_direction_is_found_and_its_controls_are_not():
    """The direction that raises the scores of token 5: all that is generated becomes it, and no control does that."""
    model = gpt2()
    head: Any = model.module.lm_head
    planted = ins.Direction("layers.2.resid_post", head.weight[5].detach().clone())
    judge = Judge("fives", lambda texts, _: [t.split().count("5") / len(t.split()) for t in texts], False)
    shuffles = [direction("layers.2.resid_post", seed) for seed in range(10, 30)]
    found = dose_response(
        model, planted, PROMPTS, [0.1, 2.0], judge, shuffled=shuffles, max_new_tokens=4,
        neutral=PROMPTS[:4], task=lambda m, edits: len(edits),
    )  # fmt: skip
    assert found.curves == ("direction", "random", "shuffled", "flipped", "wrong_layer")
    top = found.index(2.0)
    assert float(found.effect.value[0, top]) > 0.8
    assert bool((found.effect.value[1:4, top] < 0.3).all())
    assert found.strongest == 2.0
    assert not any("no dose" in w for w in found.warnings)
    as_well = [w.split()[1] for w in found.warnings if "does as well" in w]
    assert as_well == ["wrong_layer"]  # blocks add to what comes in, so the other layer's vector reaches the head too
    best = found.best()
    assert best.dose == 2.0
    assert best.on == "other prompts"
    assert best.change.low > 0
    assert best.effect.n_items + int(found.validation.sum()) == len(PROMPTS)
    assert best.controls["random"].value < best.effect.value
    assert [e.site for e in best.edits] == [planted.site]
    small = found.best(kl_budget=float(found.kl.value[0, found.index(0.1)]) * 1.5)
    assert small.dose in (0.0, 0.1)
    assert found.best(kl_budget=1e-9).dose == 0.0
    assert found.best(kl_budget=1e-9).edits == []
    assert found.neutral is not None
    assert found.retention is not None
    assert bool((found.neutral.value[0, top] > found.neutral.value[0, found.index(0.0)]).all())
    assert found.retention[0].tolist() == [0.0, 1.0, 1.0]
    prompt, plain, steered = found.examples(2.0, 1)[0]
    assert prompt == " ".join(map(str, PROMPTS[0]))
    assert plain != steered


def test_random_vectors_can_be_matched_in_kl():
    found = measured(controls=("random", "random_kl"))
    assert found.curves == ("direction", "random", "random_kl")
    kl = found.kl.value
    for dose in (-0.4, 0.1, 0.4):
        d = found.index(dose)
        assert float(kl[2, d]) == pytest.approx(float(kl[0, d]), rel=0.03)
    top = found.index(0.4)
    assert abs(float(kl[1, top] / kl[0, top]) - 1) > 0.1  # of the same length they are not
    assert float(kl[2, found.index(0.0)]) == 0.0
    plain = measured(controls=("random",))
    torch.testing.assert_close(found.kls[:2], plain.kls, atol=1e-5, rtol=1e-3)


def test_a_direction_that_does_nothing_is_warned_of():
    found = default()
    named = dataclasses.replace(found, scores=found.scores[1][None].expand(4, -1, -1).clone())
    assert any("no dose changes the score" in w or "does as well" in w for w in named.warnings)
    broken = dataclasses.replace(found, losses=found.losses + torch.tensor([3.0, 0.0, 3.0, 3.0])[None, :, None])
    assert any("times as perplexing" in w for w in broken.warnings)
    again = dataclasses.replace(found, repeats=found.repeats + torch.tensor([0.9, 0.0, 0.9, 0.9])[None, :, None])
    assert any("repeats itself" in w for w in again.warnings)
    same = found.scores.clone()
    same[0, 3], same[2, 3], same[0, 1], same[2, 1] = 5.0, 5.0, 0.0, 0.0
    assert any(
        "flipped direction moves the score the same way" in w for w in dataclasses.replace(found, scores=same).warnings
    )


def test_a_score_may_be_lowered():
    found = measured(goal="lower")
    best = found.best()
    mine = found.scores[0][:, found.validation].mean(1)
    assert float(mine[found.index(best.dose)]) == pytest.approx(float(mine.min()))


def test_answers_are_judged_by_the_next_token():
    model = gpt2()
    judge = answer_mass([3, 9], [5])
    found = dose_response(model, D, PROMPTS, [0.4], judge, controls=("random",), max_new_tokens=2)
    q = ins.run(model, [PROMPTS[2]], edits=ins.add(D, 0.4, unit="relative")).output.logits[0, -1].softmax(-1)
    want = float(q[[3, 9]].sum() / q[[3, 9, 5]].sum())
    assert float(found.scores[0, found.index(0.4), 2]) == pytest.approx(want, rel=1e-3)
    p = ins.run(model, [PROMPTS[2]]).output.logits[0, -1].softmax(-1)
    assert float(found.scores[1, found.index(0.0), 2]) == pytest.approx(
        float(p[[3, 9]].sum() / p[[3, 9, 5]].sum()), rel=1e-3
    )
    raw = dose_response(model, D, PROMPTS, [0.4], answer_mass([3, 9]), controls=(), max_new_tokens=1)
    assert float(raw.scores[0, raw.index(0.4), 2]) == pytest.approx(float(q[[3, 9]].sum()), rel=1e-3)


def test_many_sites_at_once_and_other_units():
    several = ins.Directions.of(*(direction(f"layers.{i}.resid_post", i) for i in range(3)))
    found = dose_response(
        gpt2(), several, PROMPTS[:4], [0.2], low_ids(), max_new_tokens=3, controls=("random", "wrong_layer")
    )
    assert found.curves == ("direction", "random", "wrong_layer")
    edits = ins.add(several, 0.2, unit="relative")
    want = ins.generate(gpt2(), [PROMPTS[0]], edits, max_new_tokens=3).tokens[0].tolist()
    assert found.texts[0][found.index(0.2)][0] == " ".join(map(str, want))
    vector = dose_response(
        gpt2(), D, PROMPTS[:4], [1.5], low_ids(), unit="vector", max_new_tokens=3, at="generated", controls=()
    )
    want = ins.generate(gpt2(), [PROMPTS[0]], ins.add(D, 1.5, at="generated"), max_new_tokens=3).tokens[0].tolist()
    assert vector.texts[0][vector.index(1.5)][0] == " ".join(map(str, want))
    heads = ins.Direction("layers.1.attn.z", torch.randn(4, 8, generator=torch.Generator().manual_seed(0)))
    made = dose_response(gpt2(), heads, PROMPTS[:4], [0.5], low_ids(), max_new_tokens=2, controls=("random",))
    assert bool((made.kls[:, made.index(0.5)] > 0).all())
    embedded = dose_response(
        gpt2(), ins.Direction("embed", torch.ones(32)), PROMPTS[:4], [0.5], low_ids(), max_new_tokens=2
    )
    assert any("no wrong-layer control" in note for note in embedded.notes)
    assert any("no shuffled control" in note for note in embedded.warnings)


def test_sampling_is_repeatable():
    one, two = (measured(do_sample=True, seed=3, controls=()) for _ in range(2))
    assert one.texts == two.texts
    assert one.texts != measured(do_sample=True, seed=4, controls=()).texts


def test_it_is_saved_and_loaded(tmp_path):
    found = default()
    found.save(tmp_path / "dose.safetensors")
    again = Dose.load(tmp_path / "dose.safetensors")
    assert again.texts == found.texts
    assert again.curves == found.curves
    assert again.rows() == found.rows()
    assert again.best().dose == found.best().dose
    assert torch.equal(again.direction[D.site].vector, D.vector)
    ins.Directions.of(D).save(tmp_path / "d.safetensors")
    with pytest.raises(ins.FileError, match="not dose"):
        Dose.load(tmp_path / "d.safetensors")
    with pytest.raises(ins.EditError, match="cannot be written to a file"):
        dataclasses.replace(found, at=slice(1, 2)).save(tmp_path / "x.safetensors")


def test_the_figure_has_every_curve_and_no_private_numbers():
    found = dataclasses.replace(default(), retention=torch.ones(4, 4).double())
    spec = found.draw("A title")
    text = json.dumps(spec)
    assert all(
        name in text for name in (*found.curves, "Effect", "Fluency", "KL from", "unrelated texts", "Another task")
    )
    assert "Repetition" in json.dumps(dataclasses.replace(default(), neutral_losses=None).draw())
    row = found.rows()[0]
    assert {"curve", "dose", "effect", "effect_low", "kl", "fluency", "repetition", "neutral", "retention"} <= set(row)


def test_what_cannot_be_measured_is_refused():
    model, judge = gpt2(), length()
    for doses in ([], [0.0], ["much"], [float("inf")]):
        with pytest.raises(ins.InputError, match="doses="):
            dose_response(model, D, PROMPTS, doses, judge)
    with pytest.raises(ins.InputError, match="3 prompts: a dose-response takes 4"):
        dose_response(model, D, PROMPTS[:3], [1.0], judge)
    with pytest.raises(ins.InputError, match="'none'"):
        dose_response(model, D, PROMPTS, [1.0], judge, controls=("none",))
    with pytest.raises(ins.EditError, match="units of a dose are"):
        dose_response(model, D, PROMPTS, [1.0], judge, unit="nats")
    with pytest.raises(ins.InputError, match="goal='up'"):
        dose_response(model, D, PROMPTS, [1.0], judge, goal="up")
    with pytest.raises(ins.InputError, match="validation=1"):
        dose_response(model, D, PROMPTS, [1.0], judge, validation=1.0)
    with pytest.raises(ins.ModelError, match="for the model other"):
        dose_response(model, ins.Direction(D.site, D.vector, "", "other"), PROMPTS, [1.0], judge)
    with pytest.raises(ins.ShapeError, match="points nowhere"):
        dose_response(model, ins.Direction(D.site, torch.zeros(32)), PROMPTS, [1.0], judge)
    with pytest.raises(ins.SiteError, match="comes after the final state"):
        dose_response(model, ins.Direction("logits", torch.ones(64)), PROMPTS, [1.0], judge, controls=())
    with pytest.raises(ins.InputError, match="lacks layers"):
        dose_response(model, D, PROMPTS, [1.0], judge, shuffled=[direction("layers.0.resid_post")])
    with pytest.warns(UserWarning, match="2 shuffles: few shuffles"):
        dose_response(model, D, PROMPTS, [0.1], judge, shuffled=[D, -D], max_new_tokens=1)
    with pytest.raises(ins.InputError, match="two tokens or more each"):
        dose_response(model, D, PROMPTS, [0.1], judge, neutral=[[1], [2]], max_new_tokens=1, controls=())
    unsplit = dose_response(model, D, PROMPTS, [0.1], judge, validation=0.0, max_new_tokens=1, controls=())
    with pytest.raises(ins.InputError, match="chosen and tested on the same prompts"):
        unsplit.best()
    assert unsplit.best(force=True).on == "the same prompts"
    with pytest.raises(ins.InputError, match="kl_budget=0"):
        unsplit.best(0.0, force=True)
    with pytest.raises(ins.InputError, match=r"no dose 0\.7; there are 0, 0\.1"):
        unsplit.examples(0.7)
    with pytest.raises(ins.InputError, match="no curve is called 'random'"):
        unsplit.examples(0.1, curve="random")


def test_pairs_that_came_before():
    assert repeated([1, 2, 1, 2, 1]) == 0.5
    assert repeated([1, 2, 3]) == 0.0
    assert repeated([1]) == 0.0
