"""Tracing a wrong answer: what is known on paper, and on a net whose errors are planted."""

import pytest
import torch

import inscape as ins
from inscape.circuits.direct import direct_logits
from inscape.engine.unembed import unembedding
from inscape.read.semantics import (
    binned_errors,
    coherence,
    commitment_layer,
    concepts_of,
    reading_directions,
    spurious_spans,
    support_matrix,
    trace_semantics,
    transplanted,
)
from inscape.tasks.senses import sense_items
from tests.common.small import gpt2, gpt2_module, hooks_left
from tests.common.zoo import build

ROWS = [[1, 5, 9, 13, 17, 21], [2, 6, 10]]
CONCEPTS = [[4, 7, 30], [7, 11]]


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3_text", "opt"])
def test_scores_are_what_lies_along_the_reading_direction(name: str) -> None:
    model = gpt2() if name == "gpt2" else ins.open(build(name))
    unembed, tokens = unembedding(model), torch.tensor([3, 9, 14])
    h = torch.randn(5, unembed.head.weight.shape[1], generator=torch.Generator().manual_seed(0))
    rows = reading_directions(model, tokens, unembed)
    centred = h - h.mean(-1, keepdim=True) if "LayerNorm" in type(unembed.norm).__name__ else h
    size = centred.square().mean(-1, keepdim=True).sqrt()
    with torch.no_grad():
        scores, zero = unembed(h)[:, tokens], unembed(torch.zeros_like(h))[:, tokens]
    torch.testing.assert_close(h @ rows.T / size, scores - zero, atol=1e-3, rtol=1e-3)


def test_support_is_what_one_run_a_cell_gives_and_taking_away_changes_the_output() -> None:
    model = gpt2()
    found = support_matrix(model, ROWS, CONCEPTS, [[20, 21], [22, 23]])
    unit = torch.nn.functional.normalize(reading_directions(model, torch.arange(64)), dim=-1)
    for row, ids in enumerate(ROWS):
        plain = ins.run(model, [ids], output="last").output.logits[0, -1]
        torch.testing.assert_close(found.logits[row], plain[found.targets[row]], atol=1e-4, rtol=1e-4)
        for layer in range(3):
            for j, token in enumerate(CONCEPTS[row]):
                edit = ins.project_out(ins.Direction(f"layers.{layer}.resid_post", unit[token], "u"), at=-1)
                cut = ins.run(model, [ids], edits=[edit], output="last").output.logits[0, -1]
                want = (plain - cut)[found.targets[row]]
                torch.testing.assert_close(found.values[row][layer, j], want, atol=2e-4, rtol=1e-3)
    assert min(float(v.abs().min()) for v in found.values) > 0
    assert found.control is not None
    assert not torch.equal(found.control[0], found.values[0])
    assert hooks_left(gpt2_module()) == 0


def test_a_concept_that_is_the_target_loses_its_own_score_at_the_last_layer() -> None:
    model = gpt2()
    found = support_matrix(model, ROWS, CONCEPTS, [[4], [7]], control="shrink")
    last = f"layers.{model.n_layers - 1}.resid_post"
    h = ins.run(model, ROWS, read=last, reduce="last")[last]
    zero = unembedding(model)(torch.zeros(1, h.shape[1]))[0]
    for row, token in enumerate((4, 7)):
        i = CONCEPTS[row].index(token)  # nothing but the constant is left of the score
        left = found.logits[row][0] - found.values[row][-1, i, 0]
        assert float(left - zero[token]) == pytest.approx(0.0, abs=1e-3)
    layer, concept = found.strongest(0)
    assert int(found.concepts[0][concept]) != 4
    assert found.values[0][layer, concept, 0] == found.values[0][:, 1:, 0].max()


def test_the_controls_change_the_state_by_as_much() -> None:
    from inscape.read.semantics.support import along_another, shrunk, taken_away

    g = torch.Generator().manual_seed(0)
    x, u, r = torch.randn(2, 3, 16, generator=g), torch.randn(16, generator=g), torch.randn(16, generator=g)
    u, r = u / u.norm(), r / r.norm()
    cut, moved, short = (e.fn(x) for e in (taken_away("a", u), along_another("a", u, r), shrunk("a", u)))
    torch.testing.assert_close((cut - x).norm(dim=-1), (moved - x).norm(dim=-1))
    torch.testing.assert_close(cut.norm(dim=-1), short.norm(dim=-1))
    torch.testing.assert_close(torch.cosine_similarity(short, x, dim=-1), torch.ones(2, 3))
    assert float((cut @ u).abs().max()) < 1e-5


def test_coherence_is_the_share_of_what_supports_that_is_the_contexts() -> None:
    found = support_matrix(gpt2(), ROWS, CONCEPTS, [[4], [50]])
    value = [v[..., 0].double() for v in found.values]
    got = coherence(found, [[4, 7], [7]], [[30], [11]])
    up, down = value[0][:, 1].clamp(min=0).sum(), value[0][:, 2].abs().sum()  # 4 is the answer and left out
    assert float(got[0]) == pytest.approx(float(up / (value[0][:, 1].abs().sum() + down)))
    assert bool(((got >= 0) & (got <= 1)).all())
    assert float(coherence(found, [[], []], [[7, 30], [7, 11]]).max()) == 0.0
    with pytest.raises(ins.InputError, match="stand on both sides"):
        coherence(found, [[7], [7]], [[7], [11]])
    with pytest.raises(ins.InputError, match=r"concepts \[60\] of row 0 were not measured"):
        coherence(found, [[60], [7]], [[7], [11]])
    with pytest.raises(ins.ShapeError, match="2 rows were measured"):
        coherence(found, [[7]], [[4]])


def test_bins_know_a_slope_from_none() -> None:
    g = torch.Generator().manual_seed(0)
    score = torch.rand(200, generator=g)
    real = binned_errors(score, torch.rand(200, generator=g) > score, n=200)
    assert real.rho < -0.8
    assert real.p < 0.02
    null = [binned_errors(score, torch.rand(200, generator=g) > 0.5, n=100, seed=s) for s in range(20)]
    assert sum(b.p <= 0.05 for b in null) <= 4
    assert abs(sum(b.rho for b in null) / 20) < 0.3
    assert abs(float(real.null.mean())) < 0.15
    with pytest.raises(ins.InputError, match="cannot go into 10 bins"):
        binned_errors(score[:15], torch.ones(15) > 0)


def test_the_last_layers_state_always_decides_and_the_lens_ends_at_the_models_margin() -> None:
    model, other = gpt2(), [[3, 8, 12, 16], [1, 7]]
    logits = [ins.run(model, rows, output="last").output.logits[:, -1] for rows in (ROWS, other)]
    wrong, right = logits[0].argmax(-1), logits[0].topk(2).indices[:, 1]
    causal = commitment_layer(model, ROWS, wrong, right, how="causal", corrected=other)
    lens = commitment_layer(model, ROWS, wrong, right)
    margin = (logits[0].gather(1, wrong[:, None]) - logits[0].gather(1, right[:, None]))[:, 0]
    torch.testing.assert_close(causal.margin[:, -1], margin, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(lens.margin[:, -1], margin, atol=1e-3, rtol=1e-3)
    for found in (causal, lens):
        for i in range(2):
            at = int(found.layer[i])
            assert bool((found.margin[i, at:] > 0).all())
            assert at == 0 or float(found.margin[i, at - 1]) <= 0
    turned = commitment_layer(model, ROWS, right, wrong)
    assert turned.layer.tolist() == [-1, -1]  # what does not lead at the end is nowhere decided


def test_contexts_are_exchanged_only_where_positions_correspond() -> None:
    model, w, r = gpt2(), torch.tensor([3, 4]), torch.tensor([5, 6])
    same, _ = transplanted(model, ROWS, ROWS, w, r, at=slice(0, -1))
    plain = ins.run(model, ROWS, output="last").output.logits[:, -1]
    want = (plain.gather(1, w[:, None]) - plain.gather(1, r[:, None])).expand(-1, 3)
    torch.testing.assert_close(same, want, atol=1e-4, rtol=1e-3)
    other = [[1, 5, 8, 13, 17, 21], [2, 7, 10]]  # the words at 2 and at 1 are others
    words, _ = transplanted(model, ROWS, other, w, r, at=[(2,), (1,)])
    for i, at in ((0, 2), (1, 1)):
        alone, _ = transplanted(model, ROWS[i : i + 1], other[i : i + 1], w[i : i + 1], r[i : i + 1], at=[(at,)])
        torch.testing.assert_close(words[i : i + 1], alone, atol=1e-4, rtol=1e-3)
    failing, _ = transplanted(model, other, ROWS, w, r, at=-1)  # the same states meet, whichever run they are put in
    context, _ = transplanted(model, ROWS, other, w, r, at=slice(0, -1))
    torch.testing.assert_close(context, failing, atol=1e-4, rtol=1e-3)
    with pytest.raises(ins.ShapeError, match="2 items and 1 places"):
        transplanted(model, ROWS, other, w, r, at=[(2,)])
    with pytest.raises(ins.ShapeError, match="item 1 have 4 and 3 tokens"):
        transplanted(model, ROWS, [ROWS[0], [1, 2, 3, 4]], w, r, at=slice(0, -1))
    with pytest.raises(ins.InputError, match="give corrected="):
        commitment_layer(model, ROWS, w, r, how="causal")
    with pytest.raises(ins.InputError, match="'lens' or 'causal'"):
        commitment_layer(model, ROWS, w, r, how="guess")
    with pytest.raises(ins.ShapeError, match="2 prompts, 1 wrong"):
        commitment_layer(model, ROWS, [3], r)


def test_planted_errors_hang_on_the_word_and_are_mended_by_the_context_before_they_are_decided() -> None:
    model = ins.open("toy-senses")
    items = sense_items(60, rare=1.0, seed=4)
    id_of = model.tokenizer.convert_tokens_to_ids
    wrong, right = (torch.tensor([id_of(getattr(i, n)) for i in items]) for n in ("wrong", "answer"))
    said = ins.run(model, [i.prompt for i in items], output="last").output.logits[:, -1].argmax(-1)
    errors = (said == wrong).nonzero()[:, 0].tolist()[:16]
    assert len(errors) == 16
    prompts, fixed = ([getattr(items[i], n) for i in errors] for n in ("prompt", "corrected"))
    mended, _ = transplanted(model, prompts, fixed, wrong[errors], right[errors], at=slice(0, -1))
    assert float((mended[:, 0] < 0).float().mean()) > 0.8
    assert float((mended[:, -1] < 0).float().mean()) == 0.0  # the last state is not touched
    one = spurious_spans(model, prompts[0], words=(1,))
    assert one[0].text == items[errors[0]].word
    assert one[0].drop > 0.3 > abs(one[0].other)


def test_a_trace_shows_the_answer_its_rival_and_what_carries_them() -> None:
    model = ins.open("toy-senses")
    item = sense_items(1, rare=1.0, weak=0.0, seed=1)[0]
    trace = trace_semantics(model, item.prompt, item.neutral, concepts=[item.answer, item.wrong], k=4)
    assert (trace.answer, trace.rival) == (item.answer, item.wrong)
    assert trace.commitment is not None
    assert trace.support.shape == trace.control.shape == (4, len(trace.concepts), len(trace.concepts))
    assert trace.drift is not None
    assert bool((trace.drift <= 1.0001).all())
    assert int(trace.concepts.ids[0]) in trace.fades  # the answer goes with its context
    strongest = trace.edges()[0]
    assert strongest[1] != strongest[2]
    graph = trace.to_networkx()
    assert graph.number_of_edges() == len(trace.edges())
    alone = trace_semantics(model, item.prompt, k=2)
    with pytest.raises(ins.InputError, match="without a contrast prompt"):
        _ = alone.fades


def test_spans_without_a_mask_are_deleted_and_with_one_replaced() -> None:
    model = ins.open("toy-senses")
    prompt = sense_items(1, seed=2)[0].prompt
    n = len(prompt.split())
    deleted, masked = spurious_spans(model, prompt, words=(3,)), spurious_spans(
        model, prompt, words=(3,), how="mask", mask="the"
    )  # fmt: skip
    assert len(deleted) == len(masked) == n - 3
    assert deleted[0].drop >= deleted[-1].drop
    assert all(s.stop - s.start == 3 and s.text == " ".join(prompt.split()[s.start : s.stop]) for s in deleted)
    with pytest.raises(ins.InputError, match=r"no stretch of \(99,\)"):
        spurious_spans(model, prompt, words=(99,))
    with pytest.raises(ins.InputError, match="'delete' or 'mask'"):
        spurious_spans(model, prompt, how="swap")


def test_attention_and_mlps_add_up_to_the_whole() -> None:
    found = direct_logits(gpt2(), ROWS, [4, 5], [6, 7])
    routes = found.routes()
    torch.testing.assert_close(torch.stack(list(routes.values())).sum(0), found.total)
    heads = sum(v for n, v in found.parts.items() if ".head." in n or ".attn" in n)
    torch.testing.assert_close(routes["attention"], torch.as_tensor(heads))


def test_words_become_tokens_or_are_refused() -> None:
    model = ins.open("toy-senses")
    found = concepts_of(model, ["fish", "instrument", 9])
    assert found.words[:2] == ("fish", "instrument")
    assert len(found) == 3
    with pytest.raises(ins.TokenError, match="begin with the same token"):
        concepts_of(model, ["fish", " fish"])
    with pytest.raises(ins.TokenError, match="not known to this tokenizer"):
        concepts_of(model, ["zebra"])
    with pytest.raises(ins.TokenError, match="give the token's id"):
        concepts_of(gpt2(), ["fish"])


def test_what_support_cannot_take_is_refused() -> None:
    with pytest.raises(ins.ShapeError, match="2 inputs, 1 lists of concepts"):
        support_matrix(gpt2(), ROWS, [[3]], [[4], [5]])
    with pytest.raises(ins.InputError, match="row 1 has no concepts"):
        support_matrix(gpt2(), ROWS, [[3], []], [[4], [5]])
    with pytest.raises(ins.InputError, match="'random', 'shrink' or None"):
        support_matrix(gpt2(), ROWS, CONCEPTS, [[4], [5]], control="mean")
