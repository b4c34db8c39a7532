"""Channels: subspaces of what components write, set to points, swept beside an equal push elsewhere."""

import pytest
import torch

import inscape as ins
from inscape.circuits import weights
from inscape.circuits.channels import Channel, channel, channel_sweep, grid, reach
from tests.common.small import gpt2
from tests.common.zoo import build

SITE = "layers.2.resid_pre"
ROWS = [[5, 9, 13, 17, 21], [6, 10, 14]]


def made(k: int = 2) -> Channel:
    heads = weights.heads(gpt2())
    return channel([(heads[i], i) for i in range(k)], SITE)


def test_a_channel_is_the_span_of_what_its_components_write() -> None:
    heads = weights.heads(gpt2())
    written = torch.stack([heads[i].OV.components.write[i] for i in range(3)])
    found = channel([(heads[i], i) for i in range(3)], SITE)
    torch.testing.assert_close(found.basis @ found.basis.T, torch.eye(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(written @ found.basis.T @ found.basis, written, atol=1e-5, rtol=1e-4)
    same = channel([(heads[0], 0), (heads[0], 0)], SITE)
    assert len(same) == 1
    assert "layers.0.head.0 component 0" in same.source


def test_setting_a_point_changes_the_coordinates_and_nothing_else() -> None:
    model, found = gpt2(), made()
    point = [1.5, -0.5]
    plain = ins.run(model, ROWS, read=SITE)[SITE]
    moved = ins.run(model, ROWS, read=SITE, edits=found.point(point, at=-1))[SITE]
    for row, last in ((0, 4), (1, 2)):
        torch.testing.assert_close(found.coordinates(moved[row, last]), torch.tensor(point), atol=1e-5, rtol=1e-4)
        rest = moved[row, last] - plain[row, last]
        torch.testing.assert_close(rest @ found.basis.T @ found.basis, rest, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(moved[row, :last], plain[row, :last], atol=0, rtol=0)
    gone = ins.run(model, ROWS, read=SITE, edits=found.removed())[SITE]
    assert float(found.coordinates(gone).abs().max()) < 1e-5


def test_points_are_edits_that_can_be_saved(tmp_path) -> None:
    model, edits = gpt2(), made().point([1.0, 2.0], at=-1)
    ins.save_edits(tmp_path / "point.safetensors", edits)
    again = ins.load_edits(tmp_path / "point.safetensors")
    both = [ins.run(model, ROWS, output=True, edits=list(e)).output.logits for e in (edits, again)]
    assert torch.equal(*both)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3_text", "mamba2"])
def test_a_sweep_is_one_run_a_point_and_its_control_moves_as_far_elsewhere(name: str) -> None:
    model = ins.open(build(name)) if name != "gpt2" else gpt2()
    basis = torch.linalg.qr(torch.randn(32, 2, generator=torch.Generator().manual_seed(0))).Q.T
    site = "layers.1.resid_post"
    found = Channel(site, basis.contiguous(), "random")
    points = grid([-2.0, -2.0], [2.0, 2.0], 3)
    swept = channel_sweep(model, ROWS, found, points, metric=ins.logit_diff(30, 41), seed=3)
    assert swept.values.shape == swept.control.shape == swept.moved.shape == (2, 9)
    plain = ins.run(model, ROWS, read=site, reduce="last", output="last")
    logits = plain.output.logits[:, -1]
    torch.testing.assert_close(swept.base, (logits[:, 30] - logits[:, 41]).float(), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(swept.coordinates, found.coordinates(plain[site].float()), atol=1e-5, rtol=1e-4)
    for p in (0, 7):
        edited = ins.run(model, ROWS, output="last", edits=found.point(points[p], at=-1)).output.logits[:, -1]
        torch.testing.assert_close(swept.values[:, p], (edited[:, 30] - edited[:, 41]).float(), atol=1e-4, rtol=1e-3)
        far = (points[p] - swept.coordinates).norm(dim=1)
        torch.testing.assert_close(swept.moved[:, p], far, atol=1e-5, rtol=1e-4)
    assert 0 <= swept.best() < 9
    assert "random at layers.1.resid_post" in swept.how


def test_where_the_prompts_are_already_a_point_does_nothing() -> None:
    model, found = gpt2(), made(1)
    here = found.coordinates(ins.run(model, ROWS[:1], read=SITE, reduce="last")[SITE])
    swept = channel_sweep(model, ROWS[:1], found, here, metric=ins.logit_diff(30, 41))
    torch.testing.assert_close(swept.values[:, 0], swept.base, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(swept.control[:, 0], swept.base, atol=1e-4, rtol=1e-4)


def test_places_may_differ_from_row_to_row() -> None:
    model, found = gpt2(), made()
    points, at = grid([-1.0, -1.0], [1.0, 1.0], 2), torch.tensor([1, 0])
    swept = channel_sweep(model, ROWS, found, points, metric=ins.logit_diff(30, 41), at=at)
    alone = channel_sweep(model, ROWS[1:], found, points, metric=ins.logit_diff(30, 41), at=0)
    torch.testing.assert_close(swept.values[1], alone.values[0], atol=1e-4, rtol=1e-4)


def test_a_grid_reaches_beyond_the_data() -> None:
    points = reach(torch.tensor([[0.0, 2.0], [4.0, 2.5]]), steps=3, times=2.0)
    assert points.shape == (9, 2)
    assert points.amin(0).tolist() == [-2.0, 1.75]
    assert points.amax(0).tolist() == [6.0, 2.75]


def test_errors_say_what_does_not_fit() -> None:
    with pytest.raises(ins.InputError, match="at least one"):
        channel([], SITE)
    with pytest.raises(ins.ShapeError, match="has 2 coordinates; got 3"):
        made().point([1.0, 2.0, 3.0])
    with pytest.raises(ins.ShapeError, match="this channel has 2 coordinates"):
        channel_sweep(gpt2(), ROWS, made(), torch.zeros(3, 1), metric=ins.logit_diff(30, 41))
    with pytest.raises(ins.InputError, match="control='mean'"):
        channel_sweep(gpt2(), ROWS, made(), torch.zeros(3, 2), metric=ins.logit_diff(30, 41), control="mean")
