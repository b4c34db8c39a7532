"""Edits while recording: named in the store, the same for every sample, and never unsaid."""

from pathlib import Path
from typing import Any

import pytest
import torch

import inscape as ins
from inscape.core.edits.relate import relate
from inscape.store.edited import check_edits
from tests.common.small import direction, gpt2, gpt2_module
from tests.store.test_record import SITES, data, same
from tests.store.words import tokenizer

PLAN = [ins.add(direction(), 3.0), ins.ablate("layers.0.mlp_out", "zero", at=-1)]
SITE = "layers.2.resid_post"


def test_rows_are_those_of_the_edited_model(tmp_path: Path) -> None:
    model = gpt2()
    store = ins.record(model, data(), [*SITES, SITE], tmp_path / "s", edits=PLAN, batch_tokens=40)
    plain = ins.record(model, data(), [*SITES, SITE], tmp_path / "p", batch_tokens=40)
    for i in (0, 7, 22):
        trace = ins.run(model, [data()[i]], read=[*SITES, SITE], edits=PLAN)
        for site in (*SITES, SITE):
            torch.testing.assert_close(store.of(i)[site], trace[site][0], atol=1e-4, rtol=1e-4)
    assert float((store[SITE][:] - plain[SITE][:]).abs().max()) > 1
    assert str(store.about.job["edits"]).startswith("+3 random 0; layers.0.mlp_out zero-ablated [")
    assert plain.about.job["edits"] is None


def test_a_resumed_record_must_have_the_same_edits(tmp_path: Path) -> None:
    model, options = gpt2(), {"unit_samples": 4, "dtype": "bfloat16"}
    whole = ins.record(model, data(), SITE, tmp_path / "a", edits=PLAN, **options)
    ins.record(model, data(), SITE, tmp_path / "b", edits=PLAN, worker=(1, 2), **options)
    other: tuple[Any, ...] = (
        (), PLAN[:1], PLAN[::-1], [ins.add(direction(), 3.5), PLAN[1]], [ins.add(direction(seed=1), 3.0), PLAN[1]],
        [PLAN[0], ins.ablate("layers.0.mlp_out", "zero", at=-2)],
    )  # fmt: skip
    for edits in other:
        with pytest.raises(ins.FileError, match=r"job.edits: \+3 random 0; .* in the store"):
            ins.record(model, data(), SITE, tmp_path / "b", edits=edits, **options)
    fresh = [ins.add(direction(), 3.0), ins.ablate("layers.0.mlp_out", "zero", at=-1)]  # equal, not the same objects
    same(whole, ins.record(model, data(), SITE, tmp_path / "b", edits=fresh, **options))


def test_edits_in_force_around_a_record_are_refused(tmp_path: Path) -> None:
    model = gpt2()
    again = ins.open(gpt2_module())  # another handle of the same module
    with ins.editing(model, PLAN[:1]):
        for opened in (model, again):
            with pytest.raises(ins.EditError, match=r"keeps edits in force \(Edit\(\+3 random 0.*\n.*edits=\[...\]"):
                ins.record(opened, data(), SITE, tmp_path / "s")
        with pytest.raises(ins.EditError, match="the store would not say so"):
            ins.plan(model, data(), "record", sites=SITE)
        model.module(torch.tensor([[1, 2]]))
    assert not (tmp_path / "s").exists()
    assert ins.record(model, data(), SITE, tmp_path / "s").is_complete


def test_an_edit_may_have_no_place_in_a_batch_but_not_in_a_whole_record(tmp_path: Path) -> None:
    model, ids = gpt2(), data()
    longest = max(map(len, ids)) - 1
    edit = ins.replace("layers.0.resid_post", 0.0, at=longest)
    store = ins.record(model, ids, "layers.0.resid_post", tmp_path / "s", edits=edit, batch_tokens=20)
    x, pos = store["layers.0.resid_post"][:], store["pos"][:]
    assert torch.equal((x == 0).all(1), pos == longest)
    assert int((pos == longest).sum()) > 0
    with pytest.raises(ins.NotFiredError, match=r"never happened in this record.*\n.*tokens of any sample"):
        ins.record(model, ids, SITE, tmp_path / "t", edits=ins.replace(SITE, 0.0, at=99))
    assert ins.Store(tmp_path / "t").is_complete


def test_a_stretch_of_text_is_edited_in_every_sample(tmp_path: Path) -> None:
    model = ins.open(gpt2_module(), tokenizer=tokenizer())
    texts = ["the ferry leaves", "nobody minds the old ferry", "ferry ferry"]
    edit = ins.replace(SITE, 0.0, at=ins.span("ferry"))
    store = ins.record(model, texts, SITE, tmp_path / "s", edits=edit)
    zero = (store[SITE][:] == 0).all(1)
    assert store["pos"][zero].tolist() == [1, 4, 0]


def test_edits_that_depend_on_the_batch_or_have_no_name_are_refused(tmp_path: Path) -> None:
    model, to = gpt2(), tmp_path / "s"
    rows = torch.randn(2, 5, 32)
    refused = {
        "picks rows of a batch": ins.replace(SITE, 0.0, rows=[0]),
        "positions as a table over a batch": ins.replace(SITE, 0.0, at=torch.tensor([[1], [2]])),
        "draws on the batch itself": ins.ablate(SITE, "mean"),
        "source of 2 rows": ins.patch(SITE, rows, at=0),
        "2 strengths": ins.add(direction(SITE), torch.tensor([1.0, 2.0])),
        "2 strengths, one a row": ins.add(direction(SITE), torch.ones(2, 3)),
        "2 vectors, one a row": ins.add(ins.Direction(SITE, torch.ones(2, 32))),
        "values of 2 rows": ins.replace(SITE, rows),
        "relates tokens of 2 rows": relate(
            "layers.0", torch.zeros(2, 4, dtype=torch.long), torch.eye(1, dtype=torch.bool)
        ),
    }
    for why, edit in refused.items():
        with pytest.raises(ins.EditError, match=f"{why}.*\n.*the same for every sample"):
            ins.record(model, data(), SITE, to, edits=[edit])
    with pytest.raises(ins.EditError, match="neither has a name that another process"):
        ins.record(model, data(), SITE, to, edits=ins.edit(SITE, torch.tanh))
    with pytest.raises(ins.EditError, match=r"edits= takes edits such as ins.add.*got str"):
        check_edits(model, ["more"])
    assert not to.exists()
    source = ins.run(model, data()[:4], read=SITE)
    mean = ins.ablate(SITE, "mean", source)
    assert ins.record(model, data(), SITE, to, edits=mean)[SITE][:].std(0).max() < 1e-5
