"""Statements stand in their form, are judged before, and their words have the roles they are said to have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape import tasks
from tests.common.tokenizers import OpenWords, words_of

ROWS = [("Paris", "France", "Japan"), ("Rome", "Italy", "Peru"), ("Lima", "Peru", "France"),
        ("Oslo", "Norway", "Italy"), ("Cairo", "Egypt", "Norway"), ("Tokyo", "Japan", "Egypt")]  # fmt: skip
TOKENIZER = OpenWords(words_of("The city of is not in TRUE FALSE This statement . :", *[" ".join(r) for r in ROWS]))
TEMPLATE = "The city of {subject} is in {object}."
TRUE = {row[0]: row[1] for row in ROWS}


@given(seed=st.integers(0, 1000), shots=st.sampled_from([0, 2, 4]))
def test_true_and_false_statements_say_what_they_are(seed, shots):
    made = tasks.statements(TOKENIZER, ROWS, TEMPLATE, shots=shots, seed=seed)
    assert len(made) == len(ROWS) - shots
    for i in range(len(made)):
        judged = made.clean[i].split("\n")
        assert judged[:-1] == made.corrupted[i].split("\n")[:-1]
        assert [j.endswith("TRUE") for j in judged[:-1]].count(True) == shots // 2
        for text in judged[:-1]:
            said = text.removeprefix("The city of ").split(".")[0].split(" is in ")
            assert (TRUE[said[0]] == said[1]) == text.endswith(" TRUE")
        said = judged[-1].removeprefix("The city of ").split(".")[0].split(" is in ")
        assert TRUE[said[0]] == said[1] == made.facts["object"][i]
        assert made.clean[i].endswith("This statement is:")
        assert said[0] not in " ".join(judged[:-1])
        pieces = [TOKENIZER.decode([t]) for t in made.clean_ids[i]]
        at = {role: "".join(pieces[p] for p in dict.fromkeys(x[i].tolist())) for role, x in made.roles.items()}
        assert at["subject"].strip() == said[0]
        assert at["object"].strip() == said[1]
        assert (at["stop"].strip(), at["end"].strip()) == (".", ":")


def test_templates_that_deny_are_true_of_the_other_object():
    made = tasks.statements(TOKENIZER, ROWS, "The city of {subject} is not in {object}.", shots=0, false=True)
    for text, subject in zip(made.clean, made.facts["subject"], strict=True):
        assert f"{subject} is not in {TRUE[subject]}." not in text
    for text, subject in zip(made.corrupted, made.facts["subject"], strict=True):
        assert f"{subject} is not in {TRUE[subject]}." in text


def test_pairs_that_do_not_line_up_are_left_out_and_named():
    rows = [*ROWS, ("Ottawa", "France", "The city Peru")]
    made = tasks.statements(OpenWords(words_of("Ottawa", *TOKENIZER.get_vocab())), rows, TEMPLATE, shots=0)
    assert len(made) == 6
    assert "1 of 7 pairs tried" in made.notes[0]


@pytest.mark.parametrize(
    ("rows", "template", "options", "message"),
    [
        (ROWS, "{subject} is.", {}, "must have {subject}, {object}"),
        (ROWS, TEMPLATE, {"shots": 6}, "6 rows and 6 judged ones"),
        ([("a", "b")], TEMPLATE, {"shots": 0}, r"give rows \(subject, object, another"),
    ],
)
def test_rows_that_make_no_statements_are_refused(rows, template, options, message):
    with pytest.raises(ins.InputError, match=message):
        tasks.statements(TOKENIZER, rows, template, **options)
