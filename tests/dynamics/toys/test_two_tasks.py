"""The rows and prompts of the two tasks ask what they say, and only the answers are labelled."""

import pytest
import torch

import inscape as ins
from inscape.dynamics.toys.two_tasks import BEFORE, WORDS, list_pairs, name_pairs, rows
from inscape.models.toy.words import SPECIAL
from inscape.train.losses import IGNORED


def words(ids):
    return [(*SPECIAL, *WORDS)[i] for i in ids]


@pytest.mark.parametrize("step", [0, BEFORE - 1, BEFORE, BEFORE + 1])
def test_every_label_is_what_the_row_asks_for(step):
    batch = rows(step, 64, seed=3)
    kinds = {"names": 0, "lists": 0, "before": 0}
    for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        text = words(ids)
        asked = [i for i, label in enumerate(labels) if label != IGNORED]
        kind = "before" if text[1] == "?" else "names" if text[3] == "went" else "lists"
        kinds[kind] += 1
        for i in asked:
            (label,) = words([labels[i]])
            if kind == "before":
                assert label == text[i - 2]
            elif kind == "names":
                assert text[i - 2] == "with"
                assert {label, text[i - 1]} in ({text[1], text[2]}, {text[5], text[6]})
                assert label == text[i]
            else:
                assert label == text[text.index(text[i - 1]) + 1]
                assert label == text[i]
        assert len(asked) == {"names": 6, "lists": 8, "before": 24}[kind]
    assert (
        kinds == {"names": 16, "lists": 32, "before": 16} if step < BEFORE else {"names": 16, "lists": 48, "before": 0}
    )


def test_prompts_have_their_roles_where_the_words_are():
    model = ins.open("toy-two-tasks")
    made = name_pairs(model, 30, seed=1)
    for i, ids in enumerate(made.clean_ids):
        at = {role: words([ids[int(p[i, 0])]])[0] for role, p in made.roles.items()}
        assert (at["io"], at["s1"]) == (made.answers[i].strip(), made.wrong[i].strip())
        assert at["s2"] == at["end"] == at["s1"]
        assert abs(int(made.roles["io"][i, 0]) - int(made.roles["s1"][i, 0])) == 1
        assert len(set(words(made.corrupted_ids[i]))) == len(set(words(ids))) + 1
    made = list_pairs(model, 30, seed=1, length=7)
    for i, ids in enumerate(made.clean_ids):
        at = {role: words([ids[q] for q in p[i].tolist()]) for role, p in made.roles.items()}
        assert at["owner"] == [made.answers[i].strip()]
        assert at["asked"] == at["end"]
        assert made.wrong[i].strip() in at["rivals"]
        assert len({*at["rivals"], *at["owner"]}) == 7
    assert made.chance == 1 / 7
    with pytest.raises(ins.InputError, match="a list of 30 things: there can be 2 to 24"):
        list_pairs(model, 3, length=30)


def test_both_tasks_are_learned_on_prompts_drawn_apart_from_training():
    model = ins.open("toy-two-tasks")
    for pairs in (name_pairs(model, 100, seed=5), list_pairs(model, 100, seed=5)):
        assert float(pairs.answered_by(model).float().mean()) > 0.95
    logits = ins.run(model, torch.tensor([name_pairs(model, 1).clean_ids[0]]), output="last").output.logits
    assert logits.shape[-1] == len(WORDS) + len(SPECIAL)
