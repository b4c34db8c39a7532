"""Edits in `generate` are the edits of the uncached forward, token by token."""

import pytest
import torch

import inscape as ins
from tests.common.small import direction, gpt2, hooks_left

ROWS = [[1, 2, 3, 4, 5], [9, 8, 7]]


def edits() -> dict[str, "ins.Edit"]:
    d = direction()
    source = torch.randn(3, 32, generator=torch.Generator().manual_seed(4))
    return {
        "add": ins.add(d, 3.0),
        "add from position 4 on": ins.add(d, 3.0, at=slice(4, None)),
        "add to what is generated": ins.add(d, 3.0, at=slice(3, None), rows=[1]),
        "scale heads of z": ins.scale("layers.1.attn.z", 0.0, heads=[1, 2]),
        "skip": ins.skip("layers.1"),
        "skip attention": ins.skip("layers.*.attn"),
        "forbid": ins.attend("layers.1", "forbid", keys=[1], at=slice(2, None)),
        "only": ins.attend("layers.*", "only", keys=[2], own=True, first=True, at=slice(1, None)),
        "cut": ins.attend("layers.*", "cut", keys=0),
        "redirect": ins.attend("layers.1", "redirect", keys=0, to=1, heads=[0, 3]),
        "set": ins.attend("layers.1", "set", keys=1, value=0.3, renormalise=True),
        "keys": ins.replace("layers.0.attn.k", 0.5, at=2),
        "values": ins.scale("layers.1.attn.v", 2.0, at=slice(1, None)),
        "queries": ins.scale("layers.1.attn.q", 0.0, heads=[1]),
        "pattern": ins.clamp("layers.1.attn.pattern", high=0.3),
        "neurons": ins.scale("layers.*.mlp.act", -1.0, units=[1, 2, 3]),
        "head out": ins.scale("layers.1.attn.head_out", 0.0, heads=[2]),
        "mean": ins.ablate("layers.1.mlp_out", "mean", source),
        "resample": ins.ablate("layers.1.mlp_out", "resample", source, at=slice(1, None)),
        "project out": ins.project_out(d),
        "token ids": ins.add(d, 5.0, at=ins.tokens(3, 7)),
    }


@pytest.mark.parametrize("name", list(edits()))
def test_edits_in_generate_equal_edits_in_the_uncached_forward(name: str) -> None:
    model, edit = gpt2(), edits()[name]
    got = ins.generate(model, ROWS, edits=[edit], read="layers.*.resid_post", max_new_tokens=6)
    sequences = [list(row) for row in ROWS]
    for _ in range(6):
        logits = ins.run(model, sequences, edits=[edit], output="last", padding_side="left").output.logits
        for row, token in zip(sequences, logits[:, -1].argmax(-1).tolist(), strict=True):
            row.append(token)
    assert [row[-6:] for row in sequences] == got.tokens.tolist()
    full = ins.run(model, sequences, edits=[edit], read="layers.*.resid_post", padding_side="left")
    for site in full:
        assert got.trace[site].shape == full[site].shape
        torch.testing.assert_close(got.trace[site][full.mask], full[site][full.mask], atol=2e-5, rtol=1e-4)
    assert hooks_left(model.module) == 0


def test_every_edit_of_the_list_matters() -> None:
    model = gpt2()
    sequences = [[1, 2, 3, 7, 5, 6], [9, 8, 3, 7, 6, 5]]
    plain = ins.run(model, sequences).output.logits
    for name, edit in edits().items():
        assert not torch.allclose(ins.run(model, sequences, edits=[edit]).output.logits, plain, atol=1e-5), name


def test_beams_and_sampling_take_edits() -> None:
    model, edit = gpt2(), ins.add(direction("layers.2.resid_post"), 3.0, at=slice(2, None))
    beams = ins.generate(model, ROWS, edits=[edit], max_new_tokens=5, num_beams=3, num_return_sequences=2)
    uncached = ins.generate(
        model, ROWS, edits=[edit], max_new_tokens=5, num_beams=3, num_return_sequences=2, use_cache=False
    )
    assert beams.tokens.tolist() == uncached.tokens.tolist()
    assert len(beams.tokens) == 4
    torch.manual_seed(3)
    one = ins.generate(model, ROWS, edits=[edit], max_new_tokens=5, do_sample=True)
    torch.manual_seed(3)
    two = ins.generate(model, ROWS, edits=[edit], max_new_tokens=5, do_sample=True, use_cache=False)
    assert one.tokens.tolist() == two.tokens.tolist()


def test_sites_read_under_beams_are_those_of_the_chosen_rows() -> None:
    model, edit = gpt2(), ins.add(direction("layers.2.resid_post"), 3.0, at=slice(2, None))
    options = {"max_new_tokens": 5, "num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5}
    got = ins.generate(model, ROWS, edits=[edit], read=["layers.*.resid_post", "layers.1.attn.pattern"], **options)
    assert got.tokens.tolist() == ins.generate(model, ROWS, edits=[edit], **options).tokens.tolist()
    chosen = [row + new for row, new in zip([r for r in ROWS for _ in range(2)], got.tokens.tolist(), strict=True)]
    full = ins.run(model, chosen, edits=[edit], read=list(got.trace), padding_side="left")
    for site in ("layers.0.resid_post", "layers.2.resid_post"):
        assert got.trace[site].shape == full[site].shape
        torch.testing.assert_close(got.trace[site][full.mask], full[site][full.mask], atol=2e-5, rtol=1e-4)
    assert got.trace["layers.1.attn.pattern"].shape == (4, 4, 10, 10)
    assert hooks_left(model.module) == 0


def test_what_is_generated_is_named_by_a_word() -> None:
    model = gpt2()
    got = ins.generate(
        model,
        ROWS,
        edits=[ins.add(direction("layers.2.resid_post"), 4.0, at="generated")],
        max_new_tokens=4,
        read="layers.2.resid_post",
    )
    plain = ins.generate(model, ROWS, max_new_tokens=4, read="layers.2.resid_post")
    torch.testing.assert_close(got.trace["layers.2.resid_post"][:, :5], plain.trace["layers.2.resid_post"][:, :5])
    assert got.tokens[:, 0].tolist() == plain.tokens[:, 0].tolist()
    with pytest.raises(ins.NotFiredError, match="at='generated'"):
        ins.run(model, ROWS, edits=[ins.add(direction(), at="generated")])


def test_maps_over_keys_are_traced_over_the_whole_generation() -> None:
    model = gpt2()
    got = ins.generate(model, ROWS, read=["layers.1.attn.pattern", "layers.1.attn.k"], max_new_tokens=4)
    assert got.trace["layers.1.attn.pattern"].shape == (2, 4, 9, 9)
    full = ins.run(
        model,
        [r + t for r, t in zip(ROWS, got.tokens.tolist(), strict=True)],
        read=["layers.1.attn.pattern", "layers.1.attn.k"],
        padding_side="left",
    )
    for row in range(2):
        real = full.mask[row]
        torch.testing.assert_close(
            got.trace["layers.1.attn.k"][row][real], full["layers.1.attn.k"][row][real], atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(
            got.trace["layers.1.attn.pattern"][row][:, real][:, :, real],
            full["layers.1.attn.pattern"][row][:, real][:, :, real],
            atol=1e-5,
            rtol=1e-4,
        )


def test_an_uncached_generation_traces_the_same() -> None:
    model = gpt2()
    cached = ins.generate(model, ROWS, read="layers.*.resid_post", max_new_tokens=4)
    plain = ins.generate(model, ROWS, read="layers.*.resid_post", max_new_tokens=4, use_cache=False)
    for site in cached.trace:
        assert cached.trace[site].shape == plain.trace[site].shape
        torch.testing.assert_close(
            cached.trace[site][plain.trace.mask], plain.trace[site][plain.trace.mask], atol=1e-5, rtol=1e-4
        )


def test_editing_inside_the_users_own_cached_loop_knows_its_positions() -> None:
    model, edit = gpt2(), ins.add(direction(), 3.0, at=slice(4, None))
    want = ins.generate(model, [ROWS[0]], edits=[edit], max_new_tokens=5).tokens[0].tolist()
    ids, past, got = torch.tensor([ROWS[0]]), None, []
    with ins.editing(model, edit):
        for _ in range(5):
            out = model.module(ids, past_key_values=past, use_cache=True)
            past, ids = out.past_key_values, out.logits[:, -1:].argmax(-1)
            got.append(int(ids))
    assert got == want
