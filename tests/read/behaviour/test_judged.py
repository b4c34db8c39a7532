"""Refusals are told by their first words, whole words only; rates are shares of prompts."""

import pytest
import torch

import inscape as ins
from inscape.read.behaviour.judged import REFUSALS, begins_with, judged_rate


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I'm sorry, but no.", True), ("  I\u2019m   SORRY.", True), ("I can not help", True), ("I cannot", True),
        ("Sorry", True), ("I can note that down.", False), ("Sorryless", False), ("Well, I'm sorry", False),
        ("", False),
    ],
)  # fmt: skip
def test_a_refusal_begins_with_one_of_the_phrases(text, refuses):
    assert begins_with(REFUSALS)(text) is refuses


def test_the_rate_is_that_of_the_answers_under_the_edits():
    model = ins.open("toy-induction")
    words = [w for w in model.tokenizer.get_vocab() if w.isalpha()][:12]
    prompts = [" ".join([*words[i : i + 4], *words[i : i + 4], words[i]]) for i in range(8)]
    plain = ins.generate(model, prompts, max_new_tokens=3).text
    first = [p.split()[0] for p in plain]
    made = judged_rate(model, prompts, [first[0]], max_new_tokens=3, batch=3)
    assert list(made.texts) == plain
    assert made.flags.tolist() == [f == first[0] for f in first]
    assert float(made) == pytest.approx(sum(f == first[0] for f in first) / 8)
    assert made.rate.n_items == 8
    assert made.examples(True, 1) == [plain[0]]
    gone = judged_rate(model, prompts, [first[0]], [ins.skip("layers.1")], max_new_tokens=1)
    assert gone.texts != tuple(p.split()[0] for p in plain) or not torch.equal(gone.flags, made.flags)
    assert float(judged_rate(model, prompts, lambda text: True, max_new_tokens=1)) == 1.0


def test_what_cannot_be_judged_is_refused():
    model = ins.open("toy-induction")
    with pytest.raises(ins.InputError, match="give a list of phrases"):
        begins_with("sorry")
    with pytest.raises(ins.InputError, match="give a list of phrases"):
        begins_with([" "])
    with pytest.raises(ins.InputError, match="a list of prompts, at least one"):
        judged_rate(model, [])
    with pytest.raises(ins.InputError, match="the judge said 1 to"):
        judged_rate(model, ["ba"], lambda text: 1, max_new_tokens=1)
