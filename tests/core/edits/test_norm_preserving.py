"""Turning tokens towards directions, by VISTA's formula written out."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import inscape as ins
from tests.common.small import direction, gpt2
from tests.common.steering import ROWS, SITE, as_the_loop, beams_need_no_cache
from tests.common.zoo import build, inputs_for

D, E = direction(seed=1), direction(seed=2)


def by_token(x: Tensor, vectors: list[Tensor], strength: float, adaptive: bool) -> Tensor:
    """One token at a time, in float64, as the paper writes it."""
    out = x.double().clone()
    for row in range(x.shape[0]):
        for column in range(x.shape[1]):
            token = x[row, column].double()
            push = torch.zeros_like(token)
            for v in vectors:
                v = v.double() * (1 if strength >= 0 else -1)
                cosine = float(token @ -v / (token.norm() * v.norm()))
                push += (1 + max(0.0, cosine) if adaptive else 1.0) * v / v.norm() / len(vectors)
            y = token / token.norm() + abs(strength) * push
            out[row, column] = y / y.norm() * token.norm()
    return out.to(x.dtype)


CASES = {
    "adaptive": (ins.norm_preserving_add(D, 0.6), [D.vector], 0.6, True),
    "the same push for all": (ins.norm_preserving_add(D, 0.6, adaptive=False), [D.vector], 0.6, False),
    "away": (ins.norm_preserving_add(D, -0.6), [D.vector], -0.6, True),
    "two": (ins.norm_preserving_add([D, E], 0.8), [D.vector, E.vector], 0.8, True),
}


@pytest.mark.parametrize("name", list(CASES))
def test_a_turn_in_generate_is_that_of_the_obvious_loop(name: str) -> None:
    edit, vectors, strength, adaptive = CASES[name]
    as_the_loop([edit], lambda x, real, n: by_token(x, vectors, strength, adaptive))
    beams_need_no_cache([edit])


@given(seed=st.integers(0, 2**31), strength=st.floats(-2, 2), adaptive=st.booleans())
def test_lengths_stay_and_the_other_way_is_the_other_direction(seed: int, strength: float, adaptive: bool) -> None:
    g = torch.Generator().manual_seed(seed)
    x, v = torch.randn(2, 3, 8, generator=g, dtype=torch.float64), torch.randn(8, generator=g, dtype=torch.float64)
    d = ins.Direction("any", v)
    y = ins.norm_preserving_add(d, strength, adaptive=adaptive).fn(x)
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(y, ins.norm_preserving_add(-d, -strength, adaptive=adaptive).fn(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_massive_channels_and_empty_tokens_do_not_break_half_precision(dtype: torch.dtype) -> None:
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(5)).to(dtype)
    x[0, 1, 3], x[1, 0] = 6e4, 0.0
    edit = ins.norm_preserving_add(D, 0.3)
    y = edit.fn(x)
    want = edit.fn(x.double())
    assert y.dtype == dtype
    assert bool(y.isfinite().all())
    assert bool((y[1, 0] == 0).all())
    assert bool(((y.double() - want).abs() <= torch.finfo(dtype).eps * want.abs().clamp(min=1) + 6e4 * 1e-6).all())


def test_strengths_by_row_and_by_token() -> None:
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(6))
    by_row = ins.run(gpt2(), ROWS, read=SITE, edits=[ins.norm_preserving_add(D, torch.tensor([0.5, -0.2]))])[SITE]
    for row, strength in enumerate((0.5, -0.2)):
        alone = ins.run(gpt2(), ROWS, read=SITE, edits=[ins.norm_preserving_add(D, strength)])[SITE]
        torch.testing.assert_close(by_row[row], alone[row], atol=1e-5, rtol=1e-4)
    course = ins.norm_preserving_add(D, ins.schedule([0.0, 0.7], prompt=0.0))
    plain = ins.generate(gpt2(), ROWS, read=SITE, max_new_tokens=3)
    got = ins.generate(gpt2(), ROWS, edits=[course], read=SITE, max_new_tokens=3)
    assert torch.equal(got.trace[SITE][:, :5], plain.trace[SITE][:, :5])
    want = by_token(plain.trace[SITE][:, 5:6], [D.vector], 0.7, True)
    torch.testing.assert_close(got.trace[SITE][:, 5:6], want, atol=1e-4, rtol=1e-4)
    assert torch.equal(ins.norm_preserving_add(D, 0.0).fn(x), x)


def test_turns_are_learned_through_the_model() -> None:
    vector, strength = D.vector.clone().requires_grad_(), torch.tensor(0.0).requires_grad_()
    for s, learned in ((0.3, [vector]), (strength, [strength])):
        edit = ins.norm_preserving_add(ins.Direction(SITE, vector), s)
        logits = ins.run(gpt2(), ROWS, edits=[edit], output=True, grad=True).output.logits
        assert all(0 < float(g.abs().sum()) < 1e9 for g in torch.autograd.grad(logits.logsumexp(-1).sum(), learned))


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "qwen3_moe", "mamba", "bert", "vit"])
def test_turns_fit_other_families_at_the_mlp_and_in_the_stream(name: str) -> None:
    model, inputs = ins.open(build(name)), inputs_for(name)
    for last in ("layers.1.resid_post", "layers.1.mlp_out"):
        site = next((s.name for s in model.sites if s.name == last), None)
        if site is None:
            continue
        plain = ins.run(model, inputs, read=site)[site]
        v = torch.randn(plain.shape[-1], generator=torch.Generator().manual_seed(2))
        edit = ins.norm_preserving_add(ins.Direction(site, v), 0.5)
        got = ins.run(model, inputs, read=site, edits=[edit])[site]
        torch.testing.assert_close(got, by_token(plain, [v], 0.5, True), atol=1e-5, rtol=1e-4)


def test_a_saved_turn_acts_as_before(tmp_path: Path) -> None:
    scheduled = ins.norm_preserving_add(D, ins.schedule([0.2, 0.5]), at="newest")
    for edit in (*(c[0] for c in CASES.values()), scheduled):
        ins.save_edits(tmp_path / "e.safetensors", [edit])
        (loaded,) = ins.load_edits(tmp_path / "e.safetensors")
        assert repr(loaded) == repr(edit)
        one, two = (ins.generate(gpt2(), ROWS, edits=[e], max_new_tokens=3, read=SITE) for e in (edit, loaded))
        torch.testing.assert_close(two.trace[SITE], one.trace[SITE])


def test_a_turn_towards_nothing_is_refused() -> None:
    with pytest.raises(ins.ShapeError, match="norm_preserving_add: the direction zeros has length 0"):
        ins.norm_preserving_add(ins.Direction(SITE, torch.zeros(32), "zeros"))
    with pytest.raises(ins.ShapeError, match="the site's last axis has 32"):
        ins.run(gpt2(), ROWS, edits=[ins.norm_preserving_add(ins.Direction(SITE, torch.ones(9)))])
