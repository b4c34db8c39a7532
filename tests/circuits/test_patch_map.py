"""Patches from a second model are those of the obvious loop, and maps are called alike when they are."""

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape import tasks
from inscape.circuits.patch_map import binned, compare_maps, patch_map, restored, same_places
from inscape.circuits.two_models import check_comparable, site_in
from inscape.core.grid import Cost, Grid
from inscape.models.toy.words import word_tokenizer

NAMES = ["ada", "bob", "cyd", "dan", "eve", "fay"]
LANDS = ["Fola", "Gerin", "Hasta"]
TOKENIZER = word_tokenizer([*NAMES, *LANDS, *["is", "in", ".", "This", "statement", ":", "TRUE", "FALSE"]])
ROWS = [(name, LANDS[i % 3], LANDS[(i + 1) % 3]) for i, name in enumerate(NAMES)]


def model(seed=0, layers=3, width=16, tokenizer=TOKENIZER):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = transformers.LlamaConfig(
            vocab_size=32, hidden_size=width, intermediate_size=16, num_hidden_layers=layers, num_attention_heads=2,
            max_position_embeddings=64, bos_token_id=1, eos_token_id=None, pad_token_id=0, initializer_range=0.3,
        )  # fmt: skip
        return ins.open(transformers.LlamaForCausalLM(config).eval(), tokenizer=tokenizer)


def pairs(shots=2):
    return tasks.statements(TOKENIZER, ROWS, "{subject} is in {object}.", shots=shots, between=" ")


def grid(values):
    per_pair = torch.as_tensor(values, dtype=torch.float32)
    _, n, m = per_pair.shape
    labels = (tuple(f"layers.{i}" for i in range(n)), tuple(range(m)))
    cost, base = Cost(0.0, 0.0, 0, 0, 0.0, 1.0), torch.zeros(len(per_pair))
    return Grid(per_pair.mean(0), ("site", "position"), labels, per_pair, base, base + 1, "made up", "patch", cost)


def test_a_model_is_its_own_source():
    one, made = model(), pairs()
    own, moved = patch_map(one, made), patch_map(one, made, source=one)
    assert own.positions == ("subject", "object", "stop", "asked", "end")
    torch.testing.assert_close(own.per_pair, moved.per_pair)
    assert restored(own, moved) == pytest.approx(1.0, abs=1e-5)
    assert float(own.values[-1, own.positions.index("end")]) == pytest.approx(float(own.other.mean()), rel=1e-4)
    assert float((own.values[:, 0] - own.base.mean()).abs().max()) < 1e-6  # the subject is the same in both


def test_patches_from_a_second_model_are_those_of_the_loop():
    one, other, made = model(0), model(1), pairs(shots=0)
    found = ins.sweep(one, made, sites="layers.*.resid_post", positions="all", source=other)
    theirs = ins.run(other, [list(ids) for ids in made.clean_ids], read="layers.*.resid_post")
    for i, site in enumerate(found.sites):
        for p in range(2, len(found.positions)):  # before the object both prompts are equal
            edit = ins.patch(site, theirs, at=p)
            logits = ins.run(one, [list(ids) for ids in made.corrupted_ids], edits=[edit], output="last").output.logits[
                :, -1
            ]
            expected = logits.gather(1, made.answer_ids[:, None]) - logits.gather(1, made.wrong_ids[:, None])
            torch.testing.assert_close(found.per_pair[:, i, p], expected[:, 0], rtol=1e-3, atol=1e-4)


def test_a_model_of_other_depth_is_a_source_on_request():
    deep, flat = model(0, layers=5), model(1, layers=3)
    assert [site_in(flat, deep, f"layers.{i}.resid_post") for i in range(5)] == [
        f"layers.{i}.resid_post" for i in (0, 0, 1, 2, 2)
    ]
    assert site_in(deep, flat, "layers.1.mlp_out") == "layers.2.mlp_out"
    with pytest.raises(ins.ModelError, match=r"have 5 and 3 layers.*\n.*depth='relative'"):
        patch_map(deep, pairs(), source=flat)
    assert patch_map(deep, pairs(), source=flat, depth="relative").values.shape == (5, 5)


def test_models_that_share_no_tokens_or_width_are_refused():
    others = word_tokenizer([*NAMES, *LANDS])
    with pytest.raises(ins.InputError, match="different tokenizers"):
        check_comparable(model(), model(tokenizer=others))
    with pytest.raises(ins.ModelError, match="16 and 8 wide"):
        check_comparable(model(), model(width=8))
    with pytest.raises(ins.InputError, match="depth='deep': it can be same or relative"):
        check_comparable(model(), model(), depth="deep")
    with pytest.raises(ins.InputError, match="and no edit="):
        ins.sweep(model(), pairs(), edit=ins.ablate, source=model(1))


@given(seed=st.integers(0, 10**6))
def test_a_map_agrees_with_itself_whatever_its_units(seed):
    values = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(seed))
    found = compare_maps(grid(values), grid(values * 3 - 1), n=19)
    assert float(found) == pytest.approx(1.0, abs=1e-5)
    assert found.difference <= 0.1 + 1e-9  # a value on the edge of a bin may round to either side
    assert found.n_cells == 24


@pytest.mark.parametrize("shuffle", ["positions", "cells"])
def test_maps_of_columns_that_have_nothing_to_do_with_each_other_are_seldom_called_alike(shuffle):
    hits = 0
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        one, other = (torch.randn(2, 1, 7, generator=generator) for _ in range(2))
        smooth = torch.linspace(0, 1, 5)[None, :, None] if shuffle == "positions" else torch.ones(1, 5, 1)
        noise = torch.randn(2, 2, 5, 7, generator=generator) * (0.05 if shuffle == "positions" else 3.0)
        a, b = (grid(m * smooth + e) for m, e in zip((one, other), noise, strict=True))
        hits += compare_maps(a, b, shuffle=shuffle, n=39, seed=seed, level=0.5).p <= 0.05
    assert hits <= 21  # 10 expected


def test_bins_are_those_of_the_figures():
    values = torch.tensor([0.0, 0.49, 0.5, 0.549, 0.55, 0.949, 0.95, 1.0, float("nan")])
    made = binned(values)
    torch.testing.assert_close(made[:-1], torch.tensor([0.0, 0.0, 0.1, 0.1, 0.2, 0.9, 1.0, 1.0]))
    assert bool(made[-1].isnan())
    assert torch.equal(binned(torch.ones(3)), torch.zeros(3))


def test_maps_that_do_not_lie_on_each_other_are_refused():
    one = grid(torch.randn(2, 3, 4))
    with pytest.raises(ins.ShapeError, match="cannot be laid on each other"):
        compare_maps(one, grid(torch.randn(2, 3, 5)))
    with pytest.raises(ins.InputError, match="does not vary"):
        compare_maps(one, grid(torch.ones(2, 3, 4)))
    with pytest.raises(ins.InputError, match="no position 'subject'"):
        compare_maps(one, one, positions=["subject"])
    with pytest.raises(ins.InputError, match="it can be positions or cells"):
        compare_maps(one, one, shuffle="rows")
    with pytest.raises(ins.ShapeError, match="of other sites or positions"):
        restored(one, grid(torch.randn(2, 3, 5)))
    with pytest.raises(ins.InputError, match=r"needs a tasks\.Pairs"):
        patch_map(model(), ["ada is in Fola."])


def test_the_test_for_two_models_finds_a_copy_and_not_a_stranger():
    test = same_places(pairs())
    same, other = test(model(), model()), test(model(), model(1))
    assert float(same["r"]) == pytest.approx(1.0, abs=1e-4)
    assert same["restored"] == pytest.approx(1.0, abs=1e-3)
    assert other["restored"] < 0.7
