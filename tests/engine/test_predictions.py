"""Predictions compared: one forward with what follows gives what a step by step generation gives, whatever the edit."""

import pytest
import torch

import inscape as ins
from inscape.engine.predictions import (
    Predictions,
    mean_by,
    measured_sequences,
    next_token_shift,
    sequences,
    short,
    until_end,
)
from tests.common.small import direction, gpt2
from tests.common.zoo import build

ROWS = [[1, 2, 3, 4, 5], [9, 8, 7], [6, 6, 6, 1]]
D = direction()


@pytest.mark.parametrize(
    "edit",
    [
        ins.add(D), ins.add(D, at="generated"), ins.add(D, at="prompt"), ins.add(D, at="newest"),
        ins.add(D, ins.schedule([1.0, 0.5, 2.0])), ins.add(D, 0.3, unit="relative"), ins.add(D, at=-1),
        ins.add(D, torch.tensor([1.0, 0.0, -1.0])),
    ],
    ids=repr,
)  # fmt: skip
def test_one_forward_gives_what_a_cached_generation_gives(edit):
    model, n = gpt2(), 5
    made = ins.generate(model, ROWS, edit, read="logits", max_new_tokens=n)
    after = made.tokens.tolist()
    seq = sequences(model, ROWS, after, range(3))
    predictions = Predictions.of(model, short(seq))
    got = predictions.scores(predictions.states(seq, edit))
    want = made.trace["logits"][:, -n - 1 : -1].flatten(0, 1)
    if edit.at == -1:  # counted from the end of each forward, which is not the same in one forward and in many
        assert not torch.allclose(got, want, atol=1e-3)
        return
    torch.testing.assert_close(got, want, atol=2e-4, rtol=1e-4)
    assert seq.targets.tolist() == [t for row in after for t in row]
    assert seq.owner.tolist() == [0] * n + [1] * n + [2] * n


def test_the_kl_is_that_of_the_obvious_loop():
    model, edit = gpt2(), ins.add(D, 0.5)
    moved = next_token_shift(model, ROWS, edit, max_new_tokens=4, batch_rows=2, answers={"some": torch.tensor([3, 9])})
    want, mass = {}, {}
    for row, ids in enumerate(ROWS):
        text, values = list(ids), []
        for _ in range(4):
            p = ins.run(model, [text]).output.logits[0, -1].log_softmax(-1)
            q = ins.run(model, [text], edits=edit).output.logits[0, -1].log_softmax(-1)
            values.append(float((p.exp() * (p - q)).sum()))
            mass.setdefault(row, []).append(float(q.exp()[[3, 9]].sum()))
            text.append(int(p.argmax()))
        want[row] = values
    for row in range(3):
        mine = moved.prompt == row
        assert moved.shift.kl[mine].tolist() == pytest.approx(want[row], rel=1e-3, abs=1e-6)
        assert moved.shift.mass["some"][mine].tolist() == pytest.approx(mass[row], rel=1e-3)
    assert moved.by_prompt(moved.shift.kl).tolist() == pytest.approx([sum(v) / 4 for v in want.values()], rel=1e-3)


def test_predictions_that_share_a_base_are_each_compared_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = gpt2()
    predictions = Predictions.of(model, {"input_ids": torch.tensor([ROWS[0]])})
    g = torch.Generator().manual_seed(0)
    base, moved = torch.randn(7, 32, generator=g), torch.randn(40, 32, generator=g)
    which = torch.randint(7, (40,), generator=g)
    want = predictions.shift(base[which], moved).kl
    torch.testing.assert_close(predictions.kl(base, moved, which).float(), want)
    torch.testing.assert_close(predictions.kl(base[which], moved).float(), want)
    monkeypatch.setattr(Predictions, "chunks", lambda self, n, alive: (slice(i, i + 3) for i in range(0, n, 3)))
    torch.testing.assert_close(predictions.kl(base, moved, which).float(), want)


def test_the_last_token_alone_and_every_token_of_the_texts():
    model, edit = gpt2(), ins.add(D)
    last = next_token_shift(model, ROWS, edit, tokens="last")
    assert last.prompt.sort().values.tolist() == [0, 1, 2]
    every = next_token_shift(model, ROWS, edit, tokens="all", batch_rows=1)
    assert torch.bincount(every.prompt).tolist() == [4, 2, 3]
    p, q = (ins.run(model, [ROWS[1]], edits=e).output.logits[0, :-1].log_softmax(-1) for e in ((), edit))
    kl = (p.exp() * (p - q)).sum(-1)
    torch.testing.assert_close(every.shift.kl[every.prompt == 1], kl, atol=1e-5, rtol=1e-3)
    one_set_a_prompt = torch.tensor([[1], [2], [3]])
    found = next_token_shift(model, ROWS, edit, tokens="last", answers={"own": one_set_a_prompt})
    q = ins.run(model, [ROWS[1]], edits=edit).output.logits[0, -1].softmax(-1)
    assert float(found.shift.mass["own"][found.prompt == 1]) == pytest.approx(float(q[2]), rel=1e-4)


def test_nothing_moves_without_an_edit():
    moved = next_token_shift(gpt2(), ROWS, ins.add(D, 0.0))
    assert float(moved.shift.kl.abs().max()) == 0.0
    assert bool(moved.shift.agreement.all())


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "mamba", "gpt_neox"])
def test_families_with_and_without_padding_before_the_text(name):
    model = ins.open(build(name))
    width = model.module.config.get_text_config().hidden_size
    d = ins.Direction("layers.0.resid_post", torch.ones(width))
    moved = next_token_shift(model, [[5, 6, 7], [8, 9], [4, 4, 4]], ins.add(d, 1.0), max_new_tokens=3)
    assert len(moved.shift) == 9
    assert bool((moved.shift.kl > 0).any())


def test_a_text_that_ends_counts_up_to_its_end():
    model = gpt2()
    first = int(ins.generate(model, [ROWS[0]], max_new_tokens=1).tokens[0, 0])
    assert until_end(model, [4, 5, 6]) == [4, 5, 6]
    model.module.generation_config.eos_token_id = first
    try:
        assert until_end(model, [first, 5, 6]) == [first]
        assert until_end(model, [5, first, 6]) == [5, first]
        (seq,) = measured_sequences(model, [ROWS[0]], "new", 5)
        assert int(seq.counts.sum()) == 1
    finally:
        model.module.generation_config.eos_token_id = None


def test_means_by_owner():
    assert mean_by(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0, 2, 2])).tolist() == [1.0, 4.0]


def test_what_cannot_be_compared_is_refused():
    model = gpt2()
    with pytest.raises(ins.InputError, match="tokens='some' is none of"):
        next_token_shift(model, ROWS, ins.add(D), tokens="some")
    with pytest.raises(ins.InputError, match="prompts is a list of texts"):
        next_token_shift(model, "one text", ins.add(D))
    with pytest.raises(ins.InputError, match="both are at least 1"):
        next_token_shift(model, ROWS, ins.add(D), max_new_tokens=0)
    with pytest.raises(ins.InputError, match="each has one token"):
        next_token_shift(model, [[1], [2]], ins.add(D), tokens="all")
    encoder = ins.open(build("bert"))
    with pytest.raises(ins.ModelError, match="does not predict the next token"):
        next_token_shift(encoder, [[5, 6]], ins.add(D), tokens="last")
