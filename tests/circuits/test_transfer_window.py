"""Waiting and transfer: exact where the answer is known on paper, and refused where positions mean nothing."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

import inscape as ins
from inscape import tasks
from inscape.circuits.bank import ablation_bank
from inscape.circuits.transfer_heads import HeadsNeeded, heads_needed
from inscape.circuits.transfer_window import transfer_window
from inscape.circuits.waiting import restricted
from inscape.dynamics.toys.name_order import FORMS
from tests.common.small import gpt2, gpt2_module


def fixed(n: int = 12) -> Any:
    """Pairs of token ids whose answers are what a random model says, so that it is right by construction."""
    model = gpt2()
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 9, (n, 4), generator=g)
    ids[:, 0] = 1
    top = ins.run(model, ids, output="last").output.logits[:, -1].argmax(-1)
    rows = tuple(map(tuple, ids.tolist()))
    return model, tasks.Pairs(
        clean=tuple(map(str, rows)), corrupted=tuple(map(str, rows)), answers=("",) * n, wrong=("",) * n,
        answer_ids=top, wrong_ids=(top + 1) % 64, roles={}, chance=0.5, clean_ids=rows, corrupted_ids=rows,
    )  # fmt: skip


def bank_of(model: Any) -> Any:
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 9, (400, 4), generator=g)
    ids[:, 0] = 1
    return ablation_bank(model, ids.tolist(), "layers.*.resid_pre")


def test_waiting_to_the_first_layer_changes_nothing_and_the_whole_model_is_faithful() -> None:
    model, pairs = fixed()
    found = transfer_window(model, pairs, bank_of(model), controls=("position", "alone", "zero", "shuffled", "mean"))
    assert (found.accuracy, found.n) == (1.0, 12)
    assert float(found.waiting["key"][0]) == 1.0  # an embedding is the mean of its own key
    assert float(found.waiting["alone"][0]) == 1.0
    assert float(found.waiting["zero"][0]) < 1.0
    assert found.surface.isnan().sum() == 3  # 3 layers: no window of 2 from the last, none of 3 but from the first
    assert torch.equal(found.surface.isnan(), torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 1]]).bool())


def test_a_model_that_reads_nothing_but_its_last_token_can_wait_to_the_end() -> None:
    module = copy.deepcopy(gpt2_module())
    for block in module.transformer.h:
        block.attn.c_proj.weight.data.zero_()
        block.attn.c_proj.bias.data.zero_()
    model, (_, pairs) = ins.open(module), fixed()
    ids = torch.tensor(pairs.clean_ids)
    top = ins.run(model, ids, output="last").output.logits[:, -1].argmax(-1)
    own = replace(pairs, answer_ids=top, wrong_ids=(top + 1) % 64, answer_sets=(), candidate_sets=())
    found = transfer_window(model, own, bank_of(model))
    assert (found.wait, found.transfer, found.faithfulness) == (2, 1, 1.0)
    assert found.blocked == found.relative == 1.0
    assert found.waits() == 2
    assert set(found.elsewhere) == set(found.blocked_elsewhere) == {0, 1}
    left = transfer_window(model, own, bank_of(model), finish=1, n_elsewhere=1, controls=())
    assert (left.wait, left.transfer, len(left.elsewhere)) == (1, 1, 1)
    assert str(left).startswith("wait 1, transfer 1 of 3 layers: 100% of 12 answers kept (100% elsewhere); 100% with")


def test_a_net_that_can_read_in_one_layer_alone_is_found_out() -> None:
    module: Any = copy.deepcopy(gpt2_module())
    for layer, block in enumerate(module.transformer.h):
        block.attn.c_proj.weight.data *= 4 if layer == 1 else 0
        block.attn.c_proj.bias.data.zero_()
    model, (_, pairs) = ins.open(module), fixed(60)
    top = ins.run(model, torch.tensor(pairs.clean_ids), output="last").output.logits[:, -1].argmax(-1)
    own = replace(pairs, answer_ids=top, wrong_ids=(top + 1) % 64, answer_sets=(), candidate_sets=())
    assert len(top.unique()) > 5  # answers differ, so that they say something of the numbers
    found = transfer_window(model, own, bank_of(model), finish=1)
    assert (found.wait, found.transfer, found.faithfulness, found.waits(0)) == (1, 1, 1.0, 1)
    torch.testing.assert_close(found.waiting["alone"], torch.tensor([1.0, 1.0, found.blocked]))
    assert found.blocked < 0.9
    assert found.elsewhere == {0: found.blocked, 2: float(found.waiting["key"][2])}
    assert found.blocked_elsewhere == {0: 1.0, 2: 1.0}
    assert float(found.waiting["position"].max()) < 0.9


def test_a_staged_search_looks_at_the_transfers_of_one_wait() -> None:
    model, pairs = fixed()
    bank = bank_of(model)
    joint = transfer_window(model, pairs, bank, threshold=0.3, controls=("position",))
    staged = transfer_window(model, pairs, bank, threshold=0.3, controls=("position",), search="staged")
    expected = max(w for w in range(3) if float(joint.waiting["key"][w]) >= 0.3)
    assert staged.wait == expected
    torch.testing.assert_close(staged.surface[expected], joint.surface[expected], equal_nan=True)
    assert bool(staged.surface[[w for w in range(3) if w != expected]].isnan().all())
    assert torch.equal(staged.waiting["key"], joint.waiting["key"])
    with_room = transfer_window(model, pairs, bank, threshold=2.0, controls=(), search="staged", finish=2)
    assert (with_room.wait, with_room.transfer) == (0, 1)


def test_what_reaches_no_threshold_is_measured_at_its_best_and_says_so() -> None:
    model, pairs = fixed()
    found = transfer_window(model, pairs, bank_of(model), threshold=1.01, controls=("position",))
    assert not found.reached
    assert str(found).startswith("not reached: wait")
    best = found.surface[~found.surface.isnan()].max()
    assert found.faithfulness == float(best)
    assert len(found.elsewhere) == 3 - found.transfer
    assert found.waits(-0.01) == -1


def test_relative_accuracy_counts_every_prompt() -> None:
    model, pairs = fixed()
    odd = torch.arange(12) % 3 == 0  # a third of the answers are taken from the second best
    ids = torch.tensor(pairs.clean_ids)
    second = ins.run(model, ids, output="last").output.logits[:, -1].topk(2).indices[:, 1]
    answers = torch.where(odd, second, pairs.answer_ids)
    some = replace(pairs, answer_ids=answers, wrong_ids=(answers + 1) % 64, answer_sets=(), candidate_sets=())
    bank = bank_of(model)
    found = transfer_window(model, some, bank, wait=1, transfer=1, controls=())
    right = some.answered_by(model, edits=restricted(model, bank, 1, 1))
    assert (found.accuracy, found.n) == (pytest.approx(8 / 12), 8)
    assert found.relative == pytest.approx(float(right.double().mean()) / (8 / 12))
    assert found.faithfulness == float(right[~odd].double().mean())
    with pytest.raises(ins.InputError, match="was given wait=; leave it out"):
        found.waits()


def test_heads_that_can_go_are_counted_beside_a_random_order() -> None:
    heads = HeadsNeeded(
        (("layers.0", 0), ("layers.0", 1)), torch.tensor([1.0, 0.5]), torch.tensor([1.0, 0.96, 0.2]),
        torch.tensor([1.0, 0.5, 0.2]),
    )  # fmt: skip
    assert heads.spare() == (1, 0)
    assert heads.spare(0.1) == (2, 2)


def test_the_plan_is_the_slow_description_of_it() -> None:
    model, pairs = fixed(4)
    bank = bank_of(model)
    ids = torch.tensor(pairs.clean_ids)
    trace = ins.run(model, ids, read="layers.*.attn.pattern", edits=restricted(model, bank, 1, 1), output=True)
    first, self_only = trace["layers.1.attn.pattern"], trace["layers.2.attn.pattern"]
    for q in range(4):
        open_ = {0, q} if q < 3 else {0, 1, 2, 3}
        shut = [k for k in range(q + 1) if k not in open_]
        assert float(first[:, :, q, shut].sum()) == 0
        assert float(self_only[:, :, q, [k for k in range(q + 1) if k not in (0, q)]].sum()) == 0
        assert float(first[:, :, q, sorted(open_)].min()) > 0
    state = ins.run(model, ids, read="layers.1.resid_pre", edits=restricted(model, bank, 1, 1))["layers.1.resid_pre"]
    for row in range(4):
        for t in range(4):
            same = [i for i, key in enumerate(bank.keys.values) if key == (t << 32) + pairs.clean_ids[row][t]]
            torch.testing.assert_close(state[row, t], bank.means["layers.1.resid_pre"][same[0]])


def test_a_trained_net_needs_its_names_and_a_head_can_be_found_for_them() -> None:
    model = ins.open("toy-name-order")
    pairs = tasks.name_order(model, 60, ask="mixed", templates=(0,))
    more = tasks.name_order(model, 400, ask="mixed", templates=(0,), seed=1)
    bank = ablation_bank(model, [list(ids) for ids in more.clean_ids], "layers.*.resid_pre", k_min=2, rare="position")
    found = transfer_window(model, pairs, bank, threshold=0.8)
    assert found.accuracy > 0.95
    assert float(found.waiting["key"][0]) == 1.0
    assert float(found.waiting["shuffled"][0]) < 0.2
    assert len(FORMS) == 3
    whole = transfer_window(model, pairs, bank, wait=0, transfer=3, threshold=0.0)
    assert (whole.wait, whole.transfer) == (0, 3)
    needed = heads_needed(model, pairs, bank, 0, 3, n_random=1)
    assert len(needed.order) == 12
    assert float(needed.removed[0]) == whole.faithfulness
    assert float(needed.removed[-1]) <= 0.2
    assert torch.equal(needed.alone, needed.alone.sort(descending=True).values)


WRONG: dict[str, tuple[Any, str]] = {
    "unequal prompts": (
        lambda m, p, b: transfer_window(
            m, replace(p, clean_ids=((1, 2), *p.clean_ids[1:]), aligned=False, roles={}, corrupted_roles={}), b
        ),
        "prompts of one template",
    ),
    "an unknown control": (lambda m, p, b: transfer_window(m, p, b, controls=("noise",)), "there are position, mean"),
    "an unknown search": (lambda m, p, b: transfer_window(m, p, b, search="all"), "it can be joint or staged"),
    "nothing left": (lambda m, p, b: transfer_window(m, p, b, finish=3), "leaves no layer to transfer in"),
    "too many layers": (lambda m, p, b: transfer_window(m, p, b, wait=2, transfer=2), "has 3 layers"),
    "no such plan": (lambda m, p, b: restricted(m, b, 3, 1), "has 3 layers"),
    "nothing right": (
        lambda m, p, b: transfer_window(
            m, replace(p, answer_ids=p.wrong_ids, wrong_ids=p.answer_ids, answer_sets=(), candidate_sets=()), b
        ),
        "the model is too weak for this task",
    ),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_what_has_no_window_is_refused(case: str) -> None:
    make, message = WRONG[case]
    model, pairs = fixed()
    with pytest.raises(ins.InputError, match=message):
        make(model, pairs, bank_of(model))
