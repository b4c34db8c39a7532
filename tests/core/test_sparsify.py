"""Edits that keep few units: known vectors, ties and zeros, gradients, padding, and cached decoding."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.core.edits.sparsify import largest, random_k, threshold_activation, topk_activation
from inscape.core.step import Step
from inscape.train import next_token
from tests.common.small import gpt2, gpt2_module

SITE = "layers.1.mlp.act"
IDS = torch.tensor([[1, 5, 9, 13, 17, 21], [2, 6, 10, 14, 18, 22]])
PADDED = [[3, 4, 5, 6, 7, 8], [9, 8, 7]]


def applied(edit: "ins.Edit", x: torch.Tensor, step: Step | None = None) -> torch.Tensor:
    step = step or Step.plain(*x.shape[:2])
    step.site = edit.site
    return edit.fn(x, step) if edit.contextual else edit.fn(x)


@given(seed=st.integers(0, 2**31), n=st.integers(1, 12), k=st.integers(1, 12), levels=st.integers(1, 4))
def test_the_k_largest_are_kept_and_of_equal_ones_the_first(seed: int, n: int, k: int, levels: int) -> None:
    g = torch.Generator().manual_seed(seed)
    score = torch.randint(levels, (3, n), generator=g)
    slow = torch.zeros(3, n, dtype=torch.bool)
    for row in range(3):
        order = sorted(range(n), key=lambda i, row=row: (-int(score[row, i]), i))
        slow[row, order[:k]] = True
    assert torch.equal(largest(score.float(), k), slow)
    assert torch.equal(largest(score, k), slow)


@given(seed=st.integers(0, 2**31), k=st.integers(1, 8), dead=st.floats(0, 1))
def test_zeros_stay_zero_and_kept_units_go_on_as_they_are(seed: int, k: int, dead: float) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, 8, generator=g) * (torch.rand(2, 3, 8, generator=g) > dead)
    for edit in (topk_activation("s", k), topk_activation("s", k, by="largest"), random_k("s", k)):
        y = applied(edit, x)
        assert bool(((y == x) | (y == 0)).all())
        assert int((y != 0).sum(-1).max()) <= k
    smallest_kept = torch.where(applied(topk_activation("s", k), x) != 0, x.abs(), torch.inf).amin(-1)
    largest_cut = torch.where(applied(topk_activation("s", k), x) == 0, x.abs(), 0.0).amax(-1)
    assert bool((smallest_kept >= largest_cut).all())


def test_a_share_is_of_the_units_and_a_batch_shares_its_budget_over_real_tokens() -> None:
    x = torch.tensor([[[9.0, 8, 7, 6], [1, 2, 3, 4]], [[100.0, 100, 100, 100], [0, 0, 5, 0]]])
    assert applied(topk_activation("s", 0.5), x)[0].tolist() == [[9, 8, 0, 0], [0, 0, 3, 4]]
    step = Step.of_mask(torch.tensor([[True, True], [False, True]]))
    y = applied(topk_activation("s", 0.5, per="batch"), x, step)
    assert y[0].tolist() == [[9, 8, 7, 6], [0, 0, 0, 4]]
    assert y[1].tolist() == [[0, 0, 0, 0], [0, 0, 5, 0]]  # padding neither counts nor is kept


def test_gradients_pass_through_what_is_kept_only() -> None:
    x = torch.tensor([[[3.0, -2.0, 1.0, 0.0]]], requires_grad=True)
    applied(topk_activation("s", 2), x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[[1, 1, 0, 0]]]


def test_the_largest_and_the_largest_in_size_differ_where_values_are_negative() -> None:
    x = torch.tensor([[[0.1, -3.0, 0.2, -0.1]]])
    assert applied(topk_activation("s", 2), x)[0, 0].tolist() == pytest.approx([0, -3, 0.2, 0])
    assert applied(topk_activation("s", 2, by="largest"), x)[0, 0].tolist() == pytest.approx([0.1, 0, 0.2, 0])


def test_a_threshold_may_differ_by_unit_and_zero_changes_nothing() -> None:
    x = torch.tensor([[[1.0, -1.0, 0.5, -0.2]]])
    assert applied(threshold_activation("s", 0.0), x).equal(x)
    assert applied(threshold_activation("s", 1.0), x)[0, 0].tolist() == [1, -1, 0, 0]
    y = applied(threshold_activation("s", torch.tensor([2.0, 0.1, 0.5, 0.3])), x)
    assert y[0, 0].tolist() == [0, -1, 0.5, 0]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_token_keeps_the_same_units_on_either_padding_side_and_in_cached_decoding(side: str) -> None:
    model = gpt2()
    for edit in (topk_activation(SITE, 9), random_k(SITE, 9, seed=4), threshold_activation(SITE, 0.3)):
        padded = ins.run(model, PADDED, read=SITE, edits=[edit], padding_side=side)
        alone = ins.run(model, [PADDED[0]], read=SITE, edits=[edit])[SITE]
        torch.testing.assert_close(padded[SITE][0], alone[0], atol=1e-5, rtol=1e-4)
        out = ins.generate(model, PADDED, edits=[edit], read=SITE, max_new_tokens=4)
        grown = torch.cat([ins.run(model, PADDED, read=SITE).tokens, out.tokens], 1)[:1, :-1]
        again = ins.run(model, grown, read=SITE, edits=[edit])[SITE]
        torch.testing.assert_close(out.trace[SITE][:1, : again.shape[1]], again, atol=1e-5, rtol=1e-4)


def test_random_units_differ_between_tokens_rows_sites_and_seeds_and_are_even() -> None:
    x = torch.ones(4, 64, 50)
    kept = applied(random_k("layers.0.mlp.act", 10), x)
    assert kept.sum(-1).eq(10).all()
    assert not torch.equal(kept[0], kept[1])
    assert not torch.equal(kept, applied(random_k("layers.1.mlp.act", 10), x))
    assert not torch.equal(kept, applied(random_k("layers.0.mlp.act", 10, seed=1), x))
    share = kept.mean((0, 1))  # of 256 tokens each: 0.2 with a standard error of 0.025
    assert float((share - 0.2).abs().max()) < 4.5 * 0.025
    fresh = random_k("s", 10, seed=None)
    assert not torch.equal(applied(fresh, x), applied(fresh, x))


def test_a_net_learns_under_top_k_and_cut_weights_do_not_move() -> None:
    module = copy.deepcopy(gpt2_module())
    model = ins.open(module)
    with ins.editing(model, [topk_activation("layers.*.mlp.act", 5)]):
        loss = next_token(module, IDS)
    loss.backward()
    fired = ins.run(ins.open(gpt2_module()), IDS, read=SITE, edits=[topk_activation("layers.*.mlp.act", 5)])[SITE]
    idle = (fired == 0).all(0).all(0)
    grad = module.transformer.h[1].mlp.c_proj.weight.grad  # [d_mlp, d_model]
    assert bool((grad[idle] == 0).all())
    assert bool((grad[~idle] != 0).any())


def test_budgets_that_mean_nothing_are_refused() -> None:
    for k in (0, -1, 0.0, 1.5, True):
        with pytest.raises(ins.EditError, match=r"counts units, a float in \(0, 1\]"):
            topk_activation("s", k)
    with pytest.raises(ins.ShapeError, match="it has 128 units"):
        ins.run(gpt2(), IDS, edits=[topk_activation(SITE, 129)])
    with pytest.raises(ins.EditError, match="per is one of"):
        topk_activation("s", 3, per="layer")
    with pytest.raises(ins.EditError, match="at least 0"):
        threshold_activation("s", -1.0)
    with pytest.raises(ins.ShapeError, match="3 thresholds for 128 units"):
        ins.run(gpt2(), IDS, edits=[threshold_activation(SITE, torch.ones(3))])
