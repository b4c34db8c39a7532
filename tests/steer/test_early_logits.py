"""Scores of earlier layers mixed into the final ones: equal to the sum by hand, with a cache, and never in silence."""

import copy

import pytest
import torch

import inscape as ins
from inscape.engine.unembed import unembedding
from inscape.steer.early_logits import early_logits
from tests.common.small import gpt2, hooks_left
from tests.common.steering import ROWS
from tests.common.zoo import build, inputs_for

IDS = [[1, 2, 3, 4, 5], [9, 8, 7, 6, 5]]
FAMILIES = ("gemma2", "granite", "cohere", "falcon_new", "mixtral", "mamba", "llava", "gemma3_vlm")


def by_hand(model: "ins.Model", inputs: object, layers: list[int], g: float, norm: bool) -> torch.Tensor:
    names = [f"{model.blocks[i].name}.resid_post" for i in layers]
    trace = ins.run(model, inputs, read=[*names, "logits"])
    states = torch.stack([trace[n] for n in names])
    head = unembedding(model)
    states = head.norm(states) if norm and head.norm is not None else states
    scores = head(states.mean(0), normed=True)
    return (1 - g) * trace["logits"] + g * scores


@pytest.mark.parametrize("norm", [False, True])
def test_it_is_the_sum_by_hand(norm):
    model = gpt2()
    edit = early_logits(model, range(2), 0.3, norm=norm)
    got = ins.run(model, IDS, edits=[edit], read="logits", output=True)
    torch.testing.assert_close(got["logits"], by_hand(model, IDS, [0, 1], 0.3, norm), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got.output.logits, got["logits"])
    assert edit.label == "0.3 of the scores of layers 0 to 1"
    assert hooks_left(model.module) == 0


def test_nothing_of_it_is_nothing_and_all_of_the_last_layer_is_the_model():
    model = gpt2()
    plain = ins.run(model, IDS, read="logits")["logits"]
    none = ins.run(model, IDS, read="logits", edits=[early_logits(model, slice(0, 2), 0.0)])["logits"]
    assert torch.equal(none, plain)
    all_of_it = ins.run(model, IDS, read="logits", edits=[early_logits(model, -1, 1.0, norm=True)])["logits"]
    torch.testing.assert_close(all_of_it, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_s_own_head_is_used(name):
    model, batch = ins.open(build(name)), inputs_for(name)
    got = ins.run(model, batch, read="logits", edits=[early_logits(model, [0, -1], 0.4, norm=True)])["logits"]
    want = by_hand(model, batch, [0, len(model.blocks) - 1], 0.4, True)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("norm", [False, True])
def test_cached_batched_generation_is_the_loop(norm):
    model = gpt2()
    edit = early_logits(model, [0, 1], 0.6, norm=norm)
    for use_cache in (True, False):
        got = ins.generate(model, ROWS, edits=[edit], max_new_tokens=6, use_cache=use_cache)
        for row, ids in enumerate(ROWS):
            told = list(ids)
            for _ in range(6):
                told.append(int(by_hand(model, [told], [0, 1], 0.6, norm)[0, -1].argmax()))
            assert got.tokens[row].tolist() == told[len(ids) :], f"use_cache={use_cache}"
    plain = ins.generate(model, ROWS, max_new_tokens=6)
    assert got.tokens.tolist() != plain.tokens.tolist()


def test_beams_need_no_cache():
    model = gpt2()
    options = {"edits": [early_logits(model, [0, 1], 0.6)], "max_new_tokens": 5, "num_beams": 3}
    one, two = (ins.generate(model, ROWS, use_cache=c, **options).tokens for c in (True, False))
    assert one.tolist() == two.tolist()


def test_it_sees_the_stream_that_other_edits_left_and_can_act_on_some_rows():
    model = gpt2()
    site = "layers.1.resid_post"
    d = ins.Direction(site, torch.randn(32, generator=torch.Generator().manual_seed(3)), "random")
    edits = [ins.add(d, 3.0), early_logits(model, 1, 0.5, rows=[0])]
    trace = ins.run(model, IDS, edits=edits, read=["logits", site])
    plain = ins.run(model, IDS, edits=edits[:1], read="logits")["logits"]
    want = 0.5 * plain[0] + 0.5 * unembedding(model)(trace[site][0], normed=True)
    torch.testing.assert_close(trace["logits"][0], want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(trace["logits"][1], plain[1], rtol=0, atol=1e-6)


def test_a_gradient_comes_through_both_ways():
    model = ins.open(copy.deepcopy(gpt2().module))
    edit = early_logits(model, [0], 0.5, norm=True)
    trace = ins.run(model, IDS, edits=[edit], read=["layers.0.resid_post", "logits"], grad=True, output=True)
    trace.output.logits[..., 3].sum().backward()
    assert float(trace["layers.0.resid_post"].grad.abs().max()) > 0


def test_half_precision_keeps_its_type():
    model = ins.open(copy.deepcopy(gpt2().module).half())
    got = ins.run(model, IDS, edits=[early_logits(model, [0, 1], 0.3, norm=True)], read="logits")["logits"]
    assert got.dtype == torch.float16
    assert bool(got.isfinite().all())


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"window": range(2, 5)}, ins.InputError, r"window=range\(2, 5\): \[3, 4\] does not lie .*layers 0 to 2"),
        ({"window": slice(2, 9)}, ins.InputError, r"does not lie in this model"),
        ({"window": []}, ins.InputError, r"give some of them, such as window=range\(0, 2\)"),
        ({"window": 7}, ins.InputError, r"window=7: \[7\] does not lie"),
        ({"window": 0, "weight": 1.2}, ins.InputError, "weight=1.2: a share between 0"),
    ],
)
def test_windows_outside_the_model_are_refused(asked, error, says):
    with pytest.raises(error, match=says):
        early_logits(gpt2(), **asked)


def test_models_whose_head_reads_something_else_are_refused(monkeypatch):
    with pytest.raises(ins.ModelError, match="does not score the next token"):
        early_logits(ins.open(build("bert")), 0)
    monkeypatch.setattr("inscape.steer.early_logits.reads_as_the_model_does", lambda *a: 0.4)
    with pytest.raises(ins.ModelError, match=r"differ from the model's own by 0\.4 of the largest"):
        early_logits(gpt2(), 0)


def test_it_cannot_be_saved_as_it_holds_the_head(tmp_path):
    with pytest.raises(ins.EditError, match="function"):
        ins.save_edits(tmp_path / "e.safetensors", [early_logits(gpt2(), 0)])
