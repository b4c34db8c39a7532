"""Recurrent states are those of the model: of its cache, of its readout, of its cached steps, under edits too."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import inscape as ins
from inscape.engine import recurrences
from inscape.engine.recurrences import RECURRENCES
from inscape.models import meanings
from tests.common.small import hooks_left
from tests.common.zoo import ZOO, build

RECURRENT = [n for n in ZOO if any(name.endswith("ssm.state") for name in ins.open(build(n)).points)]
RIGHT_ONLY = {"rwkv", "recurrent_gemma"}  # padding on the left enters their recurrent state, and is refused
ROWS = [[5, 9, 13, 17, 21, 25, 29], [6, 10, 14, 18]]
STATES = "layers.*.ssm.state"


def opened(name: str) -> "ins.Model":
    return ins.open(build(name))


def kept(model: "ins.Model", site: str, out: object) -> torch.Tensor | None:
    """What the model's own cache holds for this layer."""
    point = model.points[site]
    mixer = point.after[0].module
    if point.inside == "rg_lru":
        return mixer.rg_lru.recurrent_states
    names = ("cache_params", "past_key_values", "state")
    cache = next(c for n in names if (c := getattr(out, n, None)) is not None)
    return RECURRENCES[point.inside].kept(mixer, cache)


def test_every_kind_of_recurrence_has_axes_and_a_tiny_model() -> None:
    assert set(RECURRENCES) == set(meanings.STATES)
    assert {p.inside for n in RECURRENT for p in opened(n).points.values() if p.kind == "state"} == set(RECURRENCES)


@pytest.mark.parametrize("name", RECURRENT)
def test_the_state_after_the_last_token_is_the_one_the_cache_keeps(name: str) -> None:
    model = opened(name)
    for rows in (ROWS[:1], ROWS if name not in RIGHT_ONLY else ROWS[1:]):
        side = "right" if name in RIGHT_ONLY else "left"
        trace = ins.run(model, rows, read=STATES, output=True, use_cache=True, padding_side=side)
        for site in trace:
            assert trace[site].dtype == torch.float32
            assert len(model.points[site].axes) == trace[site].ndim
            torch.testing.assert_close(trace[site][:, -1], kept(model, site, trace.output), atol=1e-6, rtol=1e-4)
            assert trace[site].abs().amax() > 1e-4
    assert hooks_left(model.module) == 0


@pytest.mark.parametrize("name", RECURRENT)
def test_verify_proves_the_state_by_its_readout(name: str) -> None:
    model = opened(name)
    found = model.verify()
    rows = [row for row in found.rows if row.site.endswith("ssm.state")]
    assert {row.status for row in rows} == {"proven"}
    assert max(row.error for row in rows) < 1e-5
    assert all("read out, with skip and gate, it is ssm.y" in row.proof for row in rows)
    assert {row.site for row in rows} <= set(found.read_only)
    if name != "recurrent_gemma":  # it hands out no cache
        assert all("cache keeps" in row.proof for row in rows)


@pytest.mark.parametrize("kind", RECURRENCES)
def test_a_wrong_recurrence_is_withdrawn(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(n for n in RECURRENT if any(p.inside == kind for p in opened(n).points.values() if p.kind == "state"))
    right = RECURRENCES[kind]
    late = replace(right, states=lambda seen: right.states(seen).roll(1, 1))  # one token late
    monkeypatch.setitem(recurrences.RECURRENCES, kind, late)
    model = opened(name)
    rows = [row for row in model.verify().rows if row.site.endswith("ssm.state")]
    assert {row.status for row in rows} == {"withdrawn"}
    with pytest.raises(ins.SiteError, match=r"read out, with skip and gate"):
        ins.run(model, ROWS[0], read=rows[0].site)


@pytest.mark.parametrize("name", RECURRENT)
def test_a_padded_batch_has_the_states_of_its_rows_alone(name: str) -> None:
    model = opened(name)
    for side in ("right",) if name in RIGHT_ONLY else ("left", "right"):
        batch = ins.run(model, ROWS, read=STATES, padding_side=side)
        for i, row in enumerate(ROWS):
            alone = ins.run(model, row, read=STATES)
            for site in alone:
                torch.testing.assert_close(batch[site][i][batch.mask[i]], alone[site][0], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", RECURRENT)
def test_cached_generation_has_the_states_of_the_uncached_forward(name: str) -> None:
    model = opened(name)
    mixers = [p.after[0].module for p in model.points.values() if p.kind == "state"]
    for mixer in mixers:  # Zamba 2 limits step sizes over a sequence and not in a cached step: it differs by itself
        if hasattr(mixer, "time_step_limit"):
            mixer.time_step_limit = (0.0, float("inf"))
    rows = ROWS[:1] if name in RIGHT_ONLY else ROWS
    got = ins.generate(model, rows, read=STATES, max_new_tokens=5, min_new_tokens=5)
    sequences = [list(r) + t for r, t in zip(rows, got.tokens.tolist(), strict=True)]
    side = "right" if name in RIGHT_ONLY else "left"
    full = ins.run(model, sequences, read=STATES, padding_side=side)
    assert len(full) == len(mixers)
    for site in full:
        assert got.trace[site].shape == full[site].shape
        torch.testing.assert_close(got.trace[site][full.mask], full[site][full.mask], atol=5e-6, rtol=1e-3)


@pytest.mark.parametrize("name", [n for n in RECURRENT if n != "recurrent_gemma"])  # it hands out no cache
def test_steps_after_a_cache_of_ones_own_go_on_from_it(name: str) -> None:
    model, ids = opened(name), torch.tensor(ROWS[:1])
    for split in (4, 6):  # several tokens at once, and one
        with torch.no_grad():
            out = model.module(ids[:, :split], use_cache=True)
        where = next(n for n in ("cache_params", "past_key_values", "state") if getattr(out, n, None) is not None)
        more = {"use_cache": True, where: getattr(out, where)}
        trace = ins.run(model, ids[:, split:], read=STATES, output=True, **more)
        for site in trace:
            torch.testing.assert_close(trace[site][:, -1], kept(model, site, trace.output), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("mamba", "ssm.B"),
        ("mamba", "ssm.conv"),
        ("falcon_mamba", "ssm.in"),
        ("jamba", "ssm.dt"),
        ("mamba2", "ssm.dt"),
        ("falcon_h1", "ssm.in"),
        ("zamba2", "ssm.dt"),
        ("qwen3_next", "ssm.in"),
        ("recurrent_gemma", "ssm.conv"),
        ("rwkv", "ssm.k"),
    ],
)
def test_states_follow_the_edits_of_what_writes_them(name: str, site: str) -> None:
    model = opened(name)
    edit = ins.edit(f"layers.0.{site}", lambda x: x * 1.5 + 0.1, at=slice(2, None))
    plain = ins.run(model, ROWS[:1], read="layers.0.ssm.state")["layers.0.ssm.state"]
    trace = ins.run(model, ROWS[:1], read="layers.0.ssm.state", edits=edit, output=True, use_cache=True)
    moved = trace["layers.0.ssm.state"]
    assert torch.equal(moved[:, :2], plain[:, :2])
    assert not torch.allclose(moved[:, 2], plain[:, 2], atol=1e-5)
    torch.testing.assert_close(moved[:, -1], kept(model, "layers.0.ssm.state", trace.output), atol=1e-6, rtol=1e-4)


def test_an_edit_of_what_is_read_out_leaves_the_state() -> None:
    model = opened("recurrent_gemma")
    plain = ins.run(model, ROWS[:1], read="layers.0.ssm.state")
    edited = ins.run(model, ROWS[:1], read="layers.0.ssm.*", edits=ins.scale("layers.0.ssm.scan", 0.0))
    assert torch.equal(edited["layers.0.ssm.state"], plain["layers.0.ssm.state"])
    assert not edited["layers.0.ssm.scan"].any()


@pytest.mark.parametrize("name", RECURRENT)
def test_the_forward_stops_at_the_layer_of_the_state(name: str) -> None:
    model = opened(name)
    site = next(n for n in model.points if n.endswith("ssm.state"))
    ran: list[str] = []
    handle = model.blocks[-1].module.register_forward_pre_hook(lambda *_: ran.append("last"))
    try:
        ins.run(model, ROWS[:1], read=site)
    finally:
        handle.remove()
    assert not ran


def test_what_is_kept_of_a_state_can_be_less() -> None:
    model = opened("mamba2")
    whole = ins.run(model, ROWS, read=STATES, padding_side="left")
    last = ins.run(model, ROWS, read=STATES, reduce="last", padding_side="left")
    for site in whole:
        assert torch.equal(last[site], whole[site][:, -1])


@pytest.mark.parametrize("name", ["mamba", "mamba2", "qwen3_next", "rwkv"])
def test_states_are_differentiable_in_a_trained_edit(name: str) -> None:
    model = opened(name)
    width = ins.run(model, ROWS[0], read="layers.0.ssm.in")["layers.0.ssm.in"].shape[-1]
    bump = torch.zeros(width, requires_grad=True)
    edit = ins.edit("layers.0.ssm.in", lambda x: x + bump)
    trace = ins.run(model, ROWS[0], read="layers.0.ssm.state", edits=edit, grad=True)
    (grad,) = torch.autograd.grad(trace["layers.0.ssm.state"].square().sum(), bump)
    assert bool(grad.any())


def test_an_edit_of_a_state_is_refused_and_names_what_can_be_edited() -> None:
    with pytest.raises(ins.EditError, match=r"layers\.1\.ssm\.state is for reading.*") as caught:
        ins.run(opened("mamba"), ROWS[0], edits=ins.scale("layers.1.ssm.state", 0.0))
    assert "edit what writes it (ssm.in, ssm.dt, ssm.B)" in str(caught.value)
    assert "what is made of it (ssm.C, ssm.y)" in str(caught.value)


def test_a_gradient_at_a_state_is_refused() -> None:
    with pytest.raises(ins.InputError, match=r"layers\.0\.ssm\.state has no gradient(.|\n)*ssm\.y of the same layer"):
        ins.run(opened("mamba"), ROWS[0], read=STATES, grad=True, metric=lambda out: out.logits.sum())


def test_a_cache_that_does_not_tell_its_states_is_refused() -> None:
    from inscape.engine.replay import _begun

    point = opened("mamba").points["layers.0.ssm.state"]
    with pytest.raises(ins.ModelError, match=r"layers\.0\.ssm\.state: .*SimpleNamespace(.|\n)*without a cache"):
        _begun(point, RECURRENCES["mamba"], point.after[0].module, {"cache_params": SimpleNamespace()})
