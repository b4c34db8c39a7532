"""Removing the span of several directions."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.core.edits.vectors import checked_all
from tests.common.small import direction, gpt2
from tests.common.steering import ROWS, SITE, as_the_loop, beams_need_no_cache

PAIR = [direction(seed=1), direction(seed=2)]
BASIS = torch.linalg.qr(torch.stack([d.vector for d in PAIR], 1)).Q


def test_a_span_is_removed_in_generate_as_in_the_obvious_loop() -> None:
    edit = ins.project_out(PAIR)
    as_the_loop([edit], lambda x, real, n: x - x @ BASIS @ BASIS.T)
    beams_need_no_cache([edit])


@given(seed=st.integers(0, 2**31), k=st.integers(2, 5))
def test_nothing_of_the_span_is_left_and_nothing_else_is_touched(seed: int, k: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x, v = torch.randn(3, 4, 8, generator=g, dtype=torch.float64), torch.randn(k, 8, generator=g, dtype=torch.float64)
    several = [ins.Direction("any", one) for one in (*v, v[0] - 3 * v[1])]  # the last adds nothing to the span
    edit = ins.project_out(several)
    y = edit.fn(x)
    torch.testing.assert_close(y @ v.T, torch.zeros(3, 4, k, dtype=torch.float64), atol=1e-8, rtol=0)
    across = torch.linalg.qr(v.T, mode="complete").Q[:, k:]
    torch.testing.assert_close(y @ across, x @ across)
    torch.testing.assert_close(edit.fn(y), y)


def test_one_after_the_other_would_leave_some_of_the_first() -> None:
    x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(3))
    a, b = (ins.project_out(d).fn for d in PAIR)
    assert float((b(a(x)) @ PAIR[0].unit).abs().max()) > 1e-3
    assert float((ins.project_out(PAIR).fn(x) @ PAIR[0].unit).abs().max()) < 1e-5


def test_heads_and_rows_have_spans_of_their_own() -> None:
    g = torch.Generator().manual_seed(4)
    for site, shape in (("layers.1.attn.z", (4, 8)), (SITE, (2, 32)), ("layers.1.attn.z", (2, 1, 8))):
        several = [ins.Direction(site, torch.randn(shape, generator=g)) for _ in range(2)]
        got = ins.run(gpt2(), ROWS, edits=[ins.project_out(several)], read=site)[site]
        for d in several:
            vector = d.vector if d.vector.ndim == 2 and site != SITE else d.vector[:, None]
            assert float((got * vector).sum(-1).abs().max()) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_rounded_answer(dtype: torch.dtype) -> None:
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(5)).to(dtype)
    x[0, 1, 3] = 3e4
    for edit in (ins.project_out(PAIR), ins.project_out(PAIR[0]), ins.clamp(PAIR[0], 1.0, 2.0)):
        want = edit.fn(x.double())
        bound = torch.finfo(dtype).eps * want.abs().clamp(min=1) + 3e4 * 2e-6
        assert bool(((edit.fn(x).double() - want).abs() <= bound).all())


def test_a_span_is_learned_through_the_model() -> None:
    vectors = [d.vector.clone().requires_grad_() for d in PAIR]
    edit = ins.project_out([ins.Direction(SITE, v) for v in vectors])
    logits = ins.run(gpt2(), ROWS, edits=[edit], output=True, grad=True).output.logits
    for g in torch.autograd.grad(logits.logsumexp(-1).sum(), vectors):
        assert 0 < float(g.abs().sum()) < float("inf")


def test_a_saved_span_acts_as_before(tmp_path: Path) -> None:
    ins.save_edits(tmp_path / "e.safetensors", [ins.project_out(PAIR, at=[1, -1])])
    (loaded,) = ins.load_edits(tmp_path / "e.safetensors")
    assert loaded.site == SITE
    assert loaded.at == (1, -1)
    x = torch.randn(1, 3, 32)
    torch.testing.assert_close(loaded.fn(x), ins.project_out(PAIR).fn(x))


def test_spans_that_are_none_say_why() -> None:
    with pytest.raises(ins.EditError, match=r"one site and shape together; got a, b with \(4,\)"):
        ins.project_out([ins.Direction("a", torch.ones(4)), ins.Direction("b", torch.ones(4))])
    with pytest.raises(ins.EditError, match="project_out takes a Direction"):
        ins.project_out([])
    with pytest.raises(ins.EditError, match="project_out takes a Direction, got int"):
        checked_all([PAIR[0], 3], "project_out")  # type: ignore[list-item]
    with pytest.raises(ins.ShapeError, match="points nowhere"):
        ins.project_out([PAIR[0], ins.Direction(SITE, torch.zeros(32))])
    with pytest.raises(ins.ShapeError, match="the site's last axis has 32"):
        ins.run(gpt2(), ROWS, edits=[ins.project_out([ins.Direction(SITE, torch.ones(5))] * 2)])
