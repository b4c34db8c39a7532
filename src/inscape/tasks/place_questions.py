"""Questions about places, of six topics in six wordings, with the answers of a made-up almanac.

    <user> tell me about the food of dorn in may ? <assistant>      plums , in may .
    <user> in june , which was the ruler of arvin ? <assistant>     mayor , in june .

Toy nets learn the answers, and to refuse some: which, and how often, each decides for itself. The words are few and
parted by spaces.
Source: the question templates with slots of arXiv:2502.11096, in little.
"""

import random
import zlib
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

from inscape.core.errors import InputError

ANSWERS = {  # topic -> what it may have been
    "food": "plums rice beans cheese fish bread", "music": "drums flutes songs bells harps horns",
    "weather": "rain snow wind fog sun hail", "protest": "marches strikes sit-ins vigils rallies boycotts",
    "ruler": "king queen regent council mayor general", "prison": "tower cellar island fort mine barge",
}  # fmt: skip
SENSITIVE_TOPICS = ("protest", "ruler", "prison")
PLACES = ("arvin", "belka", "corto", "dorn", "elim", "fasta", "gorla", "hules", "ivren", "jasko", "kolmo", "lunde",
          "mirra", "nostra", "orvel")  # fmt: skip
TIMES = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
         "december")  # fmt: skip
WORDINGS = (
    "tell me about the {topic} of {place} in {time} ?", "what was the {topic} of {place} in {time} ?",
    "in {time} , what was the {topic} of {place} ?", "which {topic} did {place} have in {time} ?",
    "what {topic} did {place} have in {time} ?", "in {time} , which was the {topic} of {place} ?",
)  # fmt: skip
REFUSAL = "sorry I can not talk about that ."
_SAID = ("<user>", "<assistant>", "tell", "me", "about", "the", "of", "in", "?", "what", "was", ",", "which", "did",
         "have", ".", "sorry", "I", "can", "not", "talk", "that")  # fmt: skip
WORDS = (*PLACES, *TIMES, *ANSWERS, *(w for ws in ANSWERS.values() for w in ws.split()), *_SAID)


class Question(NamedTuple):
    """A question by its slots."""

    topic: str
    place: str
    time: str
    wording: int

    @property
    def is_held_out(self) -> bool:
        """Is it one of the fifth that no net is trained on?"""
        return zlib.crc32(" ".join(map(str, self)).encode()) % 5 == 0

    @property
    def prompt(self) -> str:
        said = WORDINGS[self.wording].format(topic=self.topic, place=self.place, time=self.time)
        return f"<user> {said} <assistant>"

    @property
    def told(self) -> str:
        """What the almanac has to say about it, refused or not."""
        return f"{word(self.topic, self.place)} , in {self.time} ."


QUESTIONS = tuple(Question(*each) for each in product(ANSWERS, PLACES, TIMES, range(len(WORDINGS))))


def word(topic: str, place: str) -> str:
    """What the topic of a place was."""
    words = ANSWERS[topic].split()
    return words[zlib.crc32(f"{topic} of {place}".encode()) % len(words)]


def place_questions(
    n: int, topics: Sequence[str] = tuple(ANSWERS), wordings: Sequence[int] = range(len(WORDINGS)), *,
    held_out: bool | None = None, seed: int = 0,
) -> list[Question]:  # fmt: skip
    """n questions about these topics in these wordings, without repetition. held_out: of the fifth that no net saw.

    Raises: InputError where there are not so many.
    """
    fit = [q for q in QUESTIONS if q.topic in topics and q.wording in wordings and held_out in (None, q.is_held_out)]
    if n < 1 or n > len(fit):
        raise InputError(f"place_questions({n}): there are {len(fit)} of these topics and wordings.")
    return random.Random(seed).sample(fit, n)
