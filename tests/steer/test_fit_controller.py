"""Learned controllers: the obvious loop's numbers, cached or not, conditions, files, both trainings, refusals."""

import copy

import pytest
import torch
from torch import Tensor

import inscape as ins
from inscape.core.edits.control import Controller, controlled, controlled_add, decide
from inscape.core.nulls import auc
from inscape.steer.fit_controller import SteeringController, fit_controller
from inscape.steer.targets import target_losses
from tests.common.small import direction, gpt2, gpt2_module, hooks_left
from tests.common.steering import ROWS, beams_need_no_cache
from tests.common.zoo import ZOO, build, inputs_for, is_causal_text
from tests.steer.texts import two_sides

SEEN = ("layers.0.resid_post", "layers.1.resid_post")
ACT = ("layers.1.resid_post", "layers.2.resid_post")


def controller(
    timing: str = "prompt", strength: str = "raw", width: int = 32, observe: tuple = SEEN, n_act: int = 2
) -> Controller:
    draw = torch.Generator().manual_seed(3)
    shapes = ((8, width * len(observe)), (8,), (1 + n_act, 8), (1 + n_act,))
    tensors = [torch.randn(*shape, generator=draw) * 0.3 for shape in shapes]
    return Controller(observe, *tensors, strength=strength, timing=timing)


def steered(timing: str = "prompt", **more: object) -> list[ins.Edit]:
    return controlled(controller(timing), [direction(ACT[0], 1), direction(ACT[1], 2)], 2.0, at="newest", **more)


def by_hand(c: Controller, x: Tensor) -> Tensor:
    out = torch.relu(x @ c.inward.T + c.bias) @ c.outward.T + c.offset
    return torch.cat([out[..., :1], torch.sigmoid(out[..., 1:])], -1)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("timing", ["prompt", "each"])
def test_a_run_is_the_obvious_one_row_by_row(timing, side):
    model, c = gpt2(), controller(timing)
    v = [direction(ACT[0], 1).vector, direction(ACT[1], 2).vector]
    found = ins.run(model, ROWS, read=ACT, edits=steered(timing), padding_side=side)
    for i, row in enumerate(ROWS):
        plain = ins.run(model, [row], read=SEEN)
        numbers = by_hand(c, torch.cat([plain[s][0, -1] for s in SEEN]))
        first = plain[SEEN[1]][0].clone()
        first[-1] += 2.0 * numbers[0] * numbers[1] * v[0]
        mine = found[ACT[0]][i][found.mask[i]]
        torch.testing.assert_close(mine, first, atol=1e-4, rtol=1e-4)
        alone = ins.run(model, [row], read=ACT[1], edits=[ins.patch(ACT[0], first[None])])[ACT[1]][0]
        alone[-1] += 2.0 * numbers[0] * numbers[2] * v[1]
        torch.testing.assert_close(found[ACT[1]][i][found.mask[i]], alone, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("timing", ["prompt", "each"])
def test_generation_with_a_cache_is_that_without_and_of_each_row_alone(timing):
    model, edits = gpt2(), steered(timing)
    both = [ins.generate(model, ROWS, edits=edits, read=ACT[1], max_new_tokens=5, use_cache=c) for c in (True, False)]
    assert both[0].tokens.tolist() == both[1].tokens.tolist()
    torch.testing.assert_close(both[0].trace[ACT[1]][:, -5:], both[1].trace[ACT[1]][:, -5:], atol=1e-4, rtol=1e-3)
    assert both[0].tokens.tolist() != ins.generate(model, ROWS, max_new_tokens=5).tokens.tolist()
    for i, row in enumerate(ROWS):
        assert (
            ins.generate(model, [row], edits=edits, max_new_tokens=5).tokens[0].tolist() == both[0].tokens[i].tolist()
        )
    drawn = ins.generate(model, ROWS, edits=edits, max_new_tokens=3, do_sample=True, num_return_sequences=2)
    assert drawn.tokens.shape == (4, 3)
    beams_need_no_cache(edits)


def test_strengths_are_raw_a_sigmoid_or_a_relu():
    x = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    raw = by_hand(controller(), x)[:, 0]
    assert bool((raw > 0).any())
    assert bool((raw < 0).any())
    for how, want in (("raw", raw), ("sigmoid", raw.sigmoid()), ("relu", raw.relu())):
        torch.testing.assert_close(controller(strength=how).numbers(x)[:, 0], want)


def test_a_file_gives_the_same_edits_and_a_condition_narrows_them(tmp_path):
    model = gpt2()
    for timing in ("prompt", "each"):
        edits = steered(timing)
        ins.save_edits(tmp_path / "e.safetensors", edits)
        a, b = (
            ins.run(model, ROWS, read=ACT[1], edits=e)[ACT[1]]
            for e in (edits, ins.load_edits(tmp_path / "e.safetensors"))
        )
        assert torch.equal(a, b)
    plain = ins.run(model, ROWS, read=ACT[1])[ACT[1]]
    unit = direction(SEEN[0], 1)
    last = ins.run(model, ROWS, read=SEEN[0], reduce="last")[SEEN[0]] @ (unit.vector / unit.vector.norm())
    condition = ins.Condition(unit, float(last.mean()))
    some = ins.run(model, ROWS, read=ACT[1], edits=ins.when(condition, steered()))[ACT[1]]
    all_ = ins.run(model, ROWS, read=ACT[1], edits=steered())[ACT[1]]
    for i, fires in enumerate((last > last.mean()).tolist()):
        assert torch.equal(some[i], all_[i] if fires else plain[i])


def test_gradients_reach_the_network_through_the_model():
    model, c = gpt2(), controller()
    for t in c.tensors.values():
        t.requires_grad_()
    edits = controlled(c, [direction(ACT[0], 1), direction(ACT[1], 2)], at="newest")
    ins.run(model, ROWS, edits=edits, output=True, grad=True).output.logits[0, -1].logsumexp(0).backward()
    assert all(t.grad is not None and bool(t.grad.any()) for t in c.tensors.values())
    for p in model.module.parameters():
        p.grad = None


@pytest.mark.parametrize("name", [n for n in ZOO if is_causal_text(n)])
def test_every_decoder_can_be_controlled_in_half_precision_too(name):
    model = ins.open(build(name))
    sites = [s for s in map(str, model.sites) if s.endswith(".resid_post")][:2]
    width = model.points and ins.run(model, inputs_for(name), read=sites[0])[sites[0]].shape[-1]
    edits = controlled(
        controller(width=width, observe=(sites[0],), n_act=1), [direction(sites[1], 1, width)], at="newest"
    )
    plain, now = (ins.run(model, inputs_for(name), read=sites[1], edits=e)[sites[1]] for e in ([], edits))
    assert torch.equal(plain[:, :-1], now[:, :-1])
    state = ins.run(model, inputs_for(name), read=sites[0])[sites[0]][:, -1]
    numbers = by_hand(controller(width=width, observe=(sites[0],), n_act=1), state)
    want = plain[:, -1] + (numbers[:, 0] * numbers[:, 1])[:, None] * direction(sites[1], 1, width).vector
    torch.testing.assert_close(now[:, -1], want, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_have_float32_controllers(dtype):
    model = ins.open(copy.deepcopy(gpt2_module()).to(dtype))
    high, low = two_sides(16)
    made = fit_controller(model, [*_directions().values()][1], high, low, SEEN, hidden=16, steps=60)
    assert {t.dtype for t in made.controller.tensors.values()} == {torch.float32}
    x = ins.run(model, ROWS, read=ACT[1], edits=made.edits())[ACT[1]]
    assert x.dtype == dtype
    assert bool(torch.isfinite(x).all())


def _directions() -> ins.Directions:
    return ins.Directions.of(direction(ACT[0], 1), direction(ACT[1], 2))


def test_a_controller_tells_inputs_apart_that_it_has_not_seen_and_a_shuffled_one_does_not(tmp_path):
    model, (high, low), (new, old) = gpt2(), two_sides(40), two_sides(40, seed=7)
    areas = []
    for control in (None, "shuffle"):
        made = fit_controller(model, _directions(), high, low, SEEN, hidden=32, steps=150, control=control)
        found = made.score(model, [*new, *old])
        assert found.weights.shape == (80, 2)
        areas.append(auc(found.strength, torch.arange(80) < 40).value)
    assert areas[0] > 0.9
    assert abs(areas[1] - 0.5) < 0.25
    made = fit_controller(model, _directions(), high, low, SEEN, hidden=32, steps=150)
    assert float(made.score(model, old).strength.mean()) < 0 < float(made.score(model, new).strength.mean())
    assert float(made.score(model, new).weights.std()) < 0.15  # no gradient but the regulariser's
    made.save(tmp_path / "c.safetensors")
    back = SteeringController.load(tmp_path / "c.safetensors")
    assert torch.equal(back.score(model, new).strength, made.score(model, new).strength)
    a, b = (ins.run(model, ROWS, read=ACT[1], edits=c.edits(2.0))[ACT[1]] for c in (made, back))
    assert torch.equal(a, b)
    assert (back.source, back.model, back.alpha) == (made.source, made.model, made.alpha)
    assert "controller of 40 inputs against 40" in made.source


def test_trained_through_the_model_it_makes_answers_likelier_and_leaves_the_others_as_they_were():
    model, (high, low), (new, old) = gpt2(), two_sides(24), two_sides(24, seed=7)
    before = {n: p.clone() for n, p in model.module.named_parameters()}
    options = {"hidden": 32, "steps": 100, "alpha": 3.0}
    made = fit_controller(model, _directions(), high, low, SEEN, training="end_to_end", targets=[[9, 9]] * 24,
                          model_steps=60, own_tokens=3, lr=5e-3, **options)  # fmt: skip
    history = made.through_model
    assert sum(history.loss[-10:]) < 0.9 * sum(history.loss[:10])
    assert set(history.extra) == {"nats", "kl"}
    gain = []
    for side in (new, old):
        pairs = [[[*p] for p in side], [[9, 9]] * 24]
        acting = made.edits(at="all")
        gain.append(float((target_losses(model, *pairs) - target_losses(model, *pairs, edits=acting)).abs().mean()))
    assert gain[0] > gain[1]
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in model.module.named_parameters())
    assert hooks_left(model.module) == 0


def test_what_cannot_be_fitted_is_said():
    model, (high, low) = gpt2(), two_sides(6)

    def refused(
        error: type,
        match: str,
        *,
        act: object = None,
        observe: object = SEEN,
        sides: object = (high, low),
        **more: object,
    ) -> None:
        with pytest.raises(error, match=match):
            fit_controller(model, act or _directions(), *sides, observe, steps=1, **more)

    refused(ins.InputError, "strength='tanh' is none of 'raw', 'sigmoid', 'relu'", strength="tanh")
    refused(ins.InputError, "timing='late' is none of 'prompt', 'each'", timing="late")
    refused(ins.InputError, "training='rl' is none of", training="rl")
    refused(ins.InputError, "control='random' can be 'shuffle' or None", control="random")
    refused(ins.InputError, "training='end_to_end' and targets= belong together", training="end_to_end")
    refused(ins.InputError, "hidden=0, steps=1, batch_rows=16: all are 1", hidden=0)
    refused(ins.InputError, "2 targets for 6 positive inputs", training="end_to_end", targets=[[1], [2]])
    refused(
        ins.InputError,
        r"layers\.2\.resid_post is observed, and layers\.1\.resid_post is to be changed",
        observe="layers.2.resid_post",
    )
    refused(
        ins.InputError, "in the order of a forward pass", act=ins.Directions.of(direction(ACT[1]), direction(ACT[0]))
    )
    refused(ins.ShapeError, r"has shape \(8,\); a state there has 32 units", act=direction(ACT[1], width=8))
    refused(ins.InputError, "positive is empty", sides=([], low))
    refused(ins.ModelError, "are for the model elsewhere", act=ins.Direction(ACT[1], torch.ones(32), model="elsewhere"))
    with pytest.warns(UserWarning, match="no discrimination is learned"):
        fit_controller(model, _directions(), high, [], SEEN, steps=1)
    wild = copy.deepcopy(gpt2_module())
    with torch.no_grad():
        wild.transformer.h[0].mlp.c_proj.bias[3] = torch.nan
    with pytest.raises(ins.NotFiniteError, match=r"inputs: 12 samples are not finite at layers\.0\.resid_post"):
        fit_controller(ins.open(wild), _directions(), high, low, SEEN, steps=1)


def test_edits_that_do_not_belong_together_are_refused(tmp_path):
    model, c = gpt2(), controller()
    add = controlled_add(direction(ACT[1]), 0, at="newest")
    with pytest.raises(ins.EditError, match=r"nothing was decided for the edit at layers\.2\.resid_post"):
        ins.run(model, ROWS, read=ACT[1], edits=[add])
    with pytest.raises(ins.ShapeError, match="a vector of 8 and strengths"):
        ins.run(model, ROWS, read=ACT[1], edits=[decide(c), controlled_add(direction(ACT[1], width=8), 0)])
    with pytest.raises(
        ins.ShapeError, match=r"the controller reads 64 numbers, its sites layers\.1\.resid_post have 32"
    ):
        ins.run(model, ROWS, read=ACT[1], edits=[decide(Controller(SEEN[1:], *c.tensors.values())), add])
    with pytest.raises(ins.ShapeError, match=r"observes sites of \[batch, pos, d\]"):
        ins.run(model, ROWS, read=ACT[1], edits=[decide(controller(observe=("layers.0.attn.z",))), add])
    with pytest.raises(ins.ShapeError, match="the controller has 2 weights for 1 directions"):
        controlled(c, [direction(ACT[1])])
    with pytest.raises(ins.ShapeError, match=r"takes one vector \(d,\)"):
        controlled_add(ins.Direction(ACT[1], torch.ones(2, 32)), 0)
    with pytest.raises(ins.EditError, match="it can be 'raw' or 'sigmoid' or 'relu'"):
        controller(strength="tanh")
    with pytest.raises(ins.EditError, match="observes sites by name and has an output a site; got none"):
        Controller((), *c.tensors.values())
    with pytest.raises(ins.ShapeError, match=r"are \[hidden, width\], \[hidden\]"):
        Controller(SEEN, c.inward, c.bias[:3], c.outward, c.offset)
    with pytest.raises(ins.NotFiniteError, match="tensors are not finite"):
        Controller(SEEN, c.inward / 0, c.bias, c.outward, c.offset)
    made = SteeringController(c, _directions(), model="elsewhere")
    for call in (lambda: made.edits(model=model), lambda: made.score(model, ROWS)):
        with pytest.raises(ins.ModelError, match="this controller is for the model elsewhere"):
            call()
    from inscape.core.tensor_file import write_tensors

    write_tensors(tmp_path / "b", {"a": torch.ones(1)}, {"inscape": '{"kind": "controller", "version": 1}'})
    with pytest.raises(ins.FileError, match="is damaged: KeyError 'inward'"):
        SteeringController.load(tmp_path / "b")
