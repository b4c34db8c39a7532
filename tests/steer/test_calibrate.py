"""Strength for a KL budget: derivatives are exact, closed forms hold where theory says, a search meets the budget."""

from functools import partial
from typing import Any

import pytest
import torch

import inscape as ins
from inscape.engine.predictions import Predictions, next_token_shift, sequences, short
from inscape.steer.calibrate import _Measure, calibrate_strength
from inscape.steer.derivatives import _twice, derivatives
from tests.common.small import direction, gpt2
from tests.common.zoo import build

DRAW = torch.Generator().manual_seed(0)
PROMPTS = [torch.randint(1, 64, (int(n),), generator=DRAW).tolist() for n in torch.randint(3, 9, (12,), generator=DRAW)]
OTHERS = [torch.randint(1, 64, (int(n),), generator=DRAW).tolist() for n in torch.randint(3, 9, (12,), generator=DRAW)]
D = direction()


@pytest.mark.parametrize(
    "make",
    [
        lambda s: ins.add(D, s), lambda s: ins.add(D, s, at="generated"), lambda s: ins.add(D, s, unit="relative"),
        lambda s: [ins.add(D, s), ins.add(direction("layers.0.resid_post", 1), s)],
        lambda s: ins.norm_preserving_add(D, s, adaptive=False),
    ],
)  # fmt: skip
def test_derivatives_are_those_of_small_differences(make):
    model, h = gpt2(), 1e-2
    seq = sequences(model, PROMPTS[:3], [[5, 6], [7, 8], [9, 1]], range(3))
    predictions = Predictions.of(model, short(seq))
    z, g = (torch.cat(parts) for parts in zip(*derivatives(predictions, seq, make), strict=True))
    up, down = (predictions.scores(predictions.states(seq, make(s))) for s in (h, -h))
    torch.testing.assert_close(g, (up - down) / (2 * h), atol=0.02 * float(g.abs().max()), rtol=0.02)
    torch.testing.assert_close(z, predictions.scores(predictions.states(seq)), atol=1e-4, rtol=1e-4)


def test_reverse_mode_twice_gives_what_forward_mode_gives():
    model = gpt2()
    seq = sequences(model, PROMPTS[:3], [[5, 6], [7, 8], [9, 1]], range(3))
    predictions = Predictions.of(model, short(seq))
    make = partial(ins.add, D)
    forward = torch.cat([g for _, g in derivatives(predictions, seq, make)])

    state, slope = _twice(predictions, seq, make, ValueError())
    both = torch.cat([g for _, g in _scored(predictions, state, slope)])
    torch.testing.assert_close(both, forward, atol=1e-3, rtol=1e-3)


def _scored(predictions, state, slope):
    h = 1e-3
    yield None, (predictions.scores(state + h * slope) - predictions.scores(state - h * slope)) / (2 * h)


@pytest.mark.parametrize("budget", [0.002, 0.01, 0.05])
def test_a_search_meets_the_budget_and_holds_it_on_other_prompts(budget):
    found = calibrate_strength(gpt2(), D, PROMPTS, budget, max_new_tokens=4)
    assert 0.95 * budget <= found.measured.value <= budget
    again = next_token_shift(gpt2(), PROMPTS, ins.add(D, found.gamma), max_new_tokens=4)
    assert float(again.by_prompt(again.shift.kl).mean()) == pytest.approx(found.measured.value, rel=1e-3)
    assert found.held(gpt2(), PROMPTS).value == pytest.approx(found.measured.value, rel=1e-3)
    held = found.held(gpt2(), OTHERS)
    assert budget / 3 < held.value < 3 * budget
    assert held.n_items == len(OTHERS)
    assert float(found) == found.gamma
    assert found.predicted is None
    assert len(found.per_prompt) == len(PROMPTS)
    assert [e.site for e in found.edits] == [D.site]


def test_second_order_is_right_to_second_order():
    errors = []
    for budget in (1e-2, 1e-3, 1e-4):
        found = calibrate_strength(gpt2(), D, PROMPTS, budget, rule="second_order", max_new_tokens=4)
        assert found.predicted_per_prompt is not None
        assert found.predicted is not None
        assert found.predicted == pytest.approx(budget, rel=1e-4)
        errors.append(abs(found.measured.value / found.predicted - 1))
    assert errors[2] < 0.05
    assert errors[2] < errors[0]


def linear_site_model() -> ins.Model:
    """No norm after the last block: logits are linear in what is added to its stream."""
    import copy

    module = copy.deepcopy(gpt2().module)
    module.transformer.ln_f = torch.nn.Identity()
    return ins.open(module)


@pytest.mark.parametrize("budget", [0.01, 0.1, 1.0])
def test_no_prediction_moves_further_than_hoeffding_says_where_logits_are_linear(budget):
    model, d = linear_site_model(), direction("layers.2.resid_post", 3)
    found = calibrate_strength(model, d, PROMPTS, budget, rule="hoeffding", max_new_tokens=4)
    moved = next_token_shift(model, PROMPTS, found.edits, max_new_tokens=4)
    assert float(moved.shift.kl.max()) <= budget * (1 + 1e-4)
    assert found.predicted is not None
    assert found.measured.value <= found.predicted * (1 + 1e-4) <= budget * (1 + 1e-3)
    assert found.warnings == ()
    second = calibrate_strength(model, d, PROMPTS, budget, rule="second_order", max_new_tokens=4)
    assert second.gamma > found.gamma


def test_on_a_coin_all_rules_are_known_on_paper():
    """Two tokens with logits (s, 0): KL(1/2 || sigmoid(s)) = log cosh(s / 2), variance 1/4, range 1."""
    model, d = linear_site_model(), torch.zeros(32)
    d[0] = 1.0
    with torch.no_grad():
        model.module.lm_head.weight = torch.nn.Parameter(torch.zeros(64, 32))
        model.module.lm_head.weight[:, 1] = -1e4
        model.module.lm_head.weight[:2, 1] = 0.0
        model.module.lm_head.weight[0, 0] = 1.0
    # the stream's own unit 0 would move the coin and unit 1 decides what is excluded: hold both
    hold = [ins.replace("layers.2.resid_post", torch.eye(32)[1], units=[0, 1])]

    def make(s: Any) -> list[ins.Edit]:
        return [*hold, ins.add(ins.Direction("layers.2.resid_post", d), s)]

    measure = _Measure.of(model, PROMPTS[:2], {"tokens": "last", "max_new_tokens": 1, "batch_rows": 4}, None)
    variance, span = (measure.responses(make, rule) for rule in ("second_order", "hoeffding"))
    assert variance.tolist() == pytest.approx([0.25] * 2, rel=1e-4)
    assert span.tolist() == pytest.approx([1.0] * 2, rel=1e-4)
    held = [measure.predictions.states(seq, hold) for seq in measure.sequences]
    moved = [measure.predictions.states(seq, make(1.5)) for seq in measure.sequences]
    kl = measure.predictions.shift(held[0], moved[0]).kl
    assert kl.tolist() == pytest.approx([float(torch.log(torch.cosh(torch.tensor(0.75))))] * len(kl), rel=1e-4)


def test_the_texts_can_be_sampled_and_are_so_again_on_other_prompts():
    model = gpt2()
    state = torch.random.get_rng_state()
    drawn = [
        calibrate_strength(model, D, PROMPTS, 0.02, max_new_tokens=4, seed=s, do_sample=True, temperature=2.0)
        for s in (1, 1, 2)
    ]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert drawn[0].gamma == drawn[1].gamma != drawn[2].gamma
    assert drawn[0].held(gpt2(), PROMPTS).value == pytest.approx(drawn[0].measured.value, rel=1e-3)
    assert calibrate_strength(gpt2(), D, PROMPTS, 0.02, max_new_tokens=4).gamma != drawn[0].gamma


def test_any_unit_place_and_edit_can_be_calibrated():
    relative = calibrate_strength(gpt2(), D, PROMPTS, 0.02, unit="relative", max_new_tokens=3)
    assert 0 < relative.gamma < 1
    generated = calibrate_strength(gpt2(), D, PROMPTS, 0.02, at="generated", max_new_tokens=3)
    everywhere = calibrate_strength(gpt2(), D, PROMPTS, 0.02, max_new_tokens=3)
    assert generated.gamma > everywhere.gamma
    both = ins.Directions.of(D, direction("layers.0.resid_post", 4))
    assert calibrate_strength(gpt2(), both, PROMPTS, 0.02, max_new_tokens=3).measured.value <= 0.02
    scaled = calibrate_strength(gpt2(), None, PROMPTS, 0.02, edit=lambda s: ins.scale("layers.1.mlp_out", 1 + s))
    assert scaled.measured.value <= 0.02
    own = calibrate_strength(gpt2(), None, PROMPTS, 0.02, edit=lambda s: ins.add(D, s), max_new_tokens=3)
    assert own.gamma == pytest.approx(everywhere.gamma, rel=0.02)
    longer = calibrate_strength(gpt2(), 2 * D, PROMPTS, 0.02, max_new_tokens=3)
    assert longer.gamma == pytest.approx(everywhere.gamma / 2, rel=0.05)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "qwen3_moe", "mamba"])
def test_families(name):
    model = ins.open(build(name))
    width = model.module.config.get_text_config().hidden_size  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    d = ins.Direction("layers.0.resid_post", torch.randn(width, generator=torch.Generator().manual_seed(0)))
    prompts = [[t % 30 + 1 for t in p[:4]] for p in PROMPTS if len(p) >= 4][:4]
    for rule in ("bisect", "second_order"):
        found = calibrate_strength(model, d, prompts, 1e-4, rule=rule, max_new_tokens=2)
        assert found.measured.value == pytest.approx(1e-4, rel=0.25 if rule == "second_order" else 0.05)


def test_warnings_say_where_a_rule_does_not_hold():
    far = calibrate_strength(gpt2(), D, PROMPTS, 20.0, rule="second_order", max_new_tokens=2)
    assert any("Take rule='bisect'" in w for w in far.warnings)


def test_what_cannot_be_calibrated_is_refused():
    model = gpt2()
    for budget in (0.0, -1.0, float("nan")):
        with pytest.raises(ins.InputError, match="above 0; 0"):
            calibrate_strength(model, D, PROMPTS, budget)
    with pytest.raises(ins.InputError, match="rule='guess' is none of"):
        calibrate_strength(model, D, PROMPTS, 0.1, rule="guess")
    with pytest.raises(ins.InputError, match="one of the two"):
        calibrate_strength(model, None, PROMPTS, 0.1)
    with pytest.raises(ins.InputError, match="two prompts at least"):
        calibrate_strength(model, D, PROMPTS[:1], 0.1)
    with pytest.raises(ins.SiteError, match="comes after the final state"):
        calibrate_strength(model, ins.Direction("logits", torch.ones(64)), PROMPTS, 0.1)
    with pytest.raises(ins.ModelError, match="this direction is for the model other"):
        calibrate_strength(model, ins.Direction(D.site, D.vector, "", "other"), PROMPTS, 0.1)
    with pytest.raises(ins.InputError, match="no prediction depends on the strength"):
        calibrate_strength(model, None, PROMPTS, 0.1, rule="hoeffding", edit=lambda s: ins.scale(D.site, 1.0))
    jumps = calibrate_strength(
        model,
        None,
        PROMPTS,
        0.05,
        max_new_tokens=1,
        edit=lambda s: ins.add(D, 5.0 if float(torch.as_tensor(s).detach()) > 0.7 else 0.0),
    )
    assert any("the KL jumps: it is 0 " in warning for warning in jumps.warnings)
    with pytest.raises(ins.NotConvergedError, match=r"did not reach 1000 nats: it is .* at the most"):
        calibrate_strength(model, D, PROMPTS, 1000.0, max_new_tokens=1, unit="relative")  # numbers end before that
    with pytest.raises(ins.NotConvergedError, match=r"did not reach 0\.1 nats"):
        calibrate_strength(model, None, PROMPTS, 0.1, max_new_tokens=1, edit=lambda s: ins.scale(D.site, 1.0))
