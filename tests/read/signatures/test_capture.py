"""Captured signatures: against the whole logits, in every kind of input, and where one could be off by one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import inscape as ins
import inscape.read.signatures.capturing as where
from inscape.read.signatures import capture, load_signatures, save_signatures, signature_site, together
from inscape.read.signatures.capturing import step_statistics
from inscape.read.signatures.signature import PER_STEP
from tests.common.small import gpt2, gpt2_module, hooks_left
from tests.common.zoo import build, inputs_for

ROWS = [[1, 5, 9, 13, 17, 21], [2, 6, 10], [3, 3, 3, 3]]


def obvious(logits: torch.Tensor, token: int, k: int) -> dict[str, Any]:
    """What a step is, from its whole row of logits: sorted by probability, then by id."""
    p = logits.double().softmax(-1)
    order = sorted(range(len(p)), key=lambda v: (-float(p[v]), v))
    return {
        "top": torch.tensor([float(p[v]) for v in order[:k]]), "rank": order.index(token),
        "log_prob": float(p[token].log()), "mu": float(p.mean()), "sigma": float(p.std(correction=0)),
        "log_mean": float((p * p.log()).sum()),
        "log_std": float((p * (p.log() - (p * p.log()).sum()) ** 2).sum().sqrt()),
    }  # fmt: skip


def test_every_number_is_that_of_the_row_before_its_token() -> None:
    found = capture(gpt2(), ROWS, k=7)
    assert found.lengths.tolist() == [5, 2, 3]
    for i, row in enumerate(ROWS):
        logits = ins.run(gpt2(), [row]).output.logits[0]
        assert found.tokens[i, : len(row) - 1].tolist() == row[1:]
        for j, token in enumerate(row[1:]):
            said = obvious(logits[j], token, 7)  # position j says what token j + 1 is
            assert int(found.rank[i, j]) == said.pop("rank")
            torch.testing.assert_close(found.probabilities()[i, j], said.pop("top").float(), atol=1e-4, rtol=1e-3)
            for name, value in said.items():
                assert float(getattr(found, name)[i, j]) == pytest.approx(value, abs=1e-5), name


def test_a_token_that_is_always_foretold_has_rank_zero_one_step_later_and_not_at_its_own() -> None:
    model = ins.open("toy-induction")
    words = [w for w in model.tokenizer.get_vocab() if w.isalpha()][:10]
    found = capture(model, " ".join([*words, *words]), k=20)
    again = found.rank[0, 11:]  # the second time, from its second word on
    assert bool((again == 0).all())
    assert float(found.rank[0, :11].float().mean()) > 5


def test_ties_are_in_the_order_of_their_ids() -> None:
    scores = torch.zeros(3, 6)
    scores[:, 4] = 1.0
    found = step_statistics(scores, torch.tensor([4, 0, 5]), 6)
    assert found["rank"].tolist() == [0, 1, 5]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), vocab=st.integers(2, 40), sharp=st.floats(0.0, 20.0))
def test_ranks_are_an_order_and_the_moments_are_those_of_the_whole_row(seed: int, vocab: int, sharp: float) -> None:
    g = torch.Generator().manual_seed(seed)
    row = (torch.randn(1, vocab, generator=g) * sharp).expand(vocab, -1)
    found = step_statistics(row, torch.arange(vocab), vocab)
    assert sorted(found["rank"].tolist()) == list(range(vocab))
    torch.testing.assert_close(found["mu"], torch.full((vocab,), 1 / vocab), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found["top"].sum(1), torch.ones(vocab))
    assert bool((found["top"].diff(dim=1) <= 0).all())
    assert bool((found["log_prob"] <= 0).all())


def test_chunks_padding_sides_and_kinds_of_input_change_nothing() -> None:
    before = hooks_left(gpt2_module())  # of a module that many tests share
    whole = capture(gpt2(), ROWS, k=5)
    ids = torch.tensor([[1, 5, 9, 13, 17, 21], [4, 8, 12, 16, 20, 24]])
    padded = torch.tensor([[1, 5, 9, 13, 17, 21], [0, 0, 0, 2, 6, 10]])
    left = capture(gpt2(), {"input_ids": padded, "attention_mask": (padded != 0).long()}, k=5)
    for name in PER_STEP:
        for other in (capture(gpt2(), ROWS, k=5, rows=1), capture(gpt2(), ROWS, k=5, budget=1)):
            torch.testing.assert_close(getattr(other, name), getattr(whole, name), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(
            getattr(left, name)[left.mask], getattr(whole, name)[:2][whole.mask[:2]], atol=1e-4, rtol=1e-3
        )
        a, b = getattr(capture(gpt2(), ids, k=5), name), getattr(capture(gpt2(), ids.tolist(), k=5), name)
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    assert hooks_left(gpt2_module()) == before


def test_a_mask_chooses_tokens_of_the_given_span() -> None:
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[0, 2:4] = mask[1, 2] = mask[2, 1] = True
    some, whole = capture(gpt2(), ROWS, k=5, span=mask), capture(gpt2(), ROWS, k=5)
    assert some.lengths.tolist() == [2, 1, 1]
    assert torch.equal(some.rank[0, :2], whole.rank[0, 1:3])
    torch.testing.assert_close(some.log_prob[1, 0], whole.log_prob[1, 1])


def test_generated_tokens_have_the_signature_they_have_when_they_are_given() -> None:
    prompts = [[1, 5, 9], [2, 6, 10, 14, 18]]
    made = ins.generate(gpt2(), prompts, read=signature_site(gpt2()), max_new_tokens=4)
    again, found = capture(gpt2(), made, k=6, span="generated"), capture(
        gpt2(), prompts, k=6, span="generated", max_new_tokens=4
    )  # fmt: skip
    assert torch.equal(again.rank, found.rank)
    assert bool((found.rank == 0).all())  # greedy
    for i, prompt in enumerate(prompts):
        row = [*prompt, *made.tokens[i].tolist()]
        alone = capture(gpt2(), [row], k=6)
        torch.testing.assert_close(found.log_prob[i], alone.log_prob[0, len(prompt) - 1 :], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(found.sigma[i], alone.sigma[0, len(prompt) - 1 :], atol=1e-4, rtol=1e-3)


def test_small_probabilities_vanish_in_half_precision_and_stay_as_logs() -> None:
    model = ins.open("toy-induction")
    words = [w for w in model.tokenizer.get_vocab() if w.isalpha()][:6]
    text = " ".join([*words, *words])
    n = model.module.config.vocab_size
    plain, logs = (capture(model, text, k=n, values=v) for v in ("probability", "log"))
    exact = ins.run(model, text).output.logits[0, :-1].softmax(-1).sort(-1, descending=True).values
    assert int((plain.probabilities()[0] == 0).sum()) >= int((logs.probabilities()[0] == 0).sum()) == 0
    torch.testing.assert_close(logs.probabilities()[0], exact, rtol=2e-2, atol=0.0)
    assert float(logs.log_prob[0].exp().max()) == pytest.approx(float(plain.log_prob[0].exp().max()))


def test_families_with_rules_after_the_head_are_captured_too() -> None:
    for name in ("gemma3_text", "gemma2", "cohere", "llama", "opt", "gpt_neox", "falcon_new"):
        model, inputs = ins.open(build(name)), inputs_for(name)
        found = capture(model, inputs, k=4, texts=False)
        logits = ins.run(model, inputs).output.logits
        logp = logits.float().log_softmax(-1)[0, :-1]
        came = found.tokens[0][found.mask[0]].long()
        if len(came) == len(logp):
            torch.testing.assert_close(
                found.log_prob[0][found.mask[0]], logp.gather(1, came[:, None])[:, 0], atol=1e-3, rtol=1e-3
            )


def test_a_folder_is_gone_on_with_and_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to = tmp_path / "signatures"
    first = capture(gpt2(), ROWS, k=5, store=to, rows=1)
    assert len(list(to.iterdir())) == 3
    (to / "part-00002.safetensors").unlink()  # as after a kill
    ran = []
    plain = where.run
    monkeypatch.setattr(where, "run", lambda *a, **k: ran.append(1) or plain(*a, **k))
    second = capture(gpt2(), ROWS, k=5, store=to, rows=1)
    assert len(ran) == 1
    for name in PER_STEP:
        assert torch.equal(getattr(first, name), getattr(second, name))
        assert torch.equal(getattr(load_signatures(to), name), getattr(first, name))
    with pytest.raises(ins.FileError, match=r"of another capture .*items.* differ"):
        capture(gpt2(), [[9, 9, 9]], k=5, store=to, rows=1)
    with pytest.raises(ins.FileError, match=r"of another capture .*k differ"):
        capture(gpt2(), ROWS, k=4, store=to, rows=1)
    with pytest.raises(ins.FileError, match="of a longer capture"):
        capture(gpt2(), ROWS[:2], k=5, store=to, rows=1)


def test_a_file_gives_back_what_was_written_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    found = capture(gpt2(), ROWS, k=5)
    save_signatures(tmp_path / "s.safetensors", found)
    held = load_signatures(tmp_path / "s.safetensors")
    assert (held.n_vocab, held.values, held.span, held.model) == (64, "probability", "given", gpt2().fingerprint)
    assert all(torch.equal(getattr(held, n), getattr(found, n)) for n in PER_STEP)
    data = (tmp_path / "s.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ins.FileError, match="damaged"):
        load_signatures(tmp_path / "cut.safetensors")
    with pytest.raises(ins.FileError, match="holds no signatures"):
        load_signatures(tmp_path)


def test_texts_are_kept_in_order_and_can_be_left_out() -> None:
    model = ins.open("toy-induction")
    words = [w for w in model.tokenizer.get_vocab() if w.isalpha()]
    texts = [" ".join(words[:4]), " ".join(words[3:9])]
    assert capture(model, texts, k=4, rows=1).texts == tuple(texts)
    assert capture(model, texts, k=4, texts=False).texts == ()


def test_what_cannot_be_captured_is_refused() -> None:
    with pytest.raises(ins.InputError, match="k=65 probabilities of a vocabulary of 64"):
        capture(gpt2(), ROWS, k=65)
    with pytest.raises(ins.InputError, match="k=0"):
        capture(gpt2(), ROWS, k=0)
    with pytest.raises(ins.InputError, match="'given', 'generated' or a mask"):
        capture(gpt2(), ROWS, k=5, span="answer")
    with pytest.raises(ins.InputError, match="'probability' or 'log'"):
        capture(gpt2(), ROWS, k=5, values="logit")
    with pytest.raises(ins.InputError, match="max_new_tokens is for span='generated'"):
        capture(gpt2(), ROWS, k=5, max_new_tokens=3)
    with pytest.raises(ins.TokenError, match="row 1 has no token"):
        capture(gpt2(), [[1, 2, 3], [4]], k=5)
    mask = torch.ones(3, 6, dtype=torch.bool)
    with pytest.raises(ins.TokenError, match="first token of row 0"):
        capture(gpt2(), ROWS, k=5, span=mask)
    with pytest.raises(ins.TokenError, match=r"the mask is \(3, 5\)"):
        capture(gpt2(), ROWS, k=5, span=mask[:, 1:])
    made = ins.generate(gpt2(), [[1, 5, 9]], max_new_tokens=2)
    with pytest.raises(ins.InputError, match="did not read 'final_norm'"):
        capture(gpt2(), made, k=5, span="generated")
    with pytest.raises(ins.InputError, match="were generated"):
        capture(gpt2(), made, k=5)
    with pytest.raises(ins.ModelError):
        capture(ins.open(build("vit")), inputs_for("vit"), k=2)


def test_sets_that_are_not_alike_are_not_put_together() -> None:
    with pytest.raises(ins.ShapeError, match="k=5 and k=4"):
        together([capture(gpt2(), ROWS, k=5), capture(gpt2(), ROWS, k=4)])
    with pytest.raises(ins.InputError, match="no signatures"):
        together([])
