"""Ranks of given tokens while a model generates: equal to the obvious loop, with edits, rows that end, and images."""

import copy

import pytest
import torch

import inscape as ins
from inscape.engine.unembed import unembedding
from inscape.read.lenses.token_ranks import token_rank_trace
from tests.common.small import gpt2, gpt2_module, hooks_left
from tests.common.zoo import build, inputs_for

ROWS = [[1, 2, 3, 4, 5], [9, 8, 7]]
SETS = {"a": [[3, 7], [11]], "b": [20, 21]}


def obvious(model: "ins.Model", prompt: list[int], new: list[int], ids: list[int], edits: list) -> tuple:
    """Ranks and log probabilities [layer, step, k], a forward a step and the whole vocabulary sorted."""
    head, ranks, logs = unembedding(model), [], []
    names = [f"layers.{i}.resid_post" for i in range(3)]
    for t in range(len(new)):
        trace = ins.run(model, [prompt + new[:t]], read=names, edits=edits)
        scores = head(torch.stack([trace[n][0, -1] for n in names]))
        logs.append(scores.log_softmax(-1)[:, ids])
        ranks.append((scores[:, None] > scores[:, ids, None]).sum(-1) + 1)
    return torch.stack(ranks, 1), torch.stack(logs, 1)


@pytest.mark.parametrize("edited", [False, True])
def test_it_is_the_obvious_loop_with_padding_and_edits(edited):
    model = gpt2()
    vector = torch.randn(32, generator=torch.Generator().manual_seed(0))
    edits = [ins.add(ins.Direction("layers.1.resid_post", vector), 2.0)] if edited else []
    got = token_rank_trace(model, ROWS, SETS, edits=edits, max_new_tokens=5)
    assert got.layers == tuple(f"layers.{i}.resid_post" for i in range(3))
    assert got.tokens.tolist() == ins.generate(model, ROWS, edits=edits, max_new_tokens=5).tokens.tolist()
    for row, prompt in enumerate(ROWS):
        for name, ids in (("a", SETS["a"][row]), ("b", SETS["b"])):
            rank, log = obvious(model, prompt, got.tokens[row].tolist(), ids, edits)
            torch.testing.assert_close(got.ranks[name][:, row, :, : len(ids)], rank.float())
            torch.testing.assert_close(got.log_probs[name][:, row, :, : len(ids)], log, rtol=1e-3, atol=1e-3)
    assert bool(got.ranks["a"][:, 1, :, 1].isnan().all())
    assert hooks_left(model.module) == 0


def test_what_is_said_next_has_rank_one_at_the_last_layer():
    model = gpt2()
    said = ins.generate(model, ROWS, max_new_tokens=4).tokens
    got = token_rank_trace(model, ROWS, {"said": said.tolist()}, max_new_tokens=4)
    assert [float(got.ranks["said"][-1, r, t, t]) for r in (0, 1) for t in range(4)] == [1.0] * 8
    assert got.n_vocab == 64
    assert got.chance_rank == 32.5


def test_the_control_ranks_the_next_row_s_tokens_in_the_same_cells():
    model = gpt2()
    got = token_rank_trace(model, ROWS, {"a": [[3, 7], [11, 7]]}, max_new_tokens=3)
    assert got.control is not None
    again = token_rank_trace(model, ROWS, {"a": [[11], [3]]}, max_new_tokens=3, control=None)
    assert again.control is None
    torch.testing.assert_close(got.control["a"], again.ranks["a"])  # 7 is in both rows' own sets, so it is left out
    assert token_rank_trace(model, ROWS, {"b": [20]}, max_new_tokens=2).control is None
    assert token_rank_trace(model, ROWS[:1], {"b": [20]}, max_new_tokens=2).control is None


def test_means_leave_out_what_is_not_there():
    got = token_rank_trace(gpt2(), ROWS, SETS, max_new_tokens=3)
    a = got.ranks["a"]
    flat = torch.cat([a[:, 0].flatten(1), a[:, 1, :, 0]], 1)
    torch.testing.assert_close(got.by_layer("a"), flat.mean(1))
    torch.testing.assert_close(got.by_step("a", 1)[0], a[1, 0].mean(-1))
    with pytest.raises(ins.InputError, match="no set 'c'; there are 'a', 'b'"):
        got.by_layer("c")
    with pytest.raises(ins.InputError, match="no control of set 'b'"):
        got.by_layer("b", control=True)


def test_steps_behind_a_row_s_end_are_nan():
    module = copy.deepcopy(gpt2_module())
    plain = ins.generate(ins.open(module), ROWS, max_new_tokens=6).tokens
    module.generation_config.eos_token_id = int(plain[1, 2])
    got = token_rank_trace(ins.open(module), ROWS, {"b": [20, 21]}, max_new_tokens=6)
    ended = int((plain[1] == plain[1, 2]).nonzero()[0])
    assert got.mask[1].tolist() == [t <= ended for t in range(got.mask.shape[1])]
    assert torch.equal(got.ranks["b"][0, 1, :, 0].isnan(), ~got.mask[1])


def test_returned_sequences_share_their_prompt_s_tokens():
    got = token_rank_trace(gpt2(), ROWS, SETS, max_new_tokens=3, num_beams=2, num_return_sequences=2)
    assert got.ranks["a"].shape == (3, 4, 3, 2)
    assert got.ranks["a"][:, 2:, :, 1].isnan().all()
    assert not got.ranks["a"][:, :2].isnan().any()


@pytest.mark.parametrize("name", ["llava", "gemma3_vlm", "qwen2_5_vl"])
def test_vision_language_models_are_traced_over_their_text(name):
    model = ins.open(build(name))
    options = {"eos_token_id": None, "pad_token_id": 1, "max_new_tokens": 3}
    said = ins.generate(model, inputs_for(name), **options).tokens
    got = token_rank_trace(model, inputs_for(name), {"said": said.tolist()}, **options)
    assert got.layers == tuple(f"{b.name}.resid_post" for b in model.blocks)
    assert [float(got.ranks["said"][-1, r, t, t]) for r in (0, 1) for t in range(3)] == [1.0] * 6


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"tokens": {}}, ins.InputError, "a mapping from names to sets of ids, one set at least"),
        ({"tokens": [1, 2]}, ins.InputError, "a mapping from names"),
        ({"tokens": {"a": [[1], [2], [3]]}}, ins.InputError, "'a' has 3 rows, the inputs have 2"),
        ({"tokens": {"a": [[], []]}}, ins.InputError, "'a' is empty in every row"),
        ({"tokens": {"a": [64]}}, ins.TokenError, "'a' has token 64; ids go from 0 to 63"),
        ({"control": "random"}, ins.InputError, "'random' is none of this trace"),
    ],
)
def test_sets_that_cannot_be_ranked_are_refused(asked, error, says):
    with pytest.raises(error, match=says):
        token_rank_trace(gpt2(), **({"inputs": ROWS, "tokens": SETS} | asked))
