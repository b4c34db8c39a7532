"""Prompt pairs: what they refuse, where roles stand, and which of them a model answers."""

import pytest
import torch

import inscape as ins
from inscape.tasks import Pairs
from inscape.tasks.drafts import Draft, Text, collect, fill
from inscape.tasks.tokens import Tokens
from tests.common.small import gpt2_module
from tests.common.tokenizers import SlowWords, byte_tokenizer, word_tokenizer, words_of

CLEAN = ("Paris is in France and Rome in", "Oslo is in Norway and Rome in")
CORRUPTED = ("Paris is in France and Bonn in", "Oslo is in Norway and Bonn in")
WORDS = words_of(*CLEAN, *CORRUPTED, "Italy Germany one more")


def pairs(tokenizer=None, **changed) -> Pairs:
    given = {"clean": CLEAN, "corrupted": CORRUPTED, "answers": (" Italy",) * 2, "wrong": (" Germany",) * 2}
    return Pairs.of(tokenizer or word_tokenizer(WORDS), **(given | changed))


def test_roles_count_the_special_token_before_the_text() -> None:
    roles = {"city": ["Paris", "Oslo"], "is": ["is in", "is in"]}
    with_bos, without = pairs(roles=roles), pairs(word_tokenizer(WORDS, bos=False), roles=roles)
    assert with_bos.roles["city"].tolist() == [[1], [1]]
    assert without.roles["city"].tolist() == [[0], [0]]
    assert with_bos.roles["is"].tolist() == [[2, 3], [2, 3]]
    assert with_bos.roles["end"].tolist() == [[7], [7]]
    assert with_bos.clean_ids[0][0] == 1


def test_a_tokenizer_without_offsets_gives_the_same_roles() -> None:
    roles = {"city": ["Paris", "Oslo"], "land": ["France", "Norway"]}
    fast, slow = pairs(roles=roles), pairs(SlowWords(WORDS), roles=roles)
    assert {r: x.tolist() for r, x in fast.roles.items()} == {r: x.tolist() for r, x in slow.roles.items()}
    assert fast.clean_ids == slow.clean_ids


def test_a_tokenizer_without_offsets_that_does_not_spell_the_text_says_so() -> None:
    with pytest.raises(ins.TokenError, match="gives no offsets, and its pieces do not spell the text"):
        pairs(SlowWords(WORDS, fold=True), roles={"city": ["Paris", "Oslo"]})


def test_an_answer_of_several_tokens_is_refused_with_its_pieces() -> None:
    with pytest.raises(ins.TokenError, match=r"' one more' is 2 tokens here: 'one'\|'more'"):
        pairs(answers=(" Italy", " one more"))
    with pytest.raises(ins.TokenError, match="no token for ' Spain'"):
        pairs(answers=(" Italy", " Spain"))


def test_an_answer_that_melts_into_the_prompt_is_refused() -> None:
    with pytest.raises(ins.TokenError, match="changes the tokens before it"):
        pairs(word_tokenizer((*WORDS, "inn")), answers=("n", "n"))


def test_an_answer_equal_to_the_wrong_one_is_refused() -> None:
    with pytest.raises(ins.TokenError, match="are the same token"):
        pairs(wrong=(" Italy", " Germany"))


def test_pairs_of_unequal_length_are_refused_unless_asked_for() -> None:
    longer = (CORRUPTED[0], "Oslo is in Norway and and Bonn in")
    with pytest.raises(
        ins.TokenError, match=r"the clean prompt has 8 tokens and the corrupted one 9.*\n.*or give aligned=False"
    ):
        pairs(corrupted=longer)
    loose = pairs(corrupted=longer, aligned=False, roles={"at": ["in", "in"]})
    assert loose.corrupted_roles["end"].tolist() == [[7], [8]]
    assert loose.roles["end"].tolist() == [[7], [7]]


def test_roles_that_stand_elsewhere_in_the_corrupted_prompt_are_refused() -> None:
    with pytest.raises(ins.TokenError, match=r"the role 'land' stands at.*\n.*or give aligned=False"):
        pairs(corrupted=("France is in Paris and Bonn in", CORRUPTED[1]), roles={"land": ["France", "Norway"]})


def test_a_role_word_that_is_not_there_is_refused() -> None:
    with pytest.raises(ins.TokenError, match=r"pair 1: 'Paris' \(city\) is not in"):
        pairs(roles={"city": ["Paris", "Paris"]})


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ins.InputError, match="2 clean, 2 corrupted, 1 answers"):
        pairs(answers=(" Italy",))
    made = pairs()
    with pytest.raises(ins.InputError, match="as many of each"):
        Pairs(
            made.clean, made.corrupted[:1], made.answers, made.wrong, made.answer_ids, made.wrong_ids, {}, 0.5,
            made.clean_ids, made.corrupted_ids,
        )  # fmt: skip


def test_positions_and_answer_sets_are_checked_where_pairs_are_built_by_hand() -> None:
    made = pairs()
    parts = (made.clean, made.corrupted, made.answers, made.wrong, made.answer_ids, made.wrong_ids)
    with pytest.raises(ins.TokenError, match="'late' has positions outside"):
        Pairs(*parts, {"late": torch.tensor([[1], [9]])}, 0.5, made.clean_ids, made.corrupted_ids)
    with pytest.raises(ins.InputError, match="must be right"):
        Pairs(*parts, {}, 0.5, made.clean_ids, made.corrupted_ids, answer_sets=((5,), (5,)))


def test_a_tokenizer_that_ends_every_text_is_refused() -> None:
    with pytest.raises(ins.TokenError, match="ends every text with '<eos>'"):
        pairs(word_tokenizer(WORDS, eos=True))


def test_something_without_a_tokenizer_is_refused() -> None:
    with pytest.raises(ins.InputError, match="needs a tokenizer, and Model has none"):
        pairs(ins.open(gpt2_module()))


def test_a_subset_keeps_every_part_in_step() -> None:
    made = pairs(answers=(" Italy", " Germany"), wrong=(" Germany", " Italy"), roles={"city": ["Paris", "Oslo"]})
    turned = made.subset([1, 0])
    assert turned.clean == made.clean[::-1]
    assert turned.answers == (" Germany", " Italy")
    assert torch.equal(turned.answer_ids, made.answer_ids.flip(0))
    assert turned.clean_ids == made.clean_ids[::-1]
    assert len(made.subset(slice(0, 1))) == 1
    assert made.filtered([False, True]).clean == made.clean[1:]
    assert made.subset(torch.tensor([False, True])).clean == made.clean[1:]


def test_nothing_left_and_indices_that_are_not_there_are_errors() -> None:
    with pytest.raises(ins.InputError, match="the mask is false for all 2"):
        pairs().filtered([False, False])
    with pytest.raises(ins.InputError, match="there are 2 pairs"):
        pairs().filtered([True])
    with pytest.raises(ins.InputError, match="there are 2 pairs"):
        pairs().subset([2])


def test_right_is_the_top_of_the_vocabulary_or_of_the_candidates() -> None:
    made = pairs()
    logits = torch.zeros(2, 64)
    logits[:, 3] = 9.0
    logits[0, made.answer_ids[0]] = 2.0
    logits[1, made.wrong_ids[1]] = 2.0
    assert made.is_right(logits).tolist() == [False, False]
    assert made.is_right(logits, "candidates").tolist() == [True, False]
    with pytest.raises(ins.InputError, match="'vocabulary' or 'candidates'"):
        made.is_right(logits, "all")


def test_answered_by_is_what_a_plain_forward_says() -> None:
    tokenizer = word_tokenizer([*WORDS, *(f"w{i}" for i in range(60 - len(WORDS)))])  # a word for every id there is
    model = ins.open(gpt2_module(), tokenizer=tokenizer)
    mixed = pairs(model, clean=(CLEAN[0], "Rome in"), corrupted=(CORRUPTED[0], "Bonn in"))  # of unequal length
    tops = tops_after(mixed.clean_ids)
    assert mixed.answered_by(model).tolist() == [t == int(a) for t, a in zip(tops, mixed.answer_ids, strict=True)]
    best = pairs(
        model, clean=mixed.clean, corrupted=mixed.corrupted, answers=[f" {tokenizer.decode([t])}" for t in tops]
    )
    assert best.answered_by(model, batch=1).tolist() == [True, True]
    assert best.answered_by(model, batch=2).tolist() == [True, True]


def tops_after(prompts) -> list[int]:
    with torch.no_grad():
        return [int(gpt2_module()(torch.tensor([ids])).logits[0, -1].argmax()) for ids in prompts]


def test_a_description_shows_the_example_and_what_was_left_out() -> None:
    tokenizer = word_tokenizer(WORDS)
    drafts = [Draft(Text(CLEAN[i]), Text(CORRUPTED[i]), a, " Germany") for i, a in enumerate((" Italy", " one more"))]
    made = collect("cities", Tokens(tokenizer), drafts, None)
    said = made.describe(tokenizer)
    assert "cities: 1 pairs of 8 tokens; 50.0% by chance" in said
    assert "end 7 'in'" in said
    assert "1 of 2 pairs tried" in said
    assert "' one more' is 2 tokens" in said


def test_nothing_that_fits_is_refused_with_the_reason() -> None:
    drafts = [Draft(Text(CLEAN[0]), Text(CORRUPTED[0]), " one more", " Germany")]
    with pytest.raises(ins.TokenError, match=r"none of 1 pairs fits.*\n.*'one'\|'more'"):
        collect("cities", Tokens(word_tokenizer(WORDS)), drafts, None)
    with pytest.raises(ins.TokenError, match="does not have every word"):
        collect("cities", Tokens(word_tokenizer(WORDS[1:])), drafts, None)


def test_more_pairs_than_there_are_is_refused_with_their_number() -> None:
    drafts = [Draft(Text(CLEAN[i]), Text(CORRUPTED[i]), " Italy", " Germany") for i in (0, 1, 0)]
    with pytest.raises(ins.InputError, match="3 pairs were asked for and 2 different ones can be made"):
        collect("cities", Tokens(word_tokenizer(WORDS)), drafts, 3)
    with pytest.raises(ins.InputError, match="at least one pair"):
        collect("cities", Tokens(word_tokenizer(WORDS)), drafts, 0)


def test_a_filled_template_knows_where_its_words_stand() -> None:
    made = fill("{a} and {b} met {a} at {_place}", a="Mary", b="Al", _place="noon")
    assert made.text == "Mary and Al met Mary at noon"
    assert {r: [made.text[i:j] for i, j in s] for r, s in made.spans.items()} == {"a": ["Mary", "Mary"], "b": ["Al"]}


def test_a_byte_tokenizer_gives_words_of_several_positions() -> None:
    made = Pairs.of(
        byte_tokenizer(), ["I like tea"], ["I like pie"], ["!"], ["?"], roles={"drink": ["tea"]}, aligned=False
    )
    assert made.roles["drink"].tolist() == [[7, 8, 9]]
