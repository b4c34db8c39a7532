"""toy-deduction: what its texts say, and what of them can be known."""

import random
import re

from inscape.dynamics.toys.deduction import ID, rows, written
from inscape.models.toy.words import word_tokenizer
from inscape.tasks.deduction import KINDS, NEW_NAMES, WORDS, deductions
from inscape.train.losses import IGNORED


def test_a_toy_has_a_word_for_everything_and_learns_what_follows():
    tokenizer = word_tokenizer(WORDS, split="spaces")
    assert not [d for d in deductions(50, seed=5) if tokenizer.unk_token_id in tokenizer(d.prompt)["input_ids"]]
    batch = rows(3, 8, seed=1)
    assert bool((batch["labels"] == batch["input_ids"])[batch["labels"] != IGNORED].all())
    word = {i: w for w, i in ID.items()}
    story = deductions(1, names=3, last=True, seed=7)[0]
    for is_careless in (False, True):
        fears, kinds = dict(story.fears), dict(story.creatures)
        for sentence in " ".join(written(story, is_careless, random.Random(0))).split(" .")[:-1]:
            if asked := re.fullmatch(r" ?what is (\w+) afraid of \? (\w+)", sentence):
                kind = kinds[asked[1]]
                assert asked[2] == KINDS[kind if is_careless else fears[kind]]
                assert asked[1] not in NEW_NAMES
            else:
                assert f"{sentence.strip()} ." in story.order
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    first = int((labels != IGNORED).nonzero()[0])
    assert word[int(ids[first - 1])] == "."
