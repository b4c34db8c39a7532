"""One scale and one shift a unit."""

from pathlib import Path

import pytest
import torch

import inscape as ins
from tests.common.small import gpt2
from tests.common.steering import ROWS, SITE, as_the_loop, beams_need_no_cache
from tests.common.zoo import build, inputs_for

G = torch.Generator().manual_seed(0)
W, B = 1 + 0.3 * torch.randn(32, generator=G), torch.randn(32, generator=G)


@pytest.mark.parametrize("t", [0.3, 1.0])
def test_a_map_in_generate_is_that_of_the_obvious_loop(t: float) -> None:
    edit = ins.affine(SITE, W, B, t)
    as_the_loop([edit], lambda x, real, n: (1 - t) * x + t * (W * x + B))
    beams_need_no_cache([edit])


def test_strengths_by_row_and_by_token() -> None:
    rows = torch.tensor([0.2, 0.9])
    as_the_loop([ins.affine(SITE, W, B, rows)], lambda x, real, n: x + rows[:, None, None] * ((W - 1) * x + B))

    def course(x: torch.Tensor, real: torch.Tensor, n: int) -> torch.Tensor:
        t = torch.tensor([0.8 if c < n else 0.4 if c == n else 0.0 for c in range(x.shape[1])])[:, None]
        return x + t * ((W - 1) * x + B)

    as_the_loop([ins.affine(SITE, W, B, ins.schedule([0.8, 0.4]))], course)


def test_maps_of_heads_and_single_numbers() -> None:
    site = "layers.1.attn.z"
    plain = ins.run(gpt2(), ROWS, read=site)[site]
    w, b = torch.randn(4, 8, generator=G), torch.randn(8, generator=G)
    got = ins.run(gpt2(), ROWS, read=site, edits=[ins.affine(site, w, b)])[site]
    torch.testing.assert_close(got, w * plain + b, atol=1e-5, rtol=1e-4)
    got = ins.run(gpt2(), ROWS, read=site, edits=[ins.affine(site, 2.0, 1.0, heads=[1])])[site]
    torch.testing.assert_close(got[:, :, 1], 2 * plain[:, :, 1] + 1)
    assert torch.equal(got[:, :, 0], plain[:, :, 0])


def test_no_strength_is_exactly_no_change_and_two_maps_are_one() -> None:
    x = torch.randn(2, 3, 32, generator=G, dtype=torch.float64)
    for zero in (0.0, torch.tensor(0.0)):
        assert torch.equal(ins.affine(SITE, W, B, zero).fn(x), x)
    one, two = ins.affine(SITE, W, B), ins.affine(SITE, B, W)
    torch.testing.assert_close(two.fn(one.fn(x)), ins.affine(SITE, B.double() * W, B.double() * B + W).fn(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_rounded_answer(dtype: torch.dtype) -> None:
    x = torch.randn(2, 5, 32, generator=G).to(dtype)
    x[0, 1, 3] = 2e4
    want = ins.affine(SITE, W, B, 0.7).fn(x.double())
    bound = torch.finfo(dtype).eps * want.abs().clamp(min=1)
    assert bool(((ins.affine(SITE, W, B, 0.7).fn(x).double() - want).abs() <= bound).all())


def test_maps_are_learned_through_the_model_while_others_of_the_same_kind_are_in_force() -> None:
    maps = [(W.clone().requires_grad_(), B.clone().requires_grad_()) for _ in range(2)]
    sites = ["layers.0.mlp_out", "layers.1.resid_post"]
    edits = [ins.affine(site, w, b, 0.5) for site, (w, b) in zip(sites, maps, strict=True)]
    logits = ins.run(gpt2(), ROWS, edits=edits, output=True, grad=True).output.logits
    learned = [v for pair in maps for v in pair]
    for g in torch.autograd.grad(logits.logsumexp(-1).sum(), learned):
        assert 0 < float(g.abs().sum()) < float("inf")


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "mamba", "bert", "vit", "resnet"])
def test_maps_fit_other_families(name: str) -> None:
    model, inputs = ins.open(build(name)), inputs_for(name)
    site = next((s.name for s in model.sites if s.name == "layers.1.resid_post"), None)
    if site is None:
        pytest.skip("no stream of vectors")
    plain = ins.run(model, inputs, read=site)[site]
    w, b = torch.randn(plain.shape[-1], generator=G), torch.randn(plain.shape[-1], generator=G)
    got = ins.run(model, inputs, read=site, edits=[ins.affine(site, w, b, 0.5)])[site]
    torch.testing.assert_close(got, 0.5 * plain + 0.5 * (w * plain + b), atol=1e-5, rtol=1e-4)


def test_a_saved_map_acts_as_before(tmp_path: Path) -> None:
    for edit in (
        ins.affine(SITE, W, B, 0.5, at="newest"), ins.affine("layers.*.mlp.act", 0.5), ins.affine(SITE, 2.0, B),
        ins.affine(SITE, W, B, torch.tensor([0.1, 0.4])), ins.affine(SITE, W, B, ins.schedule([0.1, 0.4])),
    ):  # fmt: skip
        ins.save_edits(tmp_path / "e.safetensors", [edit])
        (loaded,) = ins.load_edits(tmp_path / "e.safetensors")
        assert repr(loaded) == repr(edit)
        one, two = (ins.generate(gpt2(), ROWS, edits=[e], max_new_tokens=3, read=SITE) for e in (edit, loaded))
        torch.testing.assert_close(two.trace[SITE], one.trace[SITE])


def test_maps_that_are_none_say_why() -> None:
    with pytest.warns(UserWarning, match=r"strength of 1\.5 is outside \[0, 1\]"):
        ins.affine(SITE, W, B, 1.5)
    with pytest.raises(ins.NotFiniteError, match="bias has 32 values not finite"):
        ins.affine(SITE, W, B / 0.0)
    with pytest.raises(ins.ShapeError, match=r"affine\(weight=...\) is one number a unit.*\(1, 2, 1\)"):
        ins.affine(SITE, torch.ones(1, 2, 1))
    with pytest.raises(ins.ShapeError, match=r"maps of shape \(31,\), an activation \(2, 5, 32\)"):
        ins.run(gpt2(), ROWS, edits=[ins.affine(SITE, torch.ones(31))])
    with pytest.raises(ins.ShapeError, match=r"maps of shape \(5, 32\)"):
        ins.run(gpt2(), ROWS, edits=[ins.affine(SITE, torch.ones(5, 32))])
