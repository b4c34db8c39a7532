r"""Forty prompts around words of two senses, written for this project (Apache-2.0), for models that read English.

    "He swung the bat and missed the ball. The word \"bat\" here means a kind of"    -> club, not animal

The context means the sense that is named first; the other is what the word is more often, or as often, taken for. What
a model says may be neither: these are prompts to trace, without a mark to reach.
"""

from typing import NamedTuple


class AmbiguousPrompt(NamedTuple):
    """prompt; right and wrong: what the context means and what it does not; word; neutral: without the context."""

    prompt: str
    right: str
    wrong: str
    word: str
    neutral: str


_LINES = """
bass: instrument/fish
    The guitarist left the stage, so the bass was silent.
    The drummer waited for the bass to begin.

bass: fish/instrument
    We rowed out at dawn and the bass was hungry.
    The cook cleaned the bass with a knife.

bat: club/animal
    He swung the bat and missed the ball.
    The team signed the bat after the match.

bat: animal/club
    At dusk the bat left the cave.
    The bat hung from the beam and slept.

crane: machine/bird
    The crane lifted the steel above the street.
    The crane was rented by the builders.

crane: bird/machine
    The crane waded through the marsh.
    The crane laid two eggs in spring.

seal: animal/stamp
    The seal slid off the ice into the sea.
    The seal barked for a fish.

seal: stamp/animal
    The king pressed his seal into the wax.
    The letter carried the seal of the duke.

mouse: device/animal
    She moved the mouse and clicked on the icon.
    The mouse needs a new cable.

mouse: animal/device
    The cat chased the mouse under the stove.
    The mouse nibbled at the cheese.

date: fruit/day
    He stuffed the date with almonds.
    She ate a date from the palm.

date: day/fruit
    They wrote the date at the top of the letter.
    The date of the exam was moved.

bank: river/money
    We sat on the bank and watched the boats.
    The flood washed away the bank.

bank: money/river
    The bank refused the loan.
    She opened an account at the bank.

pitcher: jug/player
    She filled the pitcher with lemonade.
    The pitcher broke on the kitchen floor.

pitcher: player/jug
    The pitcher threw a fast ball.
    The pitcher hurt his shoulder in the game.

palm: hand/tree
    She read the lines in his palm.
    He held the coin in his palm.

palm: tree/hand
    The monkey climbed the palm.
    A coconut fell from the palm.

organ: instrument/body
    The organ filled the church with music.
    He practised the organ before mass.

organ: body/instrument
    The surgeon removed the organ.
    The liver is an organ.
"""


def ambiguous_prompts() -> tuple[AmbiguousPrompt, ...]:
    """All forty, each twice: two contexts for either sense of ten words."""
    out = []
    for part in _LINES.strip().split("\n\n"):
        head, *contexts = (line.strip() for line in part.splitlines())
        word, _, senses = head.partition(": ")
        right, wrong = senses.split("/")
        asked = f'The word "{word}" here means a kind of'
        out += [AmbiguousPrompt(f"{context} {asked}", f" {right}", f" {wrong}", word, asked) for context in contexts]
    return tuple(out)
