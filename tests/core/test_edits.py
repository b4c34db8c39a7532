"""What each edit does, where the answer is known on paper."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.core.step import Step
from tests.common.small import direction, gpt2

IDS = torch.tensor([[1, 5, 9, 13, 17, 21], [2, 6, 10, 14, 18, 22]])


@given(seed=st.integers(0, 2**31), d=st.integers(1, 16))
def test_projecting_out_twice_is_projecting_out_once(seed: int, d: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x, v = torch.randn(4, d, generator=g, dtype=torch.float64), torch.randn(d, generator=g, dtype=torch.float64) + 0.1
    cut = ins.project_out(ins.Direction("any", v, "random")).fn
    torch.testing.assert_close(cut(cut(x)), cut(x))
    torch.testing.assert_close(cut(x) @ v, torch.zeros(4, dtype=torch.float64), atol=1e-9, rtol=0)


def test_clamping_a_direction_sets_its_projection() -> None:
    d = direction()
    x = torch.randn(3, 5, 32)
    y = ins.clamp(d, 2.0, 2.0).fn(x)
    torch.testing.assert_close(y @ d.unit, torch.full((3, 5), 2.0), atol=1e-5, rtol=1e-5)


def test_patching_everything_gives_the_other_run() -> None:
    model = gpt2()
    other = ins.run(model, IDS.flip(1), read="layers.1.resid_post", output=True)
    got = ins.run(model, IDS, edits=[ins.patch("layers.1.resid_post", other)])
    torch.testing.assert_close(got.output.logits, other.output.logits)


@given(seed=st.integers(0, 2**31), k=st.integers(1, 5))
def test_patching_along_a_subspace_exchanges_the_projection_and_nothing_else(seed: int, k: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x, source = torch.randn(2, 3, 5, 8, generator=g, dtype=torch.float64)
    v = torch.randn(8, k, generator=g, dtype=torch.float64)
    y = ins.patch("any", source, along=v).fn(x, Step.plain(3, 5))
    torch.testing.assert_close(y @ v, source @ v)
    across = torch.linalg.qr(v, mode="complete").Q[:, k:]
    torch.testing.assert_close(y @ across, x @ across)


def test_patching_along_everything_is_patching() -> None:
    model = gpt2()
    source = ins.run(model, IDS.flip(1), read=["layers.1.resid_post", "layers.1.attn.z"])
    for site in source:
        whole = ins.run(model, IDS, edits=[ins.patch(site, source)]).output.logits
        along = ins.run(model, IDS, edits=[ins.patch(site, source, along=torch.eye(32))]).output.logits
        torch.testing.assert_close(along, whole, atol=1e-4, rtol=1e-4)
    one_head = ins.patch("layers.1.attn.z", source, along=torch.eye(8), heads=[2])
    want = ins.patch("layers.1.attn.z", source, heads=[2])
    got, whole = (ins.run(model, IDS, edits=[e]).output.logits for e in (one_head, want))
    torch.testing.assert_close(got, whole, atol=1e-4, rtol=1e-4)


def test_a_subspace_that_is_none_is_refused() -> None:
    with pytest.raises(ins.EditError, match="2 columns and rank 1"):
        ins.patch("any", torch.zeros(1, 1, 4), along=torch.ones(4, 2))
    with pytest.raises(ins.ShapeError, match="patch along 4 units: the activation has 8"):
        ins.patch("any", torch.zeros(1, 1, 8), along=torch.ones(4)).fn(torch.zeros(1, 1, 8), Step.plain(1, 1))


def test_a_padded_run_is_patched_by_real_position() -> None:
    model, rows = gpt2(), [[1, 2, 3, 4, 5], [9, 8, 7]]
    source = ins.run(model, [[4, 4, 4, 4, 4], [6, 6, 6]], read="layers.1.resid_post", padding_side="right")
    got = ins.run(
        model, rows, edits=[ins.patch("layers.1.resid_post", source)], read="layers.2.resid_post", padding_side="left"
    )
    alone = ins.run(model, [6, 6, 6], read="layers.1.resid_post")
    want = ins.run(model, rows[1], edits=[ins.patch("layers.1.resid_post", alone)], read="layers.2.resid_post")
    torch.testing.assert_close(got["layers.2.resid_post"][1, 2:], want["layers.2.resid_post"][0], atol=1e-5, rtol=1e-5)
    with pytest.raises(ins.TokenError, match="give at="):
        ins.run(model, rows, edits=[ins.patch("layers.1.resid_post", alone)])


def test_skipping_a_layer_passes_the_stream() -> None:
    trace = ins.run(gpt2(), IDS, read=["layers.1.resid_pre", "layers.1.resid_post"], edits=[ins.skip("layers.1")])
    assert torch.equal(trace["layers.1.resid_pre"], trace["layers.1.resid_post"])


def test_edits_at_one_site_act_in_order() -> None:
    site = "layers.1.resid_post"
    plain = ins.run(gpt2(), IDS, read=site)[site]
    d = direction()
    got = ins.run(gpt2(), IDS, read=site, edits=[ins.add(d, 1.0), ins.scale(site, 2.0)])[site]
    torch.testing.assert_close(got, (plain + d.vector) * 2)


def test_rows_get_their_own_edits_in_one_batch() -> None:
    site = "layers.1.resid_post"
    a, b = direction(seed=1), direction(seed=2)
    both = ins.run(gpt2(), IDS, edits=[ins.add(a, rows=[0]), ins.add(b, rows=[1])]).output.logits
    for row, d in enumerate((a, b)):
        one = ins.run(gpt2(), IDS[row : row + 1], edits=[ins.add(d)]).output.logits
        torch.testing.assert_close(both[row], one[0], atol=1e-5, rtol=1e-5)
    assert site


def test_forbidden_keys_get_no_attention_and_cut_ones_leave_a_gap() -> None:
    model, site = gpt2(), "layers.1.attn.pattern"
    forbid = ins.run(model, IDS, read=site, edits=[ins.attend("layers.1", "forbid", keys=1, at=slice(2, None))])[site]
    assert float(forbid[:, :, 2:, 1].abs().max()) == 0
    torch.testing.assert_close(forbid.sum(-1), torch.ones(2, 4, 6))
    plain = ins.run(model, IDS, read=site)[site]
    cut = ins.run(model, IDS, read=site, edits=[ins.attend("layers.1", "cut", keys=1)])[site]
    torch.testing.assert_close(cut.sum(-1), 1 - plain[..., 1])
    moved = ins.run(model, IDS, read=site, edits=[ins.attend("layers.1", "redirect", keys=0, to=1, at=slice(1, None))])[
        site
    ]
    torch.testing.assert_close(moved[:, :, 1:, 1], plain[:, :, 1:, 0] + plain[:, :, 1:, 1])


def test_a_scale_may_differ_by_row() -> None:
    site = "layers.1.resid_post"
    plain = ins.run(gpt2(), IDS, read=site)[site]
    got = ins.run(gpt2(), IDS, read=site, edits=[ins.add(direction(), torch.tensor([1.0, 3.0]))])[site]
    torch.testing.assert_close(
        got - plain,
        torch.stack([direction().vector, 3 * direction().vector])[:, None].expand_as(plain),
        atol=1e-5,
        rtol=1e-4,
    )


def test_an_edit_of_the_middle_of_the_stream_reaches_the_residual_branch() -> None:
    model, vector = gpt2(), direction(seed=5).vector
    mid, post = "layers.1.resid_mid", "layers.1.resid_post"
    plain = ins.run(model, IDS, read=[mid])
    got = ins.run(model, IDS, read=[mid, "layers.1.mlp_out", post], edits=[ins.add(ins.Direction(mid, vector, "v"))])
    torch.testing.assert_close(got[mid], plain[mid] + vector)
    torch.testing.assert_close(got[post], got[mid] + got["layers.1.mlp_out"], atol=1e-5, rtol=1e-5)


def test_attention_maps_are_patched_between_runs_of_the_same_columns() -> None:
    model, rows, site = gpt2(), [[1, 2, 3, 4, 5], [9, 8, 7]], "layers.1.attn.pattern"
    other = ins.run(model, [[4, 4, 4, 4, 4], [6, 6, 6]], read=site)
    got = ins.run(model, rows, read=site, edits=[ins.patch(site, other, heads=[2])])
    assert torch.equal(got[site][:, 2], other[site][:, 2])
    assert not torch.equal(got[site][:, 1], other[site][:, 1])
    for wrong in ([[4, 4, 4, 4, 4], [6, 6, 6, 6]], [[4, 4, 4, 4]] * 2):
        with pytest.raises(ins.TokenError, match="same length and padding"):
            ins.run(model, rows, edits=[ins.patch(site, ins.run(model, wrong, read=site))])


def test_one_set_of_units_or_heads_a_row() -> None:
    model, site = gpt2(), "layers.1.mlp.act"
    plain = ins.run(model, IDS, read=site)[site]
    table = torch.tensor([[3, 7], [-1, 7]])
    mask = torch.zeros(2, 128, dtype=torch.bool)
    mask[0, [3, 7]] = mask[1, [127, 7]] = True
    want = plain.clone()
    want[:, -1] = torch.where(mask, torch.zeros(()), plain[:, -1])
    for units in (table, mask):
        got = ins.run(model, IDS, read=site, edits=[ins.ablate(site, units=units, at=-1)])[site]
        assert torch.equal(got, want)
    heads = ins.run(model, IDS, read="layers.1.attn.z", edits=[ins.scale("layers.1.attn.z", 0.0, heads=table % 4)])
    assert heads["layers.1.attn.z"].abs().sum((1, 3)).eq(0).tolist() == [[False, False, False, True]] * 2
    beams = ins.generate(model, IDS, edits=[ins.ablate(site, units=table)], read=site, max_new_tokens=3, num_beams=2)
    assert bool((beams.trace[site].reshape(2, -1, 128)[0][:, [3, 7]] == 0).all())


def test_sets_that_do_not_fit_the_rows_say_so() -> None:
    model, site = gpt2(), "layers.1.mlp.act"
    for said, units in {
        "for 3 rows, the run 2": torch.zeros(3, 1, dtype=torch.long),
        "from 0 to 128": torch.tensor([[0], [128]]),
        "mask over 5 entries": torch.zeros(2, 5, dtype=torch.bool),
    }.items():
        with pytest.raises(ins.ShapeError, match=said):
            ins.run(model, IDS, edits=[ins.ablate(site, units=units)])
    with pytest.raises(ins.EditError, match="table of indices or a bool mask"):
        ins.ablate(site, units=torch.zeros(2, 3))
    with pytest.raises(ins.EditError, match="one set a row"):
        ins.ablate(site, units=torch.zeros(2, 3, 4, dtype=torch.long))
