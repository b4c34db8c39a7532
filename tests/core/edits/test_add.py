"""Adding a direction: in three units, one a row, by a schedule, each as the loop that anyone would write."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.core.edits.strength import Strength
from inscape.core.edits.vectors import checked
from inscape.core.step import Step
from inscape.engine.planning import no_edit
from tests.common.small import direction, gpt2, gpt2_module, hooks_left
from tests.common.steering import ROWS, SITE, as_the_loop, beams_need_no_cache, padded
from tests.common.zoo import build, inputs_for

D = direction()
V = D.vector
UNIT = V / V.norm()
COURSE = [3.0, -2.0, 1.0]


def course(x: torch.Tensor, real: torch.Tensor, prompt: int, values: list[float], then: float, rest: float | None):
    """Strengths [batch, pos], place by place."""
    out = torch.zeros(x.shape[:2])
    for row in range(x.shape[0]):
        for column in range(x.shape[1]):
            k = max(column - prompt + 1, 0)
            out[row, column] = values[k] if k < len(values) else then
            if rest is not None and column < prompt - 1:
                out[row, column] = rest
    return out[..., None]


CASES = {
    "norm": (ins.add(D, 4.0, unit="norm"), lambda x, real, n: x + 4 * UNIT),
    "relative": (ins.add(D, 0.4, unit="relative"), lambda x, real, n: x + 0.4 * x.norm(dim=-1, keepdim=True) * UNIT),
    "length kept": (
        ins.add(D, 2.0, keep_norm=True),
        lambda x, real, n: (y := x + 2 * V) * x.norm(dim=-1, keepdim=True) / y.norm(dim=-1, keepdim=True),
    ),
    "one strength a row": (
        ins.add(D, torch.tensor([2.0, -1.0]), unit="norm"),
        lambda x, real, n: x + torch.tensor([2.0, -1.0])[:, None, None] * UNIT,
    ),
    "one vector a row": (
        ins.add(ins.Direction(SITE, torch.stack([V, -V.flip(0)])), 1.5),
        lambda x, real, n: x + 1.5 * torch.stack([V, -V.flip(0)])[:, None],
    ),
    "a schedule": (
        ins.add(D, ins.schedule(COURSE, then=0.5)),
        lambda x, real, n: x + course(x, real, n, COURSE, 0.5, None) * V,
    ),
    "a schedule that leaves the prompt": (
        ins.add(D, ins.schedule(COURSE, prompt=0.0), unit="relative"),
        lambda x, real, n: x + course(x, real, n, COURSE, 0.0, 0.0) * x.norm(dim=-1, keepdim=True) * UNIT,
    ),
    "one schedule a row": (
        ins.add(D, torch.tensor([COURSE, [0.0, 2.0, 4.0]])),
        lambda x, real, n: x + V * torch.stack([
            course(x[:1], real, n, COURSE, 0.0, None)[0], course(x[:1], real, n, [0.0, 2.0, 4.0], 0.0, None)[0]
        ]),
    ),
    "the newest": (
        ins.add(D, 3.0, at="newest"),
        lambda x, real, n: torch.where((torch.arange(x.shape[1]) >= n - 1)[None, :, None], x + 3 * V, x),
    ),
    "the newest two": (
        ins.add(D, 3.0, at=ins.newest(2)),
        lambda x, real, n: torch.where((torch.arange(x.shape[1]) >= n - 2)[None, :, None], x + 3 * V, x),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_an_addition_in_generate_is_that_of_the_obvious_loop(name: str) -> None:
    edit, change = CASES[name]
    as_the_loop([edit], change)
    beams_need_no_cache([edit])
    assert hooks_left(gpt2_module()) == 0


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", list(CASES))
def test_padding_on_either_side_changes_nothing(name: str, side: str) -> None:
    edit, _ = CASES[name]
    trace = ins.run(gpt2(), ROWS, edits=[edit], read=SITE, padding_side=side)
    one = dict(trace.items())[SITE]
    other = ins.run(gpt2(), ROWS, edits=[edit], read=SITE, padding_side={"left": "right", "right": "left"}[side])
    for row in range(2):
        torch.testing.assert_close(one[row][trace.mask[row]], other[SITE][row][other.mask[row]], atol=2e-5, rtol=1e-4)


def test_sixteen_rows_with_sixteen_vectors_are_sixteen_runs() -> None:
    ids = torch.randint(2, 60, (16, 7), generator=torch.Generator().manual_seed(0))
    vectors = torch.randn(16, 32, generator=torch.Generator().manual_seed(1))
    together = ins.run(gpt2(), ids, edits=[ins.add(ins.Direction(SITE, vectors), 2.0)]).output.logits
    for row in range(16):
        alone = ins.run(gpt2(), ids[row : row + 1], edits=[ins.add(ins.Direction(SITE, vectors[row]), 2.0)])
        torch.testing.assert_close(together[row], alone.output.logits[0], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt_neox", "mixtral", "mamba", "bert", "t5", "vit", "llava"])
def test_vectors_a_row_and_relative_doses_fit_other_families(name: str) -> None:
    model, inputs = ins.open(build(name)), inputs_for(name)
    site = next(s.name for s in model.sites if s.name.endswith("layers.1.resid_post") and "vision" not in s.name)
    plain = ins.run(model, inputs, read=site)[site]
    vectors = torch.randn(len(plain), plain.shape[-1], generator=torch.Generator().manual_seed(2))
    got = ins.run(model, inputs, read=site, edits=[ins.add(ins.Direction(site, vectors), 0.1, unit="relative")])[site]
    want = plain + 0.1 * plain.norm(dim=-1, keepdim=True) * (vectors / vectors.norm(dim=-1, keepdim=True))[:, None]
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def test_heads_have_vectors_and_lengths_of_their_own() -> None:
    site = "layers.1.attn.z"
    plain = ins.run(gpt2(), ROWS, read=site)[site]
    one_each = torch.randn(4, 8, generator=torch.Generator().manual_seed(3))
    one_each[2] = 0
    a_row = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(4))
    for vectors, laid in ((one_each, one_each), (a_row, a_row[:, None])):
        got = ins.run(gpt2(), ROWS, read=site, edits=[ins.add(ins.Direction(site, vectors), 3.0, unit="norm")])[site]
        length = laid.norm(dim=-1, keepdim=True)
        want = plain + 3 * torch.where(length > 0, laid / length.clamp(min=1e-9), 0.0)
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


@given(seed=st.integers(0, 2**31), scale=st.floats(-3, 3))
def test_a_relative_dose_is_a_share_of_the_length(seed: int, scale: float) -> None:
    g = torch.Generator().manual_seed(seed)
    x, v = torch.randn(2, 3, 8, generator=g, dtype=torch.float64), torch.randn(8, generator=g, dtype=torch.float64)
    y = ins.add(ins.Direction("any", v), scale, unit="relative").fn(x)
    torch.testing.assert_close((y - x).norm(dim=-1), abs(scale) * x.norm(dim=-1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", list(CASES))
def test_half_precision_is_the_rounded_answer(name: str, dtype: torch.dtype) -> None:
    edit, _ = CASES[name]
    step = Step.of_mask(padded(ROWS)[1])
    step.site = SITE
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(5)).to(dtype)
    x[0, 1, 3] = 3e4  # a massive channel: its square is beyond float16
    arguments = (step,) if edit.contextual else ()
    got, want = edit.fn(x, *arguments), edit.fn(x.double(), *arguments)
    assert got.dtype == dtype
    bound = torch.finfo(dtype).eps * want.abs().clamp(min=1) * 2 + (V.abs() * 4).to(dtype) * torch.finfo(dtype).eps
    assert bool(((got.double() - want).abs() <= bound).all())


def test_what_requires_grad_is_learned_through_the_model() -> None:
    vector = V.clone().requires_grad_()
    scale = torch.tensor([0.3, 0.2]).requires_grad_()
    steps = torch.tensor([0.5, 0.1]).requires_grad_()
    for strength, unit, learned in (
        (2.0, "vector", [vector]), (0.2, "relative", [vector]), (scale, "norm", [vector, scale]),
        (scale, "relative", [scale]), (ins.schedule(steps), "vector", [steps]),
        (ins.schedule(steps, prompt=0.0), "relative", [steps]),
    ):  # fmt: skip
        for keep in (False, True):
            edit = ins.add(ins.Direction(SITE, vector), strength, unit=unit, keep_norm=keep)
            logits = ins.run(gpt2(), ROWS, edits=[edit], output=True, grad=True).output.logits
            gradients = torch.autograd.grad(logits.logsumexp(-1).sum(), learned)
            assert all(float(g.abs().sum()) > 0 and bool(g.isfinite().all()) for g in gradients)


def test_no_strength_is_exactly_no_change() -> None:
    plain = ins.run(gpt2(), ROWS).output.logits
    for unit in ("vector", "norm", "relative"):
        for keep in (False, True):
            got = ins.run(gpt2(), ROWS, edits=[ins.add(D, 0.0, unit=unit, keep_norm=keep)]).output.logits
            assert torch.equal(got, plain)


def test_a_saved_addition_acts_as_before(tmp_path: Path) -> None:
    path = tmp_path / "edits.safetensors"
    for edit, _ in CASES.values():
        ins.save_edits(path, [edit])
        (loaded,) = ins.load_edits(path)
        assert repr(loaded) == repr(edit)
        one, two = (ins.generate(gpt2(), ROWS, edits=[e], max_new_tokens=4, read=SITE) for e in (edit, loaded))
        torch.testing.assert_close(two.trace[SITE], one.trace[SITE])


def test_what_cannot_be_added_says_why() -> None:
    with pytest.raises(ins.EditError, match="units of a strength are vector, norm, relative"):
        ins.add(D, unit="percent")
    with pytest.raises(ins.EditError, match="add takes a Direction, got Tensor"):
        checked(V, "add")
    with pytest.raises(ins.EditError, match="a strength is a number, one a row"):
        Strength("strong", "add")
    with pytest.raises(ins.ShapeError, match=r"has length 0\.0: it points nowhere"):
        ins.add(ins.Direction(SITE, torch.zeros(32), "nothing"), unit="relative")
    with pytest.raises(ins.ShapeError, match=r"at least one; got torch\.float64 of shape \(0,\)"):
        ins.schedule([])
    with pytest.raises(ins.ShapeError, match=r"strengths of shape \(1, 2, 2\)"):
        ins.add(D, torch.ones(1, 2, 2))
    with pytest.raises(ins.ShapeError, match="3 are given, one a row; the run has 2 rows"):
        ins.run(gpt2(), ROWS, edits=[ins.add(ins.Direction(SITE, torch.ones(3, 32)))])
    with pytest.raises(ins.ShapeError, match="3 are given, one a row; the run has 2 rows"):
        ins.run(gpt2(), ROWS, edits=[ins.add(D, torch.ones(3))])
    with pytest.raises(ins.ShapeError, match=r"shape \(31,\), the site's last axis has 32"):
        ins.run(gpt2(), ROWS, edits=[ins.add(ins.Direction(SITE, torch.ones(31)))])
    with pytest.raises(ins.ShapeError, match=r"the site has 4 heads of 8"):
        ins.run(gpt2(), ROWS, edits=[ins.add(ins.Direction("layers.1.attn.z", torch.ones(2, 8)))])
    with pytest.raises(ins.TokenError, match="how many of the prompt's last tokens"):
        ins.newest(0)


def test_directions_of_several_sites_are_one_edit_each() -> None:
    sites = [f"layers.{i}.resid_post" for i in range(3)]
    several = ins.Directions.of(*(direction(site, seed) for seed, site in enumerate(sites)))
    for make in (ins.add, ins.norm_preserving_add, ins.project_out):
        edits = make(several)
        assert [e.site for e in edits] == sites
        got = ins.run(gpt2(), ROWS, edits=edits).output.logits
        want = ins.run(gpt2(), ROWS, edits=[make(d) for d in several.values()]).output.logits
        assert torch.equal(got, want)
    mixed = ins.run(gpt2(), ROWS, edits=[ins.add(several), ins.scale("layers.0.mlp_out", 0.5)]).output.logits
    flat = ins.run(gpt2(), ROWS, edits=[*ins.add(several), ins.scale("layers.0.mlp_out", 0.5)]).output.logits
    assert torch.equal(mixed, flat)
    made = [
        ins.generate(gpt2(), ROWS, edits=e, max_new_tokens=3).tokens for e in ([ins.add(several)], ins.add(several))
    ]
    assert torch.equal(*made)
    with ins.editing(gpt2(), [ins.add(several)]) as session:
        assert [t.point.name for t in session.tasks] == sites
        gpt2().module(torch.tensor([ROWS[0]]))
    with pytest.raises(ins.EditError, match=r"got list\.\n  give edits in one list, or in lists in it"):
        raise no_edit(ins.add(several))
    for wrong in (several, several[sites[0]]):
        with pytest.raises(ins.EditError, match=r"ins\.add\(direction, scale\)"):
            raise no_edit(wrong)
