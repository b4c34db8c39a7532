"""Hallucinated objects: counted by hand on a few captions, nothing found where nothing is, controls beside."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.read.behaviour.chair import chair

COCO = {"couch": ["sofa"], "dog": [], "hot dog": ["hotdog", "frankfurter"], "cat": ["kitten"], "box": []}
CAPTIONS = [
    "A dog and two cats on a sofa. The dog sleeps.",
    "someone eats a hot dog next to boxes",
    "an empty room with a Kitten",
]
OBJECTS = [{"dog", "couch"}, {"hot dog"}, {"cat", "box"}]


def test_it_counts_as_one_would_by_hand():
    got = chair(CAPTIONS, OBJECTS, COCO)
    assert got.told == (("dog", "cat", "couch"), ("hot dog", "box"), ("cat",))
    assert got.named.tolist() == [3, 2, 1]
    assert got.wrong.tolist() == [1, 1, 0]
    assert got.mentions.value == pytest.approx(2 / 6)
    assert got.captions.value == pytest.approx(2 / 3)
    assert got.recall.value == pytest.approx(4 / 5)
    assert got.length.tolist() == [11, 8, 6]
    assert got.hallucinates.tolist() == [True, True, False]
    assert got.mentions.low <= got.mentions.value <= got.mentions.high
    assert "of mentions" in str(got)


def test_captions_that_say_what_is_there_hallucinate_nothing_and_other_pictures_would():
    names = [f"thing{chr(97 + i)}" for i in range(20)]
    shown = [{names[i], names[(i + 1) % 20]} for i in range(20)]
    got = chair([f"a {' and a '.join(sorted(s))}" for s in shown], shown, names)
    assert (got.mentions.value, got.captions.value, got.recall.value) == (0.0, 0.0, 1.0)
    assert got.mentions.high > 0  # twenty captions do not prove that there are none
    assert got.control.mentions.value > 0.8
    assert got.control.recall.value < 0.2


@given(seed=st.integers(0, 10**6), n=st.integers(2, 12))
def test_rates_are_shares_and_agree_with_the_sums(seed, n):
    g = torch.Generator().manual_seed(seed)
    names = ["ant", "bee", "cow", "doe"]
    shown = [{w for w in names if torch.rand((), generator=g) < 0.5} for _ in range(n)]
    said = [[w for w in names if torch.rand((), generator=g) < 0.5] for _ in range(n)]
    got = chair([" ".join(["we", *s]) for s in said], shown, names, seed=seed)
    total = sum(map(len, said))
    wrong = sum(w not in there for s, there in zip(said, shown, strict=True) for w in s)
    assert (got.mentions is None) == (total == 0)
    if total:
        assert got.mentions.value == pytest.approx(wrong / total)
        assert 0 <= got.mentions.low <= got.mentions.value <= got.mentions.high <= 1
    assert (got.recall is None) == (sum(map(len, shown)) == 0)


def test_captions_that_name_nothing_have_no_rate_of_mentions():
    got = chair(["nothing here", "nor here"], [{"dog"}, set()], COCO, control=None)
    assert got.mentions is None
    assert got.captions.value == 0
    assert got.recall.value == 0
    assert got.control is None
    assert chair(["a dog"], [{"dog"}], COCO).control is None


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"captions": "one"}, "0 captions and 3 sets"),
        ({"captions": CAPTIONS[:2]}, "2 captions and 3 sets of objects"),
        ({"captions": [], "objects": []}, "0 captions and 0 sets"),
        ({"objects": [{"zebra"}] * 3}, "the pictures show 'zebra', which the vocabulary does not have"),
        ({"vocabulary": "dog"}, "the vocabulary is a list of objects"),
        ({"vocabulary": []}, "the vocabulary is a list of objects"),
        ({"vocabulary": COCO | {"wolf": ["dog"]}}, "'dog' names both 'dog' and 'wolf'"),
        ({"control": "random"}, "'random' is none of these counts"),
    ],
)
def test_what_cannot_be_counted_is_refused(asked, says):
    with pytest.raises(ins.InputError, match=says):
        chair(**({"captions": CAPTIONS, "objects": OBJECTS, "vocabulary": COCO} | asked))
