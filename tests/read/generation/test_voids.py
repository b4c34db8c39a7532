"""Voids against a slow loop over tokens, and skipping them against the definition, block by block."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.core.edits.voids import void_edit
from inscape.engine.cells import Cell, run_cells
from inscape.read.generation.void_nulls import fixed_voids, magnitude_matched_voids, random_voids
from inscape.read.generation.void_stream import VoidStream
from inscape.read.generation.voids import SkipCost, VoidLog, void_map, voids_of_norms
from tests.common.small import gpt2, gpt2_module, hooks_left
from tests.common.zoo import DECODER_ZOO, build, inputs_for

ROWS = [[1, 2, 3, 4, 5], [9, 8, 7]]
SITES = ["layers.0.resid_pre", "layers.*.resid_post"]


def slow(norms, alpha):
    """One token after the other, as the source says it."""
    changes, void = [], []
    for before, after in itertools.pairwise(norms):
        change = after - before
        threshold = alpha * (max(changes) - min(changes)) if changes else 0.0
        void.append(change < threshold)
        changes.append(change)
    return void


@given(seed=st.integers(0, 2**31), layers=st.integers(1, 8), alpha=st.floats(0, 2))
def test_voids_are_those_of_the_loop_over_tokens(seed, layers, alpha):
    norms = torch.rand(layers + 1, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    void, change, threshold = voids_of_norms(norms, alpha)
    assert torch.equal(void, torch.tensor([slow(c.tolist(), alpha) for c in norms.T]).T)
    assert torch.equal(change, norms.diff(dim=0))
    assert bool((threshold[:2] == 0).all())


def test_a_known_token():
    # D = 1, -1, 2, 3: thresholds 0, 0, 0.8 * (1 + 1), 0.8 * (2 + 1)
    void, _, threshold = voids_of_norms(torch.tensor([1.0, 2.0, 1.0, 3.0, 6.0])[:, None], 0.8)
    assert threshold[:, 0].tolist() == pytest.approx([0.0, 0.0, 1.6, 2.4])
    assert void[:, 0].tolist() == [False, True, False, False]


@given(seed=st.integers(0, 2**31))
def test_more_are_void_as_alpha_grows_and_at_zero_those_that_shrink(seed):
    norms = torch.rand(7, 9, generator=torch.Generator().manual_seed(seed))
    maps = [voids_of_norms(norms, alpha)[0] for alpha in (0.0, 0.4, 0.8, 1.5)]
    assert torch.equal(maps[0], norms.diff(dim=0) < 0)
    for less, more in itertools.pairwise(maps):
        assert not bool((less & ~more).any())


@pytest.mark.parametrize("mode", ["trace", "true"])
def test_the_map_of_a_token_is_its_own_in_any_batch_and_on_either_padding_side(mode):
    model = gpt2()
    alone = [void_map(model, [row], mode=mode) for row in ROWS]
    for side in ("left", "right"):
        made = void_map(model, ROWS, mode=mode, padding_side=side)
        assert made.mask.sum(1).tolist() == [5, 3]
        for i, one in enumerate(alone):
            assert torch.equal(made.void[:, i][:, made.mask[i]], one.void[:, 0])
            torch.testing.assert_close(made.norm[:, i][:, made.mask[i]], one.norm[:, 0], atol=1e-4, rtol=1e-4)
    assert hooks_left(model.module) == 0


@pytest.mark.parametrize("name", list(DECODER_ZOO))
def test_every_decoder_gives_a_map_and_it_is_that_of_its_lengths(name):
    model = ins.open(build(name))
    made = void_map(model, inputs_for(name))
    trace = ins.run(model, inputs_for(name), read=SITES)
    norms = torch.stack([trace[s].float().norm(dim=-1) for s in (SITES[0], *(f"{n}.resid_post" for n in made.layers))])
    torch.testing.assert_close(made.norm, norms, atol=1e-4, rtol=1e-4)
    ends = ins.run(model, inputs_for(name), read=["layers.*.resid_pre", SITES[1]])  # RWKV halves it between blocks
    pairs = [(ends[f"{n}.resid_pre"], ends[f"{n}.resid_post"]) for n in made.layers]
    sizes = torch.stack([(b - a).float().norm(dim=-1) for a, b in pairs])
    torch.testing.assert_close(made.size, sizes, atol=1e-4, rtol=1e-3)
    assert made.void.shape == (model.n_layers, 2, 7)


def test_carrying_gives_the_output_of_each_tokens_last_active_block():
    model = ins.open(gpt2_module(5))
    found = void_map(model, ROWS, 0.8, padding_side="left")
    trace = ins.run(model, ROWS, read=SITES, padding_side="left")
    states = torch.stack([trace[SITES[0]], *(trace[f"layers.{i}.resid_post"] for i in range(5))])
    edited = ins.run(model, ROWS, read=SITES, edits=[ins.skip_voids(0.8)], padding_side="left")
    active = found.active.long()
    last = (active * torch.arange(1, 6)[:, None, None]).amax(0)
    assert len(set(last[found.mask].tolist())) > 1
    wanted = states.gather(0, last[None, ..., None].expand(1, *last.shape, states.shape[-1]))[0]
    assert torch.equal(edited["layers.4.resid_post"][found.mask], wanted[found.mask])
    for i in range(4):
        assert torch.equal(edited[f"layers.{i}.resid_post"], trace[f"layers.{i}.resid_post"])
    assert found.cost.saved == 0


def test_true_skipping_is_skipping_by_the_map_that_it_makes():
    model = ins.open(gpt2_module(5))
    found = void_map(model, ROWS, 0.8, "true", padding_side="left")
    assert bool(found.void.any())
    truly = ins.run(model, ROWS, edits=[ins.skip_voids(0.8, "true")], padding_side="left").output.logits
    masked = ins.run(model, ROWS, edits=ins.skip_layers(found.void), padding_side="left").output.logits
    torch.testing.assert_close(truly[found.mask], masked[found.mask])
    plain = ins.run(model, ROWS, padding_side="left").output.logits
    assert not torch.allclose(plain[found.mask], truly[found.mask])


def test_alpha_zero_skips_what_shrinks_the_stream_and_nothing_else():
    model = gpt2()
    found = void_map(model, [ROWS[0]], 0.0)
    assert torch.equal(found.void, found.change < 0)


@pytest.mark.parametrize("mode", ["carry", "true"])
@pytest.mark.parametrize("phases", [("pp", "rg"), ("pp",), ("rg",)])
def test_skipping_in_cached_generation_is_skipping_in_the_uncached_forward(mode, phases):
    model, edit = ins.open(gpt2_module(5)), ins.skip_voids(0.8, mode, phases)
    got = ins.generate(model, ROWS, edits=[edit], max_new_tokens=6)
    without = ins.generate(model, ROWS, edits=[edit], max_new_tokens=6, use_cache=False)
    assert got.tokens.tolist() == without.tokens.tolist()
    if phases == ("pp", "rg"):
        sequences = [list(row) for row in ROWS]
        for _ in range(6):
            logits = ins.run(model, sequences, edits=[edit], output="last", padding_side="left").output.logits
            for row, token in zip(sequences, logits[:, -1].argmax(-1).tolist(), strict=True):
                row.append(token)
        assert [row[-6:] for row in sequences] == got.tokens.tolist()


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("name", ["gpt2", "gemma3_text", "llama", "mamba", "falcon_old", "jamba"])
def test_a_stream_over_generation_has_the_map_of_the_finished_text(name, use_cache):
    model = ins.open(build(name))
    ids = inputs_for(name)["input_ids"]
    plain = ins.generate(model, ids, max_new_tokens=7, min_new_tokens=7)
    voids = VoidStream(0.8)
    out = ins.generate(model, ids, watch=voids, max_new_tokens=7, min_new_tokens=7, use_cache=use_cache)
    assert out.tokens.tolist() == plain.tokens.tolist()
    whole = void_map(model, torch.cat([ids, out.tokens[:, :-1]], 1))
    made = voids.map
    torch.testing.assert_close(made.norm, whole.norm, atol=2e-4, rtol=2e-4)
    sure = (whole.change - whole.threshold).abs() > 1e-3
    assert torch.equal(made.void[sure], whole.void[sure])
    assert made.prompt == ids.shape[1]
    assert [p.n_tokens for p in made.summary] == [2 * ids.shape[1], 2 * 6]
    assert hooks_left(model.module) == 0


def test_padded_prompts_and_rows_that_ended_do_not_count():
    model, voids = gpt2(), VoidStream()
    eos = int(ins.generate(model, ROWS, max_new_tokens=8).tokens[0, 2])
    out = ins.generate(model, ROWS, watch=voids, max_new_tokens=8, eos_token_id=eos)
    model.module.generation_config.eos_token_id = eos
    try:
        out = ins.generate(model, ROWS, watch=voids, max_new_tokens=8)
    finally:
        model.module.generation_config.eos_token_id = None
    assert out.trace.mask is not None
    assert torch.equal(voids.map.mask, out.trace.mask[:, : voids.map.mask.shape[1]])
    assert voids.map.mask[1, :2].tolist() == [False, False]


def test_a_log_holds_what_was_skipped_while_generating():
    model, log = ins.open(gpt2_module(5)), VoidLog(0.8, "true")
    out = ins.generate(model, ROWS, edits=[ins.skip_voids(0.8, "true", log=log)], max_new_tokens=6)
    made = log.map(mask=out.trace.mask)
    sequences = [row + new[:-1] for row, new in zip(ROWS, out.tokens.tolist(), strict=True)]
    whole = void_map(model, sequences, 0.8, "true", padding_side="left")
    assert torch.equal(made.mask, whole.mask)
    torch.testing.assert_close(made.norm[:, whole.mask], whole.norm[:, whole.mask], atol=1e-4, rtol=1e-4)
    assert made.prompt == 5
    assert made.used("response") <= 1
    made = log.map()
    assert made.void.shape == (5, 2, 10)


def test_under_beams_the_chosen_rows_are_watched():
    model, voids = gpt2(), VoidStream()
    out = ins.generate(model, ROWS, watch=voids, max_new_tokens=5, num_beams=3)
    sequences = [row + new[:-1] for row, new in zip(ROWS, out.tokens.tolist(), strict=True)]
    whole = void_map(model, sequences, padding_side="left")
    torch.testing.assert_close(voids.map.norm[:, whole.mask], whole.norm[:, whole.mask], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("way", ["packed", "rows", "batched", "one by one"])
@pytest.mark.parametrize("mode", ["carry", "true"])
def test_a_cell_with_the_policy_is_a_run_of_its_own(way, mode):
    model, edit = ins.open(gpt2_module(5)), ins.skip_voids(0.8, mode)
    cells = [Cell((edit,), row=0), Cell((ins.scale("layers.1.mlp_out", 0.5),), row=1), Cell((edit,), row=1)]
    made = run_cells(model, ROWS, cells, read="layers.4.resid_post", reduce="last", way=way)
    for cell, value in zip(cells, made["layers.4.resid_post"], strict=True):
        alone = ins.run(model, [ROWS[cell.row]], read="layers.4.resid_post", edits=list(cell.edits), reduce="last")
        torch.testing.assert_close(value, alone["layers.4.resid_post"][0], atol=1e-4, rtol=1e-4)


def test_a_policy_on_part_of_the_stack_judges_by_that_part():
    model = ins.open(gpt2_module(5))
    made = void_map(model, ROWS, 0.8, layers="layers.[2-4]", padding_side="left")
    whole = void_map(model, ROWS, 0.8, padding_side="left")
    assert made.layers == ("layers.2", "layers.3", "layers.4")
    assert torch.equal(made.change, whole.change[2:])
    assert bool((made.threshold[:2] == 0).all())


def test_two_policies_in_one_run_do_not_meet():
    model = ins.open(gpt2_module(5))
    first, second = ins.skip_voids(0.3, "true", "pp"), ins.skip_voids(1.2, "carry", "rg")
    one = ins.run(model, ROWS, edits=[first]).output.logits
    log = VoidLog(5.0, "trace")
    both = ins.run(model, ROWS, edits=[void_edit(5.0, "trace", "layers.*", log), first]).output.logits
    assert torch.equal(one, both)
    assert not torch.equal(log.map().threshold[2:], torch.zeros(3, 2, 5))
    there = ins.generate(model, ROWS, edits=[first, second], max_new_tokens=4).tokens
    assert torch.equal(there, ins.generate(model, ROWS, edits=[second, first], max_new_tokens=4).tokens)


def test_masks_of_any_shape_are_skips_at_their_places():
    model = gpt2()
    some = torch.tensor([False, True, False])
    wanted = ins.run(model, ROWS, edits=[ins.skip("layers.1")]).output.logits
    assert torch.equal(ins.run(model, ROWS, edits=ins.skip_layers(some)).output.logits, wanted)
    placed = torch.zeros(3, 5, dtype=torch.bool)
    placed[1, 2] = True
    wanted = ins.run(model, [ROWS[0]], edits=[ins.skip("layers.1", at=2)]).output.logits
    assert torch.equal(ins.run(model, [ROWS[0]], edits=ins.skip_layers(placed)).output.logits, wanted)
    assert ins.skip_layers(torch.zeros(3, 2, 5, dtype=torch.bool)) == []
    wide = placed[:, None].repeat(1, 2, 1)
    wanted = ins.run(model, ROWS, edits=[ins.skip("layers.1", at=placed[1])]).output.logits
    assert torch.equal(ins.run(model, ROWS, edits=ins.skip_layers(wide)).output.logits, wanted)


def test_a_policy_and_a_mask_are_written_and_read(tmp_path):
    model, mask = gpt2(), torch.rand(3, 2, 5, generator=torch.Generator().manual_seed(1)) > 0.5
    edits = [ins.skip_voids(0.5, "true", "pp"), *ins.skip_layers(mask)]
    ins.save_edits(tmp_path / "voids.safetensors", edits)
    again = ins.load_edits(tmp_path / "voids.safetensors")
    want, got = (ins.run(model, ROWS, edits=e).output.logits for e in (edits, again))
    assert torch.equal(want, got)


@given(seed=st.integers(0, 2**31), share=st.floats(0.05, 0.95))
def test_random_and_matched_voids_are_as_many_for_every_token(seed, share):
    generator = torch.Generator().manual_seed(seed)
    like = torch.rand(6, 3, 4, generator=generator) < share
    size = torch.rand(6, 3, 4, generator=generator)
    for made in (
        random_voids(like, seed=seed),
        random_voids(like, keep=0, seed=seed),
        magnitude_matched_voids(like, size),
    ):
        assert torch.equal(made.sum(0), like.sum(0))
    assert torch.equal(random_voids(like, keep=(0, 5), seed=1)[[0, 5]], like[[0, 5]])
    half = like & (like.sum(0) <= 3)
    assert not bool((magnitude_matched_voids(half, size) & half).any())


def test_matched_voids_take_the_layer_of_the_nearest_size():
    like = torch.tensor([[False], [True], [False], [False]])
    assert magnitude_matched_voids(like, torch.tensor([[9.0], [1.0], [1.2], [0.1]]))[:, 0].tolist() == [
        False, False, True, False,
    ]  # fmt: skip


def test_fixed_voids_are_the_commonest_layers_for_all_tokens():
    like = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 0], [1, 0, 1, 1], [0, 0, 1, 0]], dtype=torch.bool)
    assert fixed_voids(like).tolist() == [[False] * 4, [True] * 4, [True] * 4, [False] * 4]


def test_the_price_counts_what_ran():
    void = torch.tensor([[0, 0], [1, 0], [1, 1]], dtype=torch.bool)[:, None]
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert SkipCost.of(void, mask, "carry") == SkipCost(6, 3, 3, 0)
    assert SkipCost.of(void, mask, "true") == SkipCost(6, 3, 3, 0)


def test_what_cannot_be_done_says_so():
    model = gpt2()
    for call in (lambda: void_map(model, ROWS, -0.1), lambda: ins.skip_voids(-1.0)):
        with pytest.raises(ins.EditError, match=r"alpha=-.*share of a range"):
            call()
    with pytest.raises(ins.EditError, match="mode='early': voids are skipped by 'carry' or 'true'"):
        ins.skip_voids(mode="early")
    with pytest.raises(ins.EditError, match="choose of 'pp', the prompt"):
        ins.skip_voids(phases=("prompt",))
    with pytest.raises(ins.InputError, match="a map is made by 'trace' or by 'true'"):
        void_map(model, ROWS, mode="carry")
    with pytest.raises(ins.ModelError, match="no residual stream"):
        void_map(ins.open(torch.nn.Linear(3, 3)), torch.zeros(1, 3))
    with pytest.raises(ins.InputError, match="nothing was watched yet"):
        _ = VoidStream().map
    with pytest.raises(ins.InputError, match="no layer was judged yet"):
        VoidLog().map()
    with pytest.raises(ins.InputError, match="phase='pp': it is 'prompt' or 'response'"):
        void_map(model, ROWS).usage("pp")
    with pytest.raises(ins.ShapeError, match="2 names for a mask of 3 layers"):
        ins.skip_layers(torch.ones(3).bool(), ["layers.0", "layers.1"])
    with pytest.raises(ins.ShapeError, match="it is"):
        ins.skip_layers(torch.ones(3, 1, 1, 1).bool())
    with pytest.raises(ins.InputError, match="sizes of updates are unknown"):
        magnitude_matched_voids(torch.ones(2, 3).bool(), torch.full((2, 3), float("nan")))
    with pytest.raises(ins.ShapeError, match="sizes of shape"):
        magnitude_matched_voids(torch.ones(2, 3).bool(), torch.zeros(2, 4))
    with pytest.raises(ins.InputError, match=r"keep=\[7\]: there are 2 layers"):
        random_voids(torch.ones(2, 3).bool(), keep=7)
    with pytest.raises(ins.InputError, match="no token is real"):
        fixed_voids(torch.ones(2, 3).bool(), torch.zeros(3).bool())
    with pytest.raises(ins.InputError, match="alpha=-1"):
        voids_of_norms(torch.rand(3, 2), -1.0)
    with pytest.raises(ins.ShapeError, match="one a layer"):
        voids_of_norms(torch.rand(1, 2))
