"""Many edited runs at once give what one run a cell gives, whichever way they go."""

import pytest
import torch

import inscape as ins
from inscape.core.edit import Edit
from inscape.engine.cells import Cell, run_cells
from tests.common.small import direction, gpt2, hooks_left
from tests.common.zoo import DECODER_ZOO, OTHER_ZOO, build, inputs_for

IDS = torch.tensor([[5, 9, 13, 17, 21, 25, 29, 33], [6, 10, 14, 18, 22, 26, 30, 34]])


def shaken(site: str, seed: int, **places) -> Edit:
    """A change that depends on the value and on its place, so that a wrong row or column shows."""

    def fn(x, step):
        at = step.real[:, step.start :].reshape(*x.shape[:2], *[1] * (x.ndim - 2))
        return x * (1.2 + 0.1 * seed) + 0.3 * torch.cos(at + seed).to(x.dtype)

    return Edit(site, fn, f"shake {seed}", contextual=True, **places)


def cells_of(model: "ins.Model", n_rows: int) -> list[Cell]:
    """One and several edits, at every kind of place of the blocks, at many positions and in every row."""
    inner = [n for n in map(str, model.sites) if n.startswith("layers.") and model.points[n].kind != "state"]
    inner = [
        n for n in inner if "expert" not in n and "router" not in n and not model.points[n].name.endswith("scores")
    ]
    out = []
    for i, site in enumerate(inner):
        axes = model.points[site].axes
        if axes[0] == "batch" and ("pos" in axes) and "key" not in axes:
            out.append(Cell((shaken(site, i, at=i % 7),), i % n_rows))
    posts = [n for n in inner if n.endswith("resid_post")]
    out.append(Cell((shaken(posts[0], 1, at=2), shaken(posts[-1], 2, at=(4, 5))), n_rows - 1))
    out.append(Cell((ins.skip("layers.1", at=3),), 0))
    out.append(Cell((ins.ablate(posts[0], "zero", at="last"), ins.add(_direction(model, posts[1])))))
    if any(n.endswith("attn.pattern") for n in inner):
        layer = next(n for n in inner if n.endswith("attn.pattern")).removesuffix(".attn.pattern")
        out.append(Cell((ins.attend(layer, "cut", keys=1, at=slice(3, None)),), n_rows - 1))
    return out


def _direction(model, site):
    width = model.module.get_input_embeddings().weight.shape[1]
    if hasattr(model.config, "hidden_size"):
        width = model.config.hidden_size
    return direction(site, 3, width)


def by_hand(model, inputs, cells, site):
    """[cell, pos, d] at the last layer, one ordinary run a cell."""
    rows = []
    for cell in cells:
        one = {k: v[cell.row : cell.row + 1] for k, v in inputs.items()}
        rows.append(ins.run(model, one, read=site, edits=list(cell.edits))[site][0])
    return torch.stack(rows)


@pytest.mark.parametrize("name", sorted(DECODER_ZOO))
def test_every_decoder_gives_the_loops_numbers(name):
    model = ins.open(build(name))
    inputs = inputs_for(name)
    cells = cells_of(model, len(inputs["input_ids"]))
    last = f"{model.blocks[-1].name}.resid_post"
    wanted = by_hand(model, inputs, cells, last)
    got = run_cells(model, inputs, cells, read=last)
    torch.testing.assert_close(got[last], wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    recurrent = any(".ssm." in n for n in model.points)
    alone = name in ("bloom", "falcon_alibi", "gpt_neo")  # a block makes its own mask, or is given biases by head
    assert got.how == ("batched" if name == "rwkv" else "rows" if recurrent or alone else "packed"), got.why


@pytest.mark.parametrize("way", ["packed", "rows", "batched", "one by one"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["gpt2", "gemma3_text", "opt"])
def test_padding_changes_nothing_on_either_side(name, side, way):
    model = ins.open(build(name))
    rows = [[5, 9, 13, 17, 21, 25, 29], [6, 10, 14, 18], [7, 11, 15, 19, 23]]
    last = f"{model.blocks[-1].name}.resid_post"
    site, other = "layers.0.resid_post", "layers.1.mlp_out"
    cells = [Cell((shaken(site, 1, at=at),), row) for row in range(3) for at in (0, 2, -1)]
    cells += [Cell((ins.ablate(other, "zero", at=-2), ins.skip("layers.1", at="last")), row) for row in range(3)]
    got = run_cells(
        model, rows, cells, read={"end": (last, "last"), "all": (last, "norm")}, padding_side=side, way=way,
        measure=lambda logits, rows: logits[:, :5], batch_tokens=16,
    )  # fmt: skip
    assert got.how == way
    for i, cell in enumerate(cells):
        trace = ins.run(model, [rows[cell.row]], read={"end": (last, "last")}, edits=list(cell.edits), output=True)
        torch.testing.assert_close(got["end"][i], trace["end"][0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(got.measured[i], trace.output.logits[0, -1, :5], rtol=1e-4, atol=1e-4)
    for row, ids in enumerate(rows):
        trace = ins.run(model, [ids], output=True)
        torch.testing.assert_close(got.base_measured[row], trace.output.logits[0, -1, :5], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(OTHER_ZOO))
def test_encoders_vision_and_pairs_of_stacks_give_the_loops_numbers(name):
    model = ins.open(build(name))
    inputs = inputs_for(name)
    sites = [s for s in map(str, model.sites) if s.endswith(("resid_post", "mlp_out", ".out")) and "expert" not in s]
    cells = [Cell((Edit(s, lambda x: x * 1.3 + 0.1, "more"),)) for s in sites[:: max(1, len(sites) // 5)]]
    wanted = [ins.run(model, inputs, read=sites[-1], edits=list(c.edits))[sites[-1]][0] for c in cells]
    got = run_cells(model, inputs, cells, read=sites[-1])
    for mine, theirs in zip(got[sites[-1]], wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_columns_of_the_unembedding_are_those_of_all_of_it():
    model = gpt2()
    cells = [Cell((shaken("layers.0.resid_post", 1, at=i),), i % 2) for i in range(8)]
    tokens = torch.tensor([[3, 7], [4, 9]])
    few = run_cells(model, IDS, cells, measure=lambda logits, rows: logits, tokens=tokens)
    full = run_cells(model, IDS, cells, measure=lambda logits, rows: logits.gather(-1, tokens[rows]))
    torch.testing.assert_close(few.measured, full.measured)
    every = run_cells(model, IDS, cells, at="all", measure=lambda logits, rows: logits[:, :, 3].sum(1))
    for i, cell in enumerate(cells):
        logits = ins.run(model, IDS[cell.row : cell.row + 1], edits=list(cell.edits)).output.logits
        torch.testing.assert_close(every.measured[i], logits[0, :, 3].sum(), rtol=1e-4, atol=1e-4)


def test_a_cell_that_reads_before_it_joins_has_its_rows_values():
    model = gpt2()
    sites = ["layers.0.mlp_out", "layers.2.attn.z", "layers.1.resid_pre"]
    cells = [Cell((shaken("layers.1.mlp_out", 1, at=4),), 1), Cell((shaken("layers.0.attn.v", 1, at=2),), 0)]
    got = run_cells(model, IDS, cells, read=sites)
    for i, cell in enumerate(cells):
        trace = ins.run(model, IDS[cell.row : cell.row + 1], read=sites, edits=list(cell.edits))
        for site in sites:
            torch.testing.assert_close(got[site][i], trace[site][0], rtol=1e-4, atol=1e-5)
            plain = ins.run(model, IDS, read=site)[site]
            torch.testing.assert_close(got.base[site], plain, rtol=1e-4, atol=1e-5)


def test_less_is_run_than_in_the_loop():
    model = gpt2()
    cells = [Cell((shaken(f"layers.{i}.resid_post", 1, at=p),)) for i in range(3) for p in range(8)]
    got = run_cells(model, IDS[:1], cells, measure=lambda logits, rows: logits[:, 0])
    assert got.how == "packed"
    assert got.work["token_layers"] < 0.3 * got.work["one_by_one"]


def test_nothing_is_left_in_the_model():
    model = gpt2()
    before = hooks_left(model.module), dict(vars(model.module.config))
    run_cells(model, IDS, [Cell((ins.attend("layers.1", "cut", keys=1),))], read="layers.2.attn.q")
    assert (hooks_left(model.module), dict(vars(model.module.config))) == before


BAD = [
    ({"cells": [Cell((ins.add(direction(), at=50),))]}, ins.NotFiredError, "positions at=50 are not among the tokens"),
    ({"cells": [Cell((), 2)]}, ins.InputError, "cell 0 is on row 2; the inputs have 2 rows"),
    ({"cells": [ins.add(direction())]}, ins.EditError, "cells are Cell"),
    ({"cells": [Cell((ins.add(direction(), rows=1),))]}, ins.EditError, "a cell is one row already"),
    ({"way": "fast"}, ins.InputError, "it can be packed, rows, batched, one by one"),
    ({"at": "first"}, ins.InputError, "logits are measured at 'last'"),
    ({"cells": [Cell((ins.add(direction("layers.9.resid_post")),))]}, ins.SiteError, "no site matches"),
    ({"cells": [Cell((Edit("layers.1.mlp_out", lambda x: x / 0, "blow"),))]}, ins.NotFiniteError, "blow"),
    ({"cells": [Cell((Edit("layers.1.mlp_out", lambda x: x[:, :1, :3], "cut"),))]}, ins.ShapeError, "returned shape"),
    ({"cells": [Cell((Edit("embed", lambda x: x, "e"),))], "way": "packed"}, ins.InputError, "embed lies outside"),
]  # fmt: skip


@pytest.mark.parametrize(("how", "error", "said"), BAD, ids=[said for _, _, said in BAD])
def test_what_cannot_be_run_says_why(how, error, said):
    given = {"cells": [Cell((ins.add(direction()),))]} | how
    with pytest.raises(error, match=said):
        run_cells(gpt2(), IDS, **given)
