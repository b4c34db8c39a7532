"""Stories of a belief: what they say, and that they are told apart."""

import pytest

from inscape.core.errors import InputError
from inscape.tasks.false_belief import false_belief


def test_who_did_not_see_the_move_looks_where_it_was():
    for story in false_belief(60, seed=1):
        was = story.text.split(" in the ")[1].split(".")[0]
        now = story.text.split(" to the ")[1].split(".")[0]
        assert story.answer.strip() == (now if story.believed_true else was)
        assert story.lure.strip() == (was if story.believed_true else now)
        assert story.text.endswith(" in the")


def test_stories_differ_and_a_seed_gives_the_same_ones():
    stories = false_belief(200, seed=3)
    assert len({s.text for s in stories}) == 200
    assert stories == false_belief(200, seed=3)
    assert 0.2 < sum(s.believed_true for s in stories) / 200 < 0.47


def test_errors_say_what_is_wrong():
    with pytest.raises(InputError, match="two places at least"):
        false_belief(5, words=["box"])
    with pytest.raises(InputError, match="0 stories"):
        false_belief(0)
