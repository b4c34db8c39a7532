"""Affine maps through the frozen model: the obvious loop's states, known solutions, exact zeros, every family."""

import copy
import warnings

import pytest
import torch

import inscape as ins
from inscape.core.transport import squared_transport
from inscape.steer.affine_steer import AffineSteer
from inscape.steer.fit_affine import fit_affine
from inscape.steer.pooled import Pooled, sites_of
from inscape.steer.transport import transport
from tests.common.small import gpt2, gpt2_module, hooks_left
from tests.common.zoo import ZOO, build, inputs_for
from tests.steer.texts import one_side, two_dialects, two_sides

SITES = "layers.*.mlp.in"
ONE = "layers.1.mlp.in"


def pooled_by_hand(model: ins.Model, rows: list[list[int]], site: str, pool: str, edits: list = ()) -> torch.Tensor:
    how = {"mean": lambda x: x.mean(0), "last": lambda x: x[-1], "max": lambda x: x.amax(0)}[pool]
    return torch.stack([how(ins.run(model, [row], read=site, edits=edits)[site][0].flatten(1)) for row in rows])


@pytest.mark.parametrize("pool", ["mean", "last", "max"])
def test_pooled_states_are_those_of_each_text_alone(pool):
    model, (rows, _) = gpt2(), two_sides(9)
    edits = [ins.affine(ONE, torch.rand(32), torch.randn(32), at=slice(1, None))]
    for site in (ONE, "layers.2.attn.z"):
        found = Pooled.of(model, rows, (site,), pool, "x", batch_tokens=40).states(edits)[site]
        torch.testing.assert_close(found, pooled_by_hand(model, rows, site, pool, edits), atol=1e-5, rtol=1e-4)


def test_closed_forms_are_their_formulas():
    model, (high, low) = gpt2(), two_sides(10)
    z, v = (pooled_by_hand(model, rows, ONE, "mean").double() for rows in (low, high))
    a, b = z.sort(0).values, v.sort(0).values
    slope = ((a - a.mean(0)) * (b - b.mean(0))).sum(0) / (a - a.mean(0)).square().sum(0)
    known = {"mean": torch.ones_like(slope), "gaussian": v.std(0) / z.std(0), "linear": slope}
    for method, w in known.items():
        found = fit_affine(model, low, high, ONE, method=method)
        torch.testing.assert_close(found.weight[ONE].double(), w, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.bias[ONE].double(), v.mean(0) - w * z.mean(0), atol=1e-3, rtol=1e-3)
    shift = fit_affine(model, low, high, ONE, method="probe").bias[ONE].double()
    gap = v.mean(0) - z.mean(0)
    assert float(shift @ gap) == pytest.approx(float(shift @ shift), rel=1e-4)  # its means meet along the probe


def test_in_order_a_map_sees_what_the_maps_before_it_leave():
    model, (high, low) = gpt2(), two_sides(10)
    found = fit_affine(model, low, high, SITES, method="mean", in_order=True)
    first = found.select("layers.0.mlp.in").edits()
    z = pooled_by_hand(model, low, ONE, "mean", first)
    want = pooled_by_hand(model, high, ONE, "mean").mean(0) - z.mean(0)
    torch.testing.assert_close(found.bias[ONE], want, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(found.bias[ONE], fit_affine(model, low, high, SITES, method="mean").bias[ONE], atol=1e-3)


def test_at_one_site_training_ends_at_the_least_squares_of_sorted_values():
    model, (high, low) = gpt2(), two_sides(16)
    best = fit_affine(model, low, high, ONE, method="linear")
    found = fit_affine(model, low, high, ONE, steps=150, lr=0.1)
    losses = [transport(model, low, high, maps.edits(), ONE).total for maps in (best, found)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_all_maps_together_come_nearer_than_every_baseline_where_sites_act_on_one_another():
    model, (high, low) = gpt2(), two_dialects(24)
    sites = "layers.*.resid_post"
    left = {m: transport(model, low, high, fit_affine(model, low, high, sites, method=m, steps=120).edits(), sites).left
            for m in ("end_to_end", "linear", "gaussian", "mean", "probe")}  # fmt: skip
    assert left["end_to_end"] < min(v for m, v in left.items() if m != "end_to_end") < 1


def test_the_loss_of_the_history_is_what_transport_measures_and_the_start_is_the_identity():
    model, (high, low) = gpt2(), two_dialects(12)
    maps = fit_affine(model, low, high, SITES, steps=20)
    there = transport(model, low, high, maps.edits(), SITES)
    assert maps.history.loss[0] == pytest.approx(float(there.before.sum()), rel=1e-4)
    assert there.total < maps.history.loss[0]
    raw = fit_affine(model, low, high, SITES, steps=1, scaled=False)
    there_raw = transport(model, low, high, sites=SITES, scaled=False)
    assert raw.history.loss[0] == pytest.approx(float(there_raw.before.sum()), rel=1e-4)
    z, v = (pooled_by_hand(model, rows, ONE, "mean") for rows in (low, high))
    i = there.sites.index(ONE)
    spread = ((z.var(0) + v.var(0)) / 2).sqrt()
    assert float(there.before[i]) == pytest.approx(float((squared_transport(z, v) / spread.square()).sum()), rel=1e-3)


def test_what_the_penalty_leaves_out_is_exactly_as_it_was():
    model, (high, low) = gpt2(), two_dialects(16)
    dense, some, none = (fit_affine(model, low, high, SITES, sparsity=s, steps=40) for s in (0.0, 0.6, 0.99))
    assert dense.changed > 0.95 > 0.6 > some.changed > none.changed
    losses = [transport(model, low, high, maps.edits(), SITES).left for maps in (dense, some, none)]
    assert losses[0] < losses[1] < losses[2]
    mask = some.support()[ONE]
    plain, steered = (ins.run(model, low[:3], read=ONE, edits=e)[ONE] for e in ([], some.select(ONE).edits()))
    assert torch.equal(plain[..., ~mask], steered[..., ~mask])
    groups = fit_affine(model, low, high, SITES, group_sparsity=0.9, steps=40)
    by_site = [bool(m.any()) for m in groups.support().values()]
    assert set(by_site) == {True, False}
    assert len(groups.edits()) == sum(by_site)
    assert some.penalties[0] > 0 == dense.penalties[0]


def test_training_may_begin_at_other_maps_and_comes_nearer_from_there():
    model, (low, high) = gpt2(), two_dialects(16)
    first = fit_affine(model, low, high, SITES, method="linear")
    made = fit_affine(model, low, high, SITES, start=first, steps=25, lr=0.01)
    before, after = (transport(model, low, high, maps.edits(), SITES).total for maps in (first, made))
    assert made.history.loss[0] == pytest.approx(before, rel=1e-2)
    assert after < before
    with pytest.raises(ins.ShapeError, match=r"start has maps of \(4,\) units at layers\.1\.mlp\.in"):
        fit_affine(model, low, high, SITES, start=AffineSteer({ONE: torch.ones(4)}, {ONE: torch.zeros(4)}), steps=1)


def test_only_the_units_that_may_change_do():
    model, (high, low) = gpt2(), two_sides(12)
    units = {ONE: torch.arange(32) < 5}
    for method in ("end_to_end", "mean"):
        maps = fit_affine(model, low, high, SITES, units=units, method=method, steps=10)
        changed = maps.support()
        assert torch.equal(changed[ONE], units[ONE])
        assert not changed["layers.0.mlp.in"].any()


def test_samples_of_one_kind_leave_the_maps_near_the_identity():
    model = gpt2()
    real, same = (fit_affine(model, *sides, SITES, steps=40) for sides in (two_dialects(24), one_side(24)))
    assert transport(model, *one_side(32, seed=9), same.edits(), SITES).left > 0.8  # nothing to learn is not learned
    size = [sum(float(b.norm()) for b in maps.bias.values()) for maps in (real, same)]
    assert size[1] < size[0]
    dark = fit_affine(model, *two_dialects(24), SITES, control="shuffle", steps=40)
    new = two_dialects(32, seed=5)
    assert transport(model, *new, real.edits(), SITES).left < transport(model, *new, dark.edits(), SITES).left
    assert dark.source.startswith("shuffle control of end_to_end")


def test_strength_goes_from_the_model_itself_to_the_whole_map(tmp_path):
    model, (high, low) = gpt2(), two_dialects(12)
    maps = fit_affine(model, low, high, SITES, steps=20)
    plain = ins.run(model, low[:2]).output.logits
    assert torch.equal(plain, ins.run(model, low[:2], edits=maps.edits(0.0)).output.logits)
    left = [transport(model, low, high, maps.edits(t), SITES).left for t in (0, 0.25, 0.5, 0.75, 1)]
    assert left == sorted(left, reverse=True)
    with pytest.warns(UserWarning, match="strength of 2 is outside"):
        maps.edits(2.0)
    maps.save(tmp_path / "m.safetensors")
    back = AffineSteer.load(tmp_path / "m.safetensors")
    assert (back.source, back.model, back.method, back.pool) == (maps.source, maps.model, "end_to_end", "mean")
    ins.save_edits(tmp_path / "e.safetensors", maps.edits(0.5))
    for edits, want in ((back.edits(), maps.edits()), (ins.load_edits(tmp_path / "e.safetensors"), maps.edits(0.5))):
        a, b = (ins.run(model, low[:2], edits=e).output.logits for e in (edits, want))
        assert torch.equal(a, b)
    assert "AffineSteer(end_to_end maps of 12 samples to 12" in repr(maps)


def test_generation_with_a_cache_is_that_without():
    model, (high, low) = gpt2(), two_sides(12)
    edits = fit_affine(model, low, high, SITES, steps=20).edits()
    rows = [low[0][:5], low[1][:3]]
    one, two = (ins.generate(model, rows, edits=edits, max_new_tokens=6, use_cache=c).tokens for c in (True, False))
    assert one.tolist() == two.tolist()


def test_composed_maps_act_one_after_the_other():
    model, (high, low) = gpt2(), two_sides(12)
    a = fit_affine(model, low, high, SITES, method="mean")
    b = fit_affine(model, high, low, ONE, method="gaussian")
    for first, second in ((a, b), (b, a)):
        both = first.compose(second)
        want = ins.run(model, low[:2], edits=[*first.edits(0.7), *second.edits(0.7)]).output.logits
        torch.testing.assert_close(ins.run(model, low[:2], edits=both.edits(0.7)).output.logits, want)
        z = torch.randn(5, 32)
        w, c = both.weight[ONE], both.bias[ONE]
        after = second.weight[ONE] * (first.weight[ONE] * z + first.bias[ONE]) + second.bias[ONE]
        torch.testing.assert_close(w * z + c, after, atol=1e-4, rtol=1e-4)


def test_merged_maps_are_the_edited_model_and_undone_they_are_gone():
    model = ins.open(copy.deepcopy(gpt2_module()))
    high, low = two_sides(12)
    maps = fit_affine(model, low, high, SITES, steps=20)
    plain, want = (ins.run(model, low[:2], edits=e).output.logits for e in ([], maps.edits()))
    with maps.merge(model):
        torch.testing.assert_close(ins.run(model, low[:2]).output.logits, want, atol=1e-3, rtol=1e-3)
    assert torch.equal(ins.run(model, low[:2]).output.logits, plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_have_float32_maps(dtype):
    model = ins.open(copy.deepcopy(gpt2_module()).to(dtype))
    high, low = two_dialects(16)
    maps = fit_affine(model, low, high, SITES, steps=30)
    assert {x.dtype for x in (*maps.weight.values(), *maps.bias.values())} == {torch.float32}
    full = fit_affine(gpt2(), low, high, SITES, steps=30)
    assert maps.history.loss[-1] == pytest.approx(full.history.loss[-1], rel=0.2)
    assert transport(model, low, high, maps.edits(), SITES).left < 0.6


def test_the_model_is_left_alone_and_the_fit_is_repeatable():
    model, (high, low) = gpt2(), two_sides(12)
    before = {n: p.clone() for n, p in model.module.named_parameters()}
    asked = [p.requires_grad for p in model.module.parameters()]
    one, two = (fit_affine(model, low, high, SITES, steps=5, batch_rows=5) for _ in range(2))
    assert all(torch.equal(one.weight[s], two.weight[s]) for s in one.sites)
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in model.module.named_parameters())
    assert asked == [p.requires_grad for p in model.module.parameters()]
    assert hooks_left(model.module) == 0


@pytest.mark.parametrize("name", list(ZOO))
def test_every_family_can_be_mapped(name):
    model, inputs = ins.open(build(name)), inputs_for(name)
    batch = {k: v for k, v in inputs.items() if isinstance(v, torch.Tensor)} if isinstance(inputs, dict) else None
    if batch is None or name == "qwen2_5_vl":
        pytest.skip("its inputs are no batch of one row a sample")
    names = [s for s in ("layers.0.resid_post", "decoder.layers.0.resid_post", "text.layers.0.resid_post",
                         "stages.0.blocks.0.out", "vision.layers.0.resid_post") if s in model.sites]  # fmt: skip
    site = names[0] if names else next(s for s in map(str, model.sites) if s.endswith(("resid_post", ".out")))
    samples = Pooled.of(model, batch, sites_of(model, site), "mean", "x")
    states = samples.states()[site]
    want = ins.run(model, batch, read=site)[site].float()
    mask = batch.get("decoder_attention_mask" if site.startswith("decoder") else "attention_mask")
    if want.ndim == 3:
        real = mask.bool() if mask is not None and mask.shape == want.shape[:2] else torch.ones(want.shape[:2]).bool()
        want = torch.stack([x[r].mean(0) for x, r in zip(want, real, strict=True)])
    else:
        want = want.mean((2, 3))
    torch.testing.assert_close(states, want, atol=1e-4, rtol=1e-3)
    generator = torch.Generator().manual_seed(0)
    shape = samples.shapes[site]
    w, b = (torch.rand(shape, generator=generator) + k for k in (0.5, 0.0))
    goal = samples.states([ins.affine(site, w, b)])[site]
    maps = fit_affine(model, batch, batch, site, method="mean")
    assert maps.weight[site].shape == shape
    assert not maps.changed
    moved = samples.states(AffineSteer({site: w}, {site: b}).edits())[site]
    torch.testing.assert_close(moved, goal)
    torch.testing.assert_close(moved, w.flatten() * states + b.flatten(), atol=1e-3, rtol=1e-3)


def test_what_cannot_be_fitted_is_said():
    model, (high, low) = gpt2(), two_sides(6)

    def refused(error: type, match: str, *args: object, **more: object) -> None:
        with pytest.raises(error, match=match):
            fit_affine(model, *(args or (low, high, SITES)), **more)

    refused(ins.InputError, "method='best' is none of 'end_to_end', 'mean'", method="best")
    refused(ins.InputError, "pool='sum' is none of 'mean', 'last', 'max'", pool="sum")
    refused(ins.InputError, "control='random' can be 'shuffle' or None", control="random")
    refused(ins.InputError, "shares of the penalty that leaves everything as it is", sparsity=1.0)
    refused(ins.InputError, "only 'end_to_end' has penalties", method="mean", sparsity=0.5)
    refused(ins.InputError, "a step, two rows and a rate above 0", steps=0)
    refused(ins.InputError, "source has 1 sample: a distribution takes 2", low[:1], high, SITES)
    refused(ins.InputError, "a sample of target has no tokens", low, [*high, []], SITES)
    refused(ins.InputError, "axes batch head query key: there are no units", low, high, "layers.0.attn.pattern")
    refused(ins.SiteError, "layers.0.mlp.in", low, high, "layers.0.mlp.inn")
    refused(ins.ShapeError, r"bool mask of shape \(32,\); got torch.float32", units={ONE: torch.ones(32)})
    refused(ins.InputError, "act behind the tokens that are pooled, or source and target are the same", low, low, SITES)
    with pytest.raises(ins.InputError, match="batch of arguments has one row a sample"):
        fit_affine(model, {"input_ids": torch.ones(3, 2).long(), "attention_mask": torch.ones(2, 2).long()}, high, ONE)
    with pytest.raises(ins.InputError, match="takes 4 at least"):
        transport(model, low, high[:3], sites=SITES)


def test_maps_behind_every_loss_are_named():
    model, (high, low) = gpt2(), two_sides(6, paired=False)
    sites = ["layers.0.mlp.in", "layers.2.resid_post"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_affine(model, low, high, sites, steps=1)
    with pytest.raises(ins.InputError, match=r"no map changes the loss: layers.2.resid_post at at=0"):
        fit_affine(model, low, high, "layers.2.resid_post", steps=1, pool="last", at=0)
    with pytest.warns(UserWarning, match="the loss does not depend on the maps at layers.2.resid_post"):
        fit_affine(model, low, high, sites, steps=1, pool="last", at=0)


def test_states_that_are_not_finite_are_refused():
    model, (high, low) = gpt2(), two_sides(6)
    wild = copy.deepcopy(gpt2_module())
    with torch.no_grad():
        wild.transformer.h[0].ln_2.weight[3] = torch.inf
    with pytest.raises(ins.NotFiniteError, match=r"target: 6 samples are not finite at layers.0.mlp.in"):
        fit_affine(ins.open(wild), low, high, "layers.0.mlp.in")
    assert transport(model, low, high, sites=SITES).left == 1


def test_files_and_models_that_do_not_belong_are_refused(tmp_path):
    model, (high, low) = gpt2(), two_sides(6)
    maps = fit_affine(model, low, high, ONE, method="mean")
    other = ins.open(copy.deepcopy(build("llama")))
    with pytest.raises(ins.ModelError, match="these maps are for the model"):
        maps.edits(model=other)
    with pytest.raises(ins.ModelError, match="these maps are for the model"):
        maps.merge(other)
    with pytest.raises(ins.ModelError, match="for two models"):
        maps.compose(AffineSteer(maps.weight, maps.bias, model="another"))
    with pytest.raises(ins.ShapeError, match=r"maps of \(32,\) and \(4,\) units"):
        maps.compose(AffineSteer({ONE: torch.ones(4)}, {ONE: torch.ones(4)}))
    with pytest.raises(ins.ShapeError, match="differ"):
        AffineSteer({ONE: torch.ones(4)}, {ONE: torch.ones(3)})
    with pytest.raises(ins.InputError, match="a weight and a bias for each of its sites"):
        AffineSteer({}, {})
    with pytest.raises(ins.SiteError, match=r"there are maps at layers\.1\.mlp\.in"):
        maps.select("layers.9.mlp.in")
    with pytest.raises(ins.InputError, match="save each, and compose them after loading"):
        maps.compose(maps).save(tmp_path / "x")
    ins.Direction(ONE, torch.ones(3)).save(tmp_path / "d")
    with pytest.raises(ins.FileError, match="holds direction, not affine maps"):
        AffineSteer.load(tmp_path / "d")
    from inscape.core.tensor_file import write_tensors

    about = '{"kind": "affine maps", "version": 1, "sites": ["a"]}'
    write_tensors(tmp_path / "b", {"a": torch.ones(1)}, {"inscape": about})
    with pytest.raises(ins.FileError, match="its list of sites and its maps do not fit"):
        AffineSteer.load(tmp_path / "b")
