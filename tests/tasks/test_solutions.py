"""Every task solved a second time from its text alone: the answers are right, and so are the wrong ones wrong."""

import random
import re

import pytest
import torch

import inscape as ins
from inscape import tasks
from inscape.tasks.acronym import SPELLED
from inscape.tasks.agreement import VERBS
from inscape.tasks.facts import CAPITALS, LANGUAGES, OPPOSITES
from inscape.tasks.graph_text import rewired
from tests.common.tokenizers import OpenWords, byte_tokenizer, word_tokenizer
from tests.tasks.test_every_task import WORDS, SplitYears

OPEN = OpenWords(WORDS)


def both(pairs: tasks.Pairs) -> list[tuple[str, str]]:
    """Every prompt with the answer it should have."""
    return [
        (text, answer.strip())
        for texts, answers in ((pairs.clean, pairs.answers), (pairs.corrupted, pairs.wrong))
        for text, answer in zip(texts, answers, strict=True)
    ]


def words_at(pairs: tasks.Pairs, role: str, which: str = "clean", tokenizer: OpenWords = OPEN) -> list[str]:
    rows = getattr(pairs, f"{which}_ids")
    return [
        tokenizer.decode([ids[i] for i in dict.fromkeys(at)])
        for ids, at in zip(rows, pairs.roles[role].tolist(), strict=True)
    ]


@pytest.mark.parametrize("shots", [0, 1, 2])
def test_the_colour_of_the_object_is_the_one_before_it(shots: int) -> None:
    made = tasks.colored_objects(OPEN, 30, shots=shots)
    for text, answer in both(made):
        question = text.split("\n\n")[-1]
        asked = re.search(r"color is the (\w+)\?", question)
        assert asked
        assert re.findall(rf"an? (\w+) {asked[1]}", question) == [answer.lower()]
        assert text.count("\nA: ") == shots
    assert [w.capitalize() for w in words_at(made, "right_colour")] == [a.strip() for a in made.answers]
    assert [w.capitalize() for w in words_at(made, "wrong_colour")] == [a.strip() for a in made.wrong]
    assert words_at(made, "right_object") == words_at(made, "queried")
    assert [
        sum(a != b for a, b in zip(x, y, strict=True)) for x, y in zip(made.clean_ids, made.corrupted_ids, strict=True)
    ] == [1] * 30
    assert sorted(made.facts["asked"]) == [1] * 10 + [2] * 10 + [3] * 10
    assert set(tasks.colored_objects(OPEN, 6, ask="second").facts["asked"]) == {2}


def test_worked_examples_use_other_colours_and_objects() -> None:
    for text in tasks.colored_objects(OPEN, 20).clean:
        example, question = (set(re.findall(r"an? (\w+) (\w+)", part)) for part in text.split("\n\n"))
        assert not {w for two in example for w in two} & {w for two in question for w in two}


def test_later_years_are_right_and_earlier_ones_are_not() -> None:
    tokenizer = SplitYears(WORDS)
    made = tasks.greater_than(tokenizer, 20)
    known = list(tokenizer.known)
    for i, text in enumerate(made.clean):
        year = int(re.findall(r"year \d\d(\d\d) to", text)[0])
        right = {int(known[t]) for t in made.answer_sets[i]}
        assert right == set(range(year + 1, 100))
        assert {int(known[t]) for t in made.candidate_sets[i]} == set(range(100))
        assert made.facts["year"][i] == year
    assert set(words_at(made, "start_year", "corrupted", tokenizer)) == {"01"}
    assert words_at(made, "start_century", tokenizer=tokenizer) == words_at(made, "end_century", tokenizer=tokenizer)


def test_years_in_single_digits_leave_the_decade_itself_out() -> None:
    tokenizer = byte_tokenizer()
    made = tasks.greater_than(tokenizer, 20)
    for i, year in enumerate(made.facts["year"]):
        right = {int(tokenizer.decode([t])) for t in made.answer_sets[i]}
        among = {int(tokenizer.decode([t])) for t in made.candidate_sets[i]}
        assert right == set(range(year // 10 + 1, 10))
        assert among == set(range(10)) - {year // 10}
    assert set(made.facts["digits"]) == {1}


def test_years_that_nothing_continues_are_refused() -> None:
    with pytest.raises(ins.TokenError, match=r"years are not continued by one token.*'1745'"):
        tasks.greater_than(OPEN, 4)


def test_the_verb_has_the_number_of_the_subject() -> None:
    made = tasks.agreement(OPEN, 40)
    for i, text in enumerate(made.clean):
        subject, attractor = text.split()[1], text.split()[-1]
        number = "plural" if subject.endswith("s") else "singular"
        assert (made.facts["number"][i], made.answers[i] in VERBS[number]) == (number, True)
        assert {f" {OPEN.decode([t])}" for t in made.answer_sets[i]} == set(VERBS[number])
        assert (attractor.endswith("s") == subject.endswith("s")) == (made.facts["attractor"][i] == "same")
        assert made.corrupted[i].split()[2:] == text.split()[2:]
        assert made.corrupted[i].split()[1].rstrip("s") == subject.rstrip("s")
    assert sorted(made.facts["attractor"]) == ["other"] * 20 + ["same"] * 20
    assert len({(a, b) for a, b in zip(made.facts["attractor"], made.facts["number"], strict=True)}) == 4
    assert len(tasks.agreement(OPEN, 4, attractors=2).clean[0].split()) == 8
    assert set(tasks.agreement(OPEN, 4, attractors=0).facts["attractor"]) == {"none"}


@pytest.mark.parametrize(
    ("relation", "table"), [("capital", CAPITALS), ("language", LANGUAGES), ("opposite", OPPOSITES)]
)
def test_facts_are_those_of_the_table(relation: str, table: dict[str, str]) -> None:
    made = tasks.facts(OPEN, relation=relation, templates=2)
    subjects, others = words_at(made, "subject"), words_at(made, "subject", "corrupted")
    assert [table[s] for s in subjects] == [a.strip() for a in made.answers]
    assert [table[s] for s in others] == [w.strip() for w in made.wrong]
    assert len(made) == 2 * len(table)
    assert made.chance == pytest.approx(1 / len(set(table.values())))


def test_swapped_facts_are_all_false() -> None:
    made = tasks.facts(OPEN, swapped=True)
    assert all(CAPITALS[s] != a.strip() for s, a in zip(words_at(made, "subject"), made.answers, strict=True))
    assert len(made) == len(CAPITALS)


def test_more_facts_than_there_are_is_refused_with_their_number() -> None:
    with pytest.raises(ins.InputError, match=f"99 pairs were asked for and {len(CAPITALS)} different ones"):
        tasks.facts(OPEN, 99)


@pytest.mark.parametrize("items", [3, 5, 20])
def test_the_thing_left_is_the_one_not_named_again(items: int) -> None:
    made = tasks.laundry_list(OPEN, 2 * items, items=items, templates=3)
    for i, (text, answer) in enumerate(both(made)):
        listed, again = (
            set(words_at(made, role, ("clean", "corrupted")[i >= 2 * items])[i % (2 * items)].split())
            for role in ("items", "bought")
        )
        assert (len(listed), listed - again) == (items, {answer})
        assert text.count(answer) >= 1
    assert words_at(made, "missing") == [a.strip() for a in made.answers]
    assert words_at(made, "rival") == [a.strip() for a in made.wrong]
    assert sorted(made.facts["missing"]) == sorted([*range(1, items + 1)] * 2)
    assert [words_at(made, f"item_{m}")[i] for i, m in enumerate(made.facts["missing"])] == words_at(made, "missing")
    changed = [
        sum(a != b for a, b in zip(x, y, strict=True)) for x, y in zip(made.clean_ids, made.corrupted_ids, strict=True)
    ]
    assert changed == [1] * (2 * items)
    assert made.chance == pytest.approx(1 / items)


def test_a_list_has_three_to_twenty_things() -> None:
    with pytest.raises(ins.InputError, match=r"laundry_list\(items=21\): it can be 3 to 20"):
        tasks.laundry_list(OPEN, 4, items=21)


@pytest.mark.parametrize("operands", [2, 3])
@pytest.mark.parametrize("template", ["symbolic", "code", "{a}{op_1}{b}="])
def test_sums_are_what_python_says(operands: int, template: str) -> None:
    if template.startswith("{a}") and operands == 3:
        template = "{a}{op_1}{b}{op_2}{c}="
    made = tasks.arithmetic(OPEN, 40, operands=operands, ops="+-", template=template, shots=1)
    for text, answer in both(made):
        problem = text.strip("=> \n").split("\n")[-1].lstrip("> ")
        assert eval(problem) == int(answer)
    for role, at in (("a", 0), ("b", 1), ("c", 2))[:operands]:
        assert words_at(made, role) == [str(o[at]) for o in made.facts["operands"]]
        assert made.roles[role].shape[1] == 1
    assert {"+", "-"} == set(words_at(made, "op_1")) == {o[0] for o in made.facts["ops"]}
    assert min(made.facts["result"]) >= 0
    differ = [
        sum(a != b for a, b in zip(x, y, strict=True)) for x, y in zip(made.clean_ids, made.corrupted_ids, strict=True)
    ]
    assert set(differ) == {1}


def test_verbal_sums_say_found_and_lost() -> None:
    for text, answer in both(tasks.arithmetic(OPEN, 20, operands=3, ops="+-", template="verbal", corrupted="all")):
        a, b, c = map(int, re.findall(r"\d+", text))
        one, two = (1 if w == "found" else -1 for w in re.findall("found|lost", text))
        assert a + one * b + two * c == int(answer)


def test_a_template_without_its_fields_is_refused() -> None:
    with pytest.raises(ins.InputError, match=r"must have \{a\}, \{b\}, \{op_1\}"):
        tasks.arithmetic(OPEN, 4, template="{a} plus {b} is")
    with pytest.raises(ins.InputError, match="cannot be read"):
        tasks.arithmetic(OPEN, 4, template="{a} {op_1} {b")
    with pytest.raises(ins.InputError, match="template='spoken'"):
        tasks.arithmetic(OPEN, 4, template="spoken")


def test_a_toy_vocabulary_of_numbers_limits_operands_and_results() -> None:
    toy = word_tokenizer([*map(str, range(50)), "+", "="])
    made = tasks.arithmetic(toy, 200, largest=99)
    assert 45 < max(max(o) for o in made.facts["operands"]) < 50
    assert 45 < max(made.facts["result"]) < 50
    assert made.chance == pytest.approx(1 / 50)
    assert made.notes == ("50 of the 100 numbers up to 99 are not one token",)
    assert made.roles["a"].unique().tolist() == [1]
    with pytest.raises(ins.InputError, match="7 pairs were asked for and 4 different ones"):
        tasks.arithmetic(word_tokenizer(["0", "1", "+", "="]), 7, largest=1)
    with pytest.raises(ins.TokenError, match="0 of the numbers up to 99 are one token here"):
        tasks.arithmetic(word_tokenizer(["+", "="]), 4)


@pytest.mark.parametrize("kind", ["word", "fragment", "mixed"])
def test_first_letters_spell_the_answer(kind: str) -> None:
    made = tasks.acronym(OPEN, 20, kind=kind)
    for text, answer in both(made):
        for line in f"{text} {answer}".split("\n"):
            words, spelled = line.split(": ")
            assert "".join(w[0] for w in words.split()) == spelled
    assert [s in SPELLED for s in made.facts["spelled"]] == [k == "word" for k in made.facts["kind"]]
    if kind == "mixed":
        assert made.facts["kind"].count("word") == 10


@pytest.mark.parametrize("kind", ["swap", "sort", "shift"])
def test_ciphers_follow_their_rule(kind: str) -> None:
    made = tasks.cipher(OPEN, 20, kind=kind, shift=5)
    for text, answer in both(made):
        if kind == "swap":
            for line in (text + f" {answer}").split("\n"):
                left, right = (side.split(" and ") for side in line.split(" => "))
                assert left == right[::-1]
        elif kind == "sort":
            for line in (text + f" {answer}").split("\n"):
                listed, first = line.split(" => ")
                assert min(listed.split(", ")) == first
        else:
            for case in (text + f" {answer}").split(", "):
                a, b = case.split(" => ")
                assert (ord(b) - ord(a)) % 26 == 5
    if kind == "sort":
        assert {made.facts["place"].count(i) for i in (1, 2, 3)} == {6, 7}
    if kind == "swap":
        assert made.facts["usual"].count(True) == 10


def test_a_shift_that_moves_nothing_is_refused() -> None:
    with pytest.raises(ins.InputError, match="a shift that moves letters"):
        tasks.cipher(OPEN, 4, kind="shift", shift=26)


@pytest.mark.parametrize("ask", ["first", "last", "mixed"])
def test_the_first_name_is_the_one_read_first(ask: str) -> None:
    made = tasks.name_order(OPEN, 20, ask=ask)
    first, second = words_at(made, "first"), words_at(made, "second")
    wanted = [a if asked == "first" else b for a, b, asked in zip(first, second, made.facts["ask"], strict=True)]
    assert wanted == [a.strip() for a in made.answers]
    assert bool((made.roles["first"] < made.roles["second"]).all())
    assert all(sorted(a) == sorted(b) for a, b in zip(made.clean_ids, made.corrupted_ids, strict=True))


def test_the_other_question_asks_for_the_other_name() -> None:
    made = tasks.name_order(OPEN, 20, ask="mixed", corrupted="ask", templates=(0, 2))
    assert set(made.facts["template"]) == {0, 2}
    for clean, other, at in zip(made.clean_ids, made.corrupted_ids, made.roles["ask"][:, 0].tolist(), strict=True):
        assert [i for i in range(len(clean)) if clean[i] != other[i]] == [at]
    assert {a.strip() for a in words_at(made, "ask")} == {"first", "last"}
    with pytest.raises(ins.InputError, match="there are 3 sentences, 0 to 2"):
        tasks.name_order(OPEN, 4, templates=(3,))


def test_induction_asks_for_what_followed_the_last_word() -> None:
    made = tasks.induction(OPEN, 20, length=8)
    for ids, answer in zip((*made.clean_ids, *made.corrupted_ids), (*made.answer_ids, *made.wrong_ids), strict=True):
        assert ids[ids.index(ids[-1]) + 1] == int(answer)
        assert len(set(ids[1:])) == 8
    assert words_at(made, "target") == [a.strip() for a in made.answers]
    assert words_at(made, "previous") == words_at(made, "end")
    assert set(tasks.induction(OPEN, 4, length=8, seen=3).facts["seen"]) == {3}
    with pytest.raises(ins.TokenError, match=r"are words by themselves, and 201 are needed"):
        tasks.induction(OpenWords(WORDS), 4, length=200)
    with pytest.raises(ins.InputError, match="it can be 1 to 7"):
        tasks.induction(OPEN, 4, length=8, seen=8)


@pytest.mark.parametrize("hops", [1, 2])
def test_what_a_node_likes_is_what_most_at_that_distance_like(hops: int) -> None:
    made = tasks.graph_text(OPEN, 12, nodes=10, hops=hops)
    step = made.adjacency.float()
    near, two = step > 0, (step @ step > 0) & ~(step > 0)
    for i in range(12):
        t = int(made.target[i])
        at = (near if hops == 1 else two)[i, t].clone()
        at[t] = False
        votes = made.labels[i][at].tolist()
        assert votes.count(int(made.labels[i, t])) > len(votes) / 2
        for node in range(10):
            start, stop = made.spans[i, node].tolist()
            said = OPEN.decode(made.pairs.clean_ids[i][start:stop])
            other = OPEN.decode(made.pairs.corrupted_ids[i][start:stop])
            nearer = node == t or (hops == 2 and bool(near[i, t, node]))
            assert ("likes" in said) == (not nearer)
            if node != t and not nearer:
                mine = bool(made.labels[i, node] == made.labels[i, t])
                assert (f"likes {made.pairs.answers[i].strip()} " in said.replace(".", " ")) == mine
                assert (f"likes {made.pairs.wrong[i].strip()} " in other.replace(".", " ")) == mine


def test_the_text_of_a_graph_states_its_links() -> None:
    for links in ("true", "rewired"):
        made = tasks.graph_text(OPEN, 6, links=links)
        for i in range(6):
            said = [OPEN.decode(made.pairs.clean_ids[i][a:b]).split() for a, b in made.spans[i].tolist()]
            names = [words[0] for words in said]
            stated = torch.tensor([[name in words[1:] for name in names] for words in said])
            assert torch.equal(stated, made.written[i])
            assert torch.equal(made.written[i].sum(0), made.adjacency[i].sum(0))
        assert torch.equal(made.written, made.adjacency) == (links == "true")


def test_a_question_of_a_link_is_answered_by_the_graph() -> None:
    made = tasks.graph_text(OPEN, 12, ask="link")
    linked = made.adjacency[torch.arange(12), made.target, made.other].tolist()
    assert linked == [a == " yes" for a in made.pairs.answers]
    assert 0 < sum(linked) < 12


def test_rewiring_keeps_degrees_and_moves_links() -> None:
    links = frozenset({(1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (5, 0), (3, 0)})
    made = rewired(links, random.Random(0), 6)
    count = lambda x: [sum(i in link for link in x) for i in range(6)]  # noqa: E731
    assert count(made) == count(links)
    assert made != links
    assert all(a > b for a, b in made)


def test_graphs_that_cannot_be_are_refused() -> None:
    with pytest.raises(ins.InputError, match="0 <= between <= inside"):
        tasks.graph_text(OPEN, 2, inside=0.1, between=0.5)
    with pytest.raises(ins.InputError, match=r"nodes=30\): it can be 4 to 24"):
        tasks.graph_text(OPEN, 2, nodes=30)
    with pytest.raises(ins.TokenError, match="none of 3600 pairs fits"):
        tasks.graph_text(OPEN, 2, inside=1.0, between=0.0, hops=2)  # nobody is two links away
