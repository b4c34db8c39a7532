"""Edits that act only where a direction fires."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import inscape as ins
from inscape.engine.cells import run_cells
from inscape.engine.runs import Cell
from tests.common.small import direction, gpt2, gpt2_module
from tests.common.steering import ROWS, SITE, as_the_loop, beams_need_no_cache
from tests.common.zoo import build, inputs_for

D, PROBE = direction(seed=1), direction(seed=2)
EARLIER = ins.Direction("layers.0.resid_post", PROBE.vector, "earlier")
PUSH = ins.add(D, 3.0)


def between(scores: Tensor) -> float:
    """A threshold that some of the scores pass."""
    ordered = scores.flatten().sort().values
    k = len(ordered) // 2
    return float(ordered[k - 1] + ordered[k]) / 2


def scores_of(d: "ins.Direction") -> Tensor:
    return ins.run(gpt2(), ROWS, read=d.site, padding_side="left")[d.site] @ d.unit


LAST = between(scores_of(PROBE)[:, -1])
EACH = between(scores_of(PROBE))


@pytest.mark.parametrize("side", ["above", "below"])
def test_a_row_is_decided_at_its_prompt_and_stays_decided(side: str) -> None:
    edit = ins.when(ins.Condition(PROBE, LAST, side=side), PUSH)

    def change(x: Tensor, real: Tensor, prompt: int) -> Tensor:
        score = x[:, prompt - 1] @ PROBE.unit
        fires = score > LAST if side == "above" else score < LAST
        assert fires.sum() == 1
        return torch.where(fires[:, None, None], x + 3 * D.vector, x)

    as_the_loop([edit], change)
    beams_need_no_cache([edit])


def test_tokens_are_decided_one_by_one() -> None:
    edit = ins.when(ins.Condition(PROBE, EACH, at="each"), PUSH)
    as_the_loop([edit], lambda x, real, n: torch.where((x @ PROBE.unit > EACH)[..., None], x + 3 * D.vector, x))
    beams_need_no_cache([edit])


@pytest.mark.parametrize("at", ["last", "each"])
def test_a_condition_may_lie_before_what_it_opens(at: str) -> None:
    scores = scores_of(EARLIER)
    threshold = between(scores[:, -1] if at == "last" else scores)
    condition = ins.Condition(EARLIER, threshold, at=at)
    edits = [ins.when(condition, PUSH), *ins.when(condition, [ins.scale("layers.2.mlp_out", 2.0, at=[0, 2])])]
    got = ins.run(gpt2(), ROWS, edits=edits, read="layers.[12].*", padding_side="left")
    fires = scores > threshold
    fires = fires[:, -1:].expand(-1, 5) if at == "last" else fires
    assert 0 < int(fires.sum()) < fires.numel()
    by_hand = [
        ins.edit(SITE, lambda x: torch.where(fires[..., None], x + 3 * D.vector, x)),
        ins.edit("layers.2.mlp_out", lambda x: torch.where(fires[..., None], x * 2, x), at=[0, 2]),
    ]
    want = ins.run(gpt2(), ROWS, edits=by_hand, read="layers.[12].*", padding_side="left")
    for site in want:
        torch.testing.assert_close(got[site], want[site])
    cached, plain = (ins.generate(gpt2(), ROWS, edits=edits, max_new_tokens=5, use_cache=c) for c in (True, False))
    assert cached.tokens.tolist() == plain.tokens.tolist()
    beams_need_no_cache(edits)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_decides_the_same(side: str) -> None:
    edit = ins.when(ins.Condition(EARLIER, between(scores_of(EARLIER)[:, -1])), PUSH)
    trace = ins.run(gpt2(), ROWS, edits=[edit], read=SITE, padding_side=side)
    for row, ids in enumerate(ROWS):
        alone = ins.run(gpt2(), ids, edits=[edit], read=SITE)
        torch.testing.assert_close(trace[SITE][row][trace.mask[row]], alone[SITE][0], atol=2e-5, rtol=1e-4)


def test_the_next_sequence_is_decided_anew() -> None:
    module, edit = gpt2_module(), ins.when(ins.Condition(PROBE, LAST), PUSH)
    both = torch.tensor([ROWS[0], ROWS[0][::-1], [7, 7, 3, 3, 2], [11, 5, 40, 2, 9]])
    alone = [ins.generate(gpt2(), row[None], edits=[edit], max_new_tokens=4).tokens[0].tolist() for row in both]
    with ins.editing(gpt2(), [edit]):
        for row, want in zip(both, alone, strict=True):
            got = module.generate(row[None], max_new_tokens=4, do_sample=False, pad_token_id=0)
            assert got[0, 5:].tolist() == want


def test_cosines_do_not_ask_how_long_a_token_is() -> None:
    x = torch.randn(4, 3, 32, generator=torch.Generator().manual_seed(0))
    condition = ins.Condition(PROBE, 0.1, at="each", measure="cosine")
    want = torch.nn.functional.cosine_similarity(x, PROBE.vector, dim=-1) > 0.1
    assert torch.equal(condition.holds(x), want)
    assert torch.equal(condition.holds(100 * x), want)
    assert not bool(condition.holds(torch.zeros(1, 32)).any())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_decided_in_float32(dtype: torch.dtype) -> None:
    x = torch.randn(50, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    condition = ins.Condition(PROBE, 0.3)
    near = ((x.double() @ PROBE.unit.double()) - 0.3).abs() < 1e-5
    assert torch.equal(condition.holds(x)[~near], (x.double() @ PROBE.unit.double() > 0.3)[~near])


def test_what_a_condition_opens_is_learned() -> None:
    vector = D.vector.clone().requires_grad_()
    edit = ins.when(ins.Condition(PROBE, LAST), ins.add(ins.Direction(SITE, vector)))
    logits = ins.run(gpt2(), ROWS, edits=[edit], output=True, grad=True).output.logits
    assert float(torch.autograd.grad(logits.logsumexp(-1).sum(), vector)[0].abs().sum()) > 0


def test_many_runs_at_once_decide_as_one_by_one() -> None:
    near = ins.when(ins.Condition(PROBE, EACH, at="each"), PUSH)
    far = ins.when(ins.Condition(EARLIER, between(scores_of(EARLIER)[:, -1])), PUSH)
    cells = [Cell((e,), row) for e in (near, far) for row in range(2)]
    got = run_cells(gpt2(), ROWS, cells, read="layers.2.resid_post", reduce="last")
    for cell, value in zip(cells, got["layers.2.resid_post"], strict=True):
        alone = ins.run(gpt2(), ROWS[cell.row], edits=list(cell.edits), read="layers.2.resid_post", reduce="last")
        torch.testing.assert_close(value, alone["layers.2.resid_post"][0], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "qwen3_moe", "bert", "t5"])
def test_conditions_fit_other_families(name: str) -> None:
    model, inputs = ins.open(build(name)), inputs_for(name)
    sites = [s.name for s in model.sites if s.name.endswith((".0.resid_post", ".1.resid_post"))]
    first, second = sites[-2:]
    values = ins.run(model, inputs, read=sites)
    probe = torch.randn(values[first].shape[-1], generator=torch.Generator().manual_seed(2))
    threshold = between(values[first] @ probe / probe.norm())
    condition = ins.Condition(ins.Direction(first, probe), threshold, at="each")
    edit = ins.when(condition, ins.add(ins.Direction(second, probe), 2.0))
    got = ins.run(model, inputs, read=sites, edits=[edit])
    fires = values[first] @ probe / probe.norm() > threshold
    torch.testing.assert_close(got[second], values[second] + 2 * fires[..., None] * probe, atol=1e-5, rtol=1e-4)


def test_a_saved_condition_acts_as_before(tmp_path: Path) -> None:
    condition = ins.Condition(EARLIER, between(scores_of(EARLIER)[:, -1]), side="below")
    inner = [
        ins.add(D, ins.schedule([2.0, 1.0]), at="newest"),
        ins.attend("layers.2", "forbid", keys=slice(0, 1), at=-1),
    ]
    edits = ins.when(condition, inner)
    ins.save_edits(tmp_path / "e.safetensors", edits)
    loaded = ins.load_edits(tmp_path / "e.safetensors")
    assert list(map(repr, loaded)) == list(map(repr, edits))
    one, two = (ins.generate(gpt2(), ROWS, edits=e, max_new_tokens=4, read=SITE) for e in (edits, loaded))
    torch.testing.assert_close(two.trace[SITE], one.trace[SITE])
    with pytest.raises(ins.EditError, match="holds a Python function"):
        ins.save_edits(tmp_path / "f.safetensors", [ins.when(condition, ins.edit(SITE, torch.tanh))])


def test_conditions_that_cannot_be_asked_say_why() -> None:
    with pytest.raises(ins.EditError, match=r"Condition\(at='first'\): it can be 'last' or 'each'"):
        ins.Condition(PROBE, at="first")
    with pytest.raises(ins.EditError, match=r"Condition\(side='left'\)"):
        ins.Condition(PROBE, side="left")
    with pytest.raises(ins.EditError, match="looks at one site"):
        ins.Condition(ins.Direction("layers.*.resid_post", PROBE.vector))
    with pytest.raises(ins.ShapeError, match=r"one vector \(d,\); got \(2, 32\)"):
        ins.Condition(ins.Direction(SITE, torch.ones(2, 32)))
    late = ins.Condition(ins.Direction("layers.2.resid_post", PROBE.vector))
    with pytest.raises(ins.EditError, match=r"looks at layers\.2\.resid_post, which comes later"):
        ins.run(gpt2(), ROWS, edits=[ins.when(late, PUSH)])
    with pytest.raises(ins.SiteError, match="no site matches"):
        ins.run(gpt2(), ROWS, edits=[ins.when(ins.Condition(ins.Direction("layers.7.resid_post", PROBE.vector)), PUSH)])
    by_path = ins.Condition(ins.Direction("@transformer.h.2", PROBE.vector))
    with pytest.raises(ins.EditError, match=r"looks at @transformer\.h\.2, which has not happened yet"):
        ins.run(gpt2(), ROWS, edits=[ins.when(by_path, PUSH)])
    narrow = ins.Condition(ins.Direction(SITE, torch.ones(9)))
    with pytest.raises(ins.ShapeError, match="has a vector of 9, its site 32 units"):
        ins.run(gpt2(), ROWS, edits=[ins.when(narrow, PUSH)])
    module, edit = gpt2_module(), ins.when(ins.Condition(PROBE, LAST), PUSH)
    cache = module(torch.tensor([ROWS[0]]), use_cache=True).past_key_values
    with pytest.raises(ins.EditError, match="this run began behind it"), ins.editing(gpt2(), [edit]):
        module(torch.tensor([[4]]), past_key_values=cache)


def test_two_conditions_must_both_hold(tmp_path: Path) -> None:
    both = ins.when(ins.Condition(EARLIER, between(scores_of(EARLIER)), at="each"), PUSH)
    both = ins.when(ins.Condition(PROBE, EACH, at="each"), both)
    fires = (scores_of(EARLIER) > between(scores_of(EARLIER))) & (scores_of(PROBE) > EACH)
    plain = ins.run(gpt2(), ROWS, read=SITE, padding_side="left")[SITE]
    got = ins.run(gpt2(), ROWS, read=SITE, edits=[both], padding_side="left")[SITE]
    torch.testing.assert_close(got, torch.where(fires[..., None], plain + 3 * D.vector, plain))
    ins.save_edits(tmp_path / "e.safetensors", [both])
    (loaded,) = ins.load_edits(tmp_path / "e.safetensors")
    assert repr(loaded) == repr(both)
    torch.testing.assert_close(ins.run(gpt2(), ROWS, read=SITE, edits=[loaded], padding_side="left")[SITE], got)
