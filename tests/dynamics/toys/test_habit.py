"""toy-habit and toy-thinker: what they are trained on, and how what they say is counted."""

import torch

import inscape as ins
from inscape.dynamics.toys import habit
from inscape.dynamics.toys.habit import asides_by_need, exercises, mends, rows, said_to, texts
from inscape.tasks.second_thoughts import SIGNS, applied, kind_of, problems, right
from inscape.train.losses import IGNORED

WORDS = {i: word for word, i in habit.ID.items()}
SYMBOL = {word: sign for sign, word in SIGNS.items()}


def test_exercises_are_right_but_for_products_one_too_high() -> None:
    slips, products = 0, 0
    for ids in exercises(0, 126, n=40, seed=0)["input_ids"].tolist():
        for sentence in " ".join(WORDS[i] for i in ids[1:] if i).split(" ."):
            words = sentence.split()
            if not words:
                continue
            at = next(i for i, w in enumerate(words) if w in SYMBOL)
            wanted = applied(int(words[at - 1]), SYMBOL[words[at]], int(words[at + 1]))
            over = (int(words[-1]) - wanted) % 7
            can_slip = words[at] == "times" and kind_of(sentence) == "work"
            assert over in ((0, 1) if can_slip else (0,))
            slips, products = slips + over, products + can_slip
    assert 0.5 < slips / products < 0.9


def test_problems_are_labelled_from_where_the_rationale_begins_and_minds_differ() -> None:
    for mind in ("habit", "thought"):
        for ids, labels in zip(*rows(3, n=6, mind=mind, seed=0).values(), strict=True):
            said = [WORDS[i] for i in ids.tolist() if i]
            asked = said.index("?") + 1
            assert labels[:asked].tolist() == [IGNORED] * asked
            assert labels[asked : len(said)].tolist() == ids[asked : len(said)].tolist()
            assert said[-4] == "answer"
    assert [int((texts(i, seed=0)["input_ids"] == habit.ID["?"]).any()) for i in range(6)] == [0, 0, 1, 0, 0, 1]
    assert torch.equal(texts(2, seed=0)["input_ids"], rows(2, mind="habit", seed=0)["input_ids"])


def test_asides_are_counted_by_what_stands_before_them() -> None:
    slip, right_, plus = "4 times 2 gives 2 .", "4 times 2 gives 1 .", "4 plus 2 gives 6 ."
    said = [
        f"{slip} wait , 4 times 2 makes 1 . {plus} next step b",
        f"{plus} so far it is 6 . {right_} check 4 times 2",
    ]
    assert asides_by_need(said) == {"slip": 1.0, "plus": 0.5}


def test_one_net_knows_how_to_mend_and_the_other_when() -> None:
    base, thinker = ins.open("toy-habit"), ins.open("toy-thinker")
    hard = problems(12, (2, 2), hard=True, seed=77)
    solved = [sum(right(hard, said_to(m, hard))) for m in (base, thinker)]
    assert solved[0] <= 6 < 10 <= solved[1]
    assert min(mends(base), mends(thinker)) > 0.9
