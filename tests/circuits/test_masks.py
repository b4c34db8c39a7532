"""Masks by layer: what stays visible is exactly what was asked for, on grouped heads, windows, padding and caches."""

import itertools
from pathlib import Path

import pytest
import torch

import inscape as ins
from inscape.circuits.masks import peek, reach, relation
from tests.common.small import gpt2
from tests.common.zoo import build

IDS = torch.tensor([[1, 5, 9, 13, 17, 21, 25], [1, 6, 10, 14, 18, 22, 26]])
ROTARY = ("llama", "mistral", "gemma2", "gemma3_text", "gpt_oss", "gpt_neox", "falcon_new", "phi", "qwen3_moe")


@pytest.mark.parametrize("family", ROTARY)
def test_tokens_that_see_only_themselves_are_tokens_alone(family: str) -> None:
    model = ins.open(build(family))
    edits = peek("layers.*", None, (), bos=False)
    together = ins.run(model, IDS, edits=edits).output.logits
    alone = ins.run(model, IDS.reshape(-1, 1), edits=edits).output.logits.reshape(together.shape)
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)
    if family != "gpt_oss":  # its sinks take a share of every row
        plain = ins.run(model, IDS.reshape(-1, 1)).output.logits.reshape(together.shape)
        torch.testing.assert_close(together, plain, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "gemma3_text", "bloom"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_viewers_share_their_attention_among_targets_self_and_first_token(family: str, side: str) -> None:
    model, site = ins.open(build(family)), "layers.0.attn.pattern"
    rows = [[1, 5, 9, 13, 17, 21, 25], [1, 6, 10, 14, 18]]
    plain = ins.run(model, rows, read=site, padding_side=side)
    got = ins.run(model, rows, read=site, padding_side=side, edits=peek(0, [3, -1], 2))
    for row, ids in enumerate(rows):
        columns = got.mask[row].nonzero()[:, 0].tolist()
        for q, column in enumerate(columns):
            want = plain[site][row, :, column].clone()
            if q in (3, len(ids) - 1):
                open_ = torch.zeros(want.shape[-1])
                open_[[columns[k] for k in {0, 2, q}]] = 1
                want = want * open_
                want = want / want.sum(-1, keepdim=True)
            torch.testing.assert_close(got[site][row, :, column], want, atol=1e-5, rtol=1e-4)


def test_a_window_that_hides_everything_else_leaves_nothing() -> None:
    model, site = ins.open(build("mistral")), "layers.0.attn.z"
    (edit,) = peek(0, -1, 1, self=False, bos=False)  # the window of 4 does not reach position 1 from the last of 7
    z = ins.run(model, IDS, read=site, edits=[edit])[site]
    assert float(z[:, -1].abs().max()) == 0.0
    assert float(z[:, -2].abs().max()) > 0.0


@pytest.mark.parametrize("family", ["gpt2", "gemma3_text"])
def test_cached_steps_see_what_one_long_forward_sees(family: str) -> None:
    model = ins.open(build(family))
    rows = [[3, 2, 4, 7, 5], [9, 8, 7]]
    nodes = relation("layers.*", [(0, 1), (1, 2), (2, 3)], torch.tensor([[0, 1, 0], [0, 0, 0], [0, 0, 0]]))
    edits = [*peek([0, 2], slice(3, None), [1]), *nodes]
    got = ins.generate(model, rows, edits=edits, read="layers.*.resid_post", max_new_tokens=5)
    sequences = [row + new for row, new in zip(rows, got.tokens.tolist(), strict=True)]
    full = ins.run(model, sequences, edits=edits, read="layers.*.resid_post", padding_side="left")
    for site in full:
        torch.testing.assert_close(got.trace[site][full.mask], full[site][full.mask], atol=2e-5, rtol=1e-4)


def test_nodes_see_along_links_and_everybody_else_sees_as_ever() -> None:
    model, site = gpt2(), "layers.0.attn.pattern"
    spans = [(1, 3), (3, 5), (5, 6)]
    chain = torch.tensor([[0, 1, 0], [0, 0, 1], [0, 0, 0]])
    plain = ins.run(model, IDS, read=site)[site]
    for hops, hidden in ((1, [(5, 1), (5, 2)]), (2, [])):
        got = ins.run(model, IDS, read=site, edits=relation("layers.0", spans, chain, hops))[site]
        want = plain.clone()
        for q, k in hidden:
            want[:, :, q, k] = 0
        torch.testing.assert_close(got, want / want.sum(-1, keepdim=True), atol=1e-6, rtol=1e-5)


def test_rows_have_their_own_graphs() -> None:
    model, site = gpt2(), "layers.1.attn.pattern"
    spans, links = [[(0, 2), (2, 4)], [(1, 2), (3, 6)]], torch.tensor([[[0, 1], [0, 0]], [[0, 0], [0, 0]]])
    got = ins.run(model, IDS, read=site, edits=relation(1, spans, links))[site]
    assert float(got[0, :, 2:4, 0:2].min()) > 0
    assert float(got[1, :, 3:6, 1].max()) == 0


def test_reach_counts_paths() -> None:
    g = torch.Generator().manual_seed(0)
    links = torch.rand(7, 7, generator=g) < 0.15
    for hops in (1, 2, 3, 9):
        slow = torch.zeros(7, 7, dtype=torch.bool)
        for start in range(7):
            seen = {start}
            for _ in range(hops):
                seen |= {b for a, b in itertools.product(seen, range(7)) if links[a, b] or links[b, a]}
            slow[start, list(seen)] = True
        assert torch.equal(reach(links, hops), slow)


def test_masks_survive_a_file(tmp_path: Path) -> None:
    model, path = gpt2(), tmp_path / "masks"
    edits = [*peek([0, 1], slice(2, None), ()), *relation(2, [(0, 2), (2, 4)], torch.zeros(2, 2))]
    ins.save_edits(path, edits)
    want = ins.run(model, IDS, edits=edits).output.logits
    assert torch.equal(ins.run(model, IDS, edits=ins.load_edits(path)).output.logits, want)
    assert not torch.equal(want, ins.run(model, IDS).output.logits)


WRONG = {
    "overlap": (lambda: relation(0, [(0, 2), (1, 3)], torch.zeros(2, 2)), "spans 0 and 1 of row 0 overlap"),
    "empty span": (lambda: relation(0, [(2, 2)], torch.zeros(1, 1)), "0 <= start < stop"),
    "no hop": (lambda: relation(0, [(0, 1)], torch.zeros(1, 1), 0), "at least 1"),
    "small graph": (lambda: relation(0, [(0, 1), (1, 2)], torch.zeros(1, 1)), "2 spans are given"),
    "no spans": (lambda: relation(0, [], torch.zeros(1, 1)), "no spans"),
    "own without only": (lambda: ins.attend("layers.0", "forbid", keys=1, own=True), "under 'only'"),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_masks_that_mean_nothing_are_refused(case: str) -> None:
    make, message = WRONG[case]
    with pytest.raises(ins.EditError, match=message):
        make()


def test_a_relation_of_other_rows_is_refused() -> None:
    with pytest.raises(ins.ShapeError, match="groups has 3 rows, the run 2"):
        ins.run(gpt2(), IDS, edits=relation(0, [[(0, 1)], [(0, 1)], [(0, 1)]], torch.zeros(1, 1)))
