"""Edits survive a file; files that are none of ours say so."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch

import inscape as ins
from inscape.core.edits.sparsify import random_k, threshold_activation, topk_activation
from tests.common.small import direction, gpt2

IDS = torch.tensor([[1, 5, 9, 13, 17, 21], [2, 6, 10, 14, 18, 22]])


def all_kinds() -> list["ins.Edit"]:
    d = direction()
    trace = ins.run(gpt2(), IDS[:, :4], read="layers.1.mlp_out")
    return [
        ins.add(d, 2.0, at=slice(1, None)),
        ins.add(d, torch.tensor([1.0, -1.0])),
        ins.project_out(d, rows=[0]),
        ins.clamp(d, -1.0, 1.0, at="last"),
        ins.clamp("layers.0.mlp.act", high=0.0, units=[3]),
        ins.scale("layers.*.attn.z", 0.5, heads=[1]),
        ins.scale("layers.1.attn.z", 0.5, heads=torch.tensor([[1, 2], [0, 3]])),
        ins.ablate("layers.1.mlp.act", units=torch.arange(256).reshape(2, 128) % 3 == 0),
        ins.replace("layers.2.mlp_out", 0.0, at=[1, -1]),
        ins.patch("layers.1.mlp_out", trace, at=2),
        ins.patch("layers.1.mlp_out", trace, at=2, along=direction("layers.1.mlp_out")),
        ins.patch("layers.1.mlp_out", trace, at=2, along=torch.randn(32, 3)),
        ins.ablate("layers.0.attn_out", "mean", trace["layers.1.mlp_out"]),
        ins.ablate("layers.0.mlp_out", "resample", trace["layers.1.mlp_out"], seed=3),
        ins.skip("layers.1.attn"),
        ins.skip("layers.2", at=ins.tokens(13, 14)),
        ins.attend("layers.1", "redirect", keys=0, to=[1, 2], heads=[2]),
        ins.attend("layers.*", "forbid", keys=slice(0, 2), at=slice(3, None)),
        ins.attend("layers.*", "only", keys=(), own=True, heads=[1]),
        topk_activation("layers.*.mlp.act", 9, by="largest", at=-1),
        topk_activation("layers.*.mlp.act", 0.1, per="batch"),
        random_k("layers.1.mlp.act", 7, seed=3),
        threshold_activation("layers.1.mlp.act", 0.2),
        threshold_activation("layers.1.mlp.act", torch.linspace(0, 1, 128)),
    ]


def test_a_loaded_plan_does_what_the_saved_one_did(tmp_path: Path) -> None:
    model, path = gpt2(), tmp_path / "plan.safetensors"
    for edit in all_kinds():
        ins.save_edits(path, [edit])
        (loaded,) = ins.load_edits(path)
        assert repr(loaded) == repr(edit)
        want = ins.run(model, IDS, edits=[edit]).output.logits
        torch.testing.assert_close(ins.run(model, IDS, edits=[loaded]).output.logits, want, atol=1e-5, rtol=1e-5)
    ins.save_edits(path, all_kinds())
    assert [e.site for e in ins.load_edits(path)] == [e.site for e in all_kinds()]


def test_a_function_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ins.EditError, match="Python function"):
        ins.save_edits(tmp_path / "x", [ins.edit("layers.0.mlp_out", lambda x: x)])
    assert not (tmp_path / "x").exists()


def test_a_direction_survives_its_file(tmp_path: Path) -> None:
    d = direction()
    d.save(tmp_path / "d")
    back = ins.Direction.load(tmp_path / "d")
    assert torch.equal(back.vector, d.vector)
    assert (back.site, back.source) == (d.site, d.source)
    with pytest.raises(ins.FileError, match="holds direction, not edits"):
        ins.load_edits(tmp_path / "d")


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "short").write_bytes(b"\x08\x00\x00")
    with pytest.raises(ins.FileError, match="damaged or is no safetensors"):
        ins.load_edits(tmp_path / "short")
    save_file({"a": torch.zeros(2)}, str(tmp_path / "foreign"))
    with pytest.raises(ins.FileError, match="tensors of another program"):
        ins.load_edits(tmp_path / "foreign")
    with pytest.raises(ins.FileError, match="there is no file"):
        ins.load_edits(tmp_path / "nowhere")
    save_file(
        {"a": torch.zeros(2)},
        str(tmp_path / "new"),
        metadata={"inscape": '{"kind": "edits", "version": 99, "edits": []}'},
    )
    with pytest.raises(ins.FileError, match="newer inscape"):
        ins.load_edits(tmp_path / "new")


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "calm.safetensors"
    first = ins.Direction("layers.1.resid_post", torch.ones(4), "first")
    first.save(path)

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ins.FileError, match="the disk is full"):
        (-first).save(path)
    monkeypatch.undo()
    assert torch.equal(ins.Direction.load(path).vector, first.vector)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with pytest.raises(ins.FileError, match=r"could not be written.*\n  choose a folder that is there"):
        first.save(tmp_path / "nowhere" / "calm.safetensors")


def test_a_version_that_is_no_number_is_damage(tmp_path):
    from safetensors.torch import save_file

    about = json.dumps({"kind": "direction", "version": "new"})
    save_file({"vector": torch.ones(2)}, tmp_path / "d.safetensors", metadata={"inscape": about})
    with pytest.raises(ins.FileError, match="'new' is no version"):
        ins.Direction.load(tmp_path / "d.safetensors")
