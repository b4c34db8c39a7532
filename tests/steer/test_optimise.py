"""Directions trained through the frozen model: the obvious loop's losses, targets made likelier, weights untouched."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch

import inscape as ins
from inscape.core.edits.learned import gated_add, low_rank_add
from inscape.core.nulls import random_directions
from inscape.steer.optimise import optimise_direction
from inscape.steer.targets import target_losses
from tests.common.small import gpt2, gpt2_module, hooks_left

SITE = "layers.1.resid_post"


def examples(n: int = 12, seed: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts of unlike length, all to be followed by the same tokens, some of them by fewer."""
    draw = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(1, 64, (3 + i % 4,), generator=draw).tolist() for i in range(n)]
    return prompts, [[11, 22, 33][: 1 + i % 3] for i in range(n)]


def by_hand(model: ins.Model, prompt: list[int], target: list[int], edits: Sequence[ins.Edit] = ()) -> float:
    scores = ins.run(model, [[*prompt, *target]], edits=edits, output=True).output.logits[0].log_softmax(-1)
    return -sum(float(scores[len(prompt) - 1 + i, t]) for i, t in enumerate(target)) / len(target)


def test_losses_are_those_of_each_text_alone():
    model, (prompts, targets) = gpt2(), examples()
    d = ins.Direction(SITE, torch.randn(32, generator=torch.Generator().manual_seed(1)))
    for edits in ([], [ins.add(d, 2.0)]):
        got = target_losses(model, prompts, targets, edits=edits, batch_rows=5)
        want = [by_hand(model, p, t, edits) for p, t in zip(prompts, targets, strict=True)]
        torch.testing.assert_close(got, torch.tensor(want), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["vector", "low_rank", "gated"])
def test_what_is_trained_makes_the_targets_likelier_after_prompts_it_has_not_seen(kind, tmp_path):
    model = gpt2()
    made = optimise_direction(model, SITE, *examples(), kind=kind, steps=60, lr=0.1)
    new, targets = examples(10, seed=5)
    plain = target_losses(model, new, targets)
    steered = target_losses(model, new, targets, edits=[made.edit()])
    assert float((plain - steered).mean()) > 1.0
    assert made.after < made.before - 1.0
    assert made.history.steps == 60
    ins.save_edits(tmp_path / "e.safetensors", made.edit(at="last"))
    (back,) = ins.load_edits(tmp_path / "e.safetensors")
    a, b = (ins.run(model, new[:1], read=SITE, edits=[e])[SITE] for e in (made.edit(at="last"), back))
    torch.testing.assert_close(a, b)
    if kind == "vector":
        drawn = random_directions(made.direction.vector, 20, seed=3)
        others = [target_losses(model, new, targets, edits=[ins.add(ins.Direction(SITE, v))]).mean() for v in drawn]
        assert float(steered.mean()) < float(min(others))
    if kind == "low_rank":
        with pytest.raises(ins.InputError, match="it has no direction"):
            _ = made.direction


def test_before_and_after_are_the_losses_and_the_direction_is_the_edit():
    model, (prompts, targets) = gpt2(), examples()
    made = optimise_direction(model, SITE, prompts, targets, steps=5)
    assert made.before == pytest.approx(float(target_losses(model, prompts, targets).mean()), rel=1e-4)
    edits = [ins.add(made.direction)]
    assert made.after == pytest.approx(float(target_losses(model, prompts, targets, edits=edits).mean()), rel=1e-4)
    assert made.direction.model == model.fingerprint
    again = optimise_direction(model, SITE, prompts, targets, steps=5)
    assert torch.equal(made.direction.vector, again.direction.vector)
    other = optimise_direction(model, SITE, prompts, targets, steps=5, seed=1)
    assert not torch.allclose(made.direction.vector, other.direction.vector, atol=1e-2)


def test_at_the_last_stream_one_step_goes_along_the_gradient_of_the_head():
    model = gpt2()
    site = "final_norm"
    made = optimise_direction(model, site, [[1, 2, 3]], [[7]], positions="last", steps=150, lr=0.1)
    module: Any = model.module
    head = module.lm_head.weight.detach()
    state = ins.run(model, [[1, 2, 3]], read=site, reduce="last")[site][0] + made.direction.vector
    left = torch.softmax(head @ state, 0) @ head - head[7]  # the gradient by the state: 0 where nothing is to be gained
    assert float(left.norm()) < 0.05 * float(head[7].norm())


def test_the_model_is_as_it_was():
    module = copy.deepcopy(gpt2_module())
    model = ins.open(module)
    next(module.parameters()).requires_grad_(False)
    before = {name: (p.clone(), p.requires_grad) for name, p in module.named_parameters()}
    hooks = hooks_left(module)  # those that transformers put there for itself
    optimise_direction(model, SITE, *examples(), steps=3)
    for name, p in module.named_parameters():
        assert torch.equal(p, before[name][0])
        assert p.requires_grad == before[name][1]
        assert p.grad is None
    assert hooks_left(module) == hooks
    assert not module.training


def general_of(model: ins.Model) -> ins.Direction:
    return ins.Direction(SITE, 3 * torch.randn(32, generator=torch.Generator().manual_seed(2)), "", model.fingerprint)


def test_no_longer_than_asked_beside_what_is_fixed_and_under_exchanged_targets():
    model, (prompts, targets) = gpt2(), examples()
    made = optimise_direction(model, SITE, prompts, targets, steps=40, lr=0.2, max_norm=1.5)
    assert float(made.direction.vector.norm()) <= 1.5 * (1 + 1e-5)
    general = ins.add(general_of(model))
    more = optimise_direction(model, SITE, prompts, targets, steps=20, static=[general])
    assert more.before == pytest.approx(float(target_losses(model, prompts, targets, edits=[general]).mean()), rel=1e-4)
    placed = optimise_direction(
        model, SITE, prompts, targets, steps=3, static=general_of(model), positions="predicting"
    )
    there = target_losses(model, prompts, targets, directions=[general_of(model)], positions="predicting")
    assert placed.before == pytest.approx(float(there.mean()), rel=1e-4)
    assert abs(placed.before - more.before) > 1e-3
    own = [[10 + i] for i in range(12)]
    dark = optimise_direction(model, SITE, prompts, own, steps=5, control="shuffle")
    assert dark.direction.source == "shuffle control trained on 12 targets"
    true = optimise_direction(model, SITE, prompts, own, steps=5)
    assert not torch.allclose(true.direction.vector, dark.direction.vector, atol=1e-3)
    assert targets == examples()[1]


def test_losses_under_directions_are_those_of_each_text_steered_where_it_is_asked():
    model, (prompts, targets) = gpt2(), examples(5)
    got = target_losses(model, prompts, targets, directions=[general_of(model)], positions="predicting", batch_rows=2)
    for loss, prompt, target in zip(got, prompts, targets, strict=True):
        where = slice(len(prompt) - 1, len(prompt) + len(target) - 1)
        one = by_hand(model, prompt, target, [ins.add(general_of(model), at=where)])
        assert float(loss) == pytest.approx(one, rel=1e-3)
    with pytest.raises(ins.InputError, match="'first' is none of 'all'"):
        target_losses(model, prompts, targets, positions="first")


@pytest.mark.parametrize("positions", ["all", "prompt", "last", "predicting"])
def test_it_acts_where_it_is_said_to(positions):
    made = optimise_direction(gpt2(), SITE, *examples(), positions=positions, steps=30, lr=0.1)
    assert made.after < made.before - 0.3
    assert made.positions == positions


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"kind": "matrix"}, ins.InputError, "'matrix' is none of 'vector'"),
        ({"positions": "first"}, ins.InputError, "'first' is none of 'all'"),
        ({"control": "random"}, ins.InputError, "can be 'shuffle' or None"),
        ({"max_norm": 0.0}, ins.InputError, "max_norm=0.0.*above 0"),
        ({"targets": [[1]]}, ins.InputError, "12 prompts and 1 targets"),
        ({"targets": [[1]] * 11 + [[]]}, ins.InputError, "target 11 has no tokens"),
        ({"prompts": [[1]], "targets": [[2]], "control": "shuffle"}, ins.InputError, "two examples at least"),
        ({"targets": [[7]] * 12, "positions": "target"}, ins.InputError, "no target depends on layers.1.resid_post"),
        ({"targets": [[99]] * 12}, ins.TokenError, "outside this model's vocabulary"),
        ({"site": "layers.1.attn.z"}, ins.InputError, "has 4 axes"),
        ({"site": "layers.8.resid_post"}, ins.SiteError, "no site matches"),
    ],
)
def test_what_cannot_be_trained_is_refused(asked, error, says):
    prompts, targets = examples()
    with pytest.raises(error, match=says):
        optimise_direction(gpt2(), **({"site": SITE, "prompts": prompts, "targets": targets, "steps": 2} | asked))


def test_learned_edits_of_odd_shapes_are_refused():
    with pytest.raises(ins.ShapeError, match=r"are both \[d, rank\]"):
        low_rank_add(SITE, torch.ones(3, 2), torch.ones(3, 1))
    with pytest.raises(ins.ShapeError, match="gated_add: vector"):
        gated_add(SITE, torch.ones(3), torch.ones(3, 2), torch.ones(3), torch.ones(2), torch.tensor(0.0))
    with pytest.raises(ins.ShapeError, match="for 3 units; the site's last axis has 32"):
        ins.run(gpt2(), [[1, 2]], edits=[low_rank_add(SITE, torch.ones(3, 2), torch.ones(3, 2))])
