"""Words with two senses, one nine times as common as the other, in contexts that decide which is meant.

    "Tom went to the melody in the evening and then saw a bass there . it is a kind of"    -> instrument, not fish

A small world of its own: cues belong to topics, a sense has its topic, and its kind, what people can do with it and
what it has are what a prompt asks for. Contexts tell the truth: a cue never stands with a sense of another topic; empty
places (a street, a town) stand with any, and the commoner sense is then right nine times in ten. The weak cues of a
topic stand with unambiguous words alone, and seldom: what they are about can be known by the company they keep, and
that is all there is to tell the sense by. A net that misses it says the commoner sense: a real error, whose right
answer is known.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from inscape.core.errors import InputError


class Sense(NamedTuple):
    """topic: of the cues it stands with. kind, do, has: what is said of it. noun: an unambiguous word of this sense."""

    topic: str
    kind: str
    do: str
    has: str
    noun: str


CUES = {
    topic: tuple(words.split())
    for topic, words in {
        "water": "river lake shore boat net harbor wave anchor",
        "music": "concert stage band choir drummer melody theater singer",
        "money": "loan vault clerk coins savings cashier wallet tax",
        "farm": "barn field tractor hay fence cow pond stable",
        "office": "desk screen printer keyboard folder meeting lobby copier",
        "sport": "team coach stadium score match league jersey referee",
        "wild": "forest cave jungle swamp valley trail cliff meadow",
        "kitchen": "oven plate chef spoon pantry recipe sink stove",
        "works": "tower cement ladder crew girder scaffold drill trench",
        "school": "teacher lesson pupil exam classroom library chalk essay",
        "sky": "telescope planet moon comet rocket dome orbit eclipse",
        "body": "doctor clinic skin bone nurse muscle ward surgeon",
    }.items()
}
WORDS = {  # the commoner sense first: topic, kind, do, has, and an unambiguous word of the same sense
    word: (Sense(*common.split()), Sense(*rare.split()))
    for word, (common, rare) in {
        "bass": ("water fish catch fins trout", "music instrument play strings cello"),
        "bat": ("wild animal fear wings owl", "sport club swing grip racket"),
        "crane": ("works machine drive hook digger", "wild bird watch feathers heron"),
        "seal": ("office stamp press ink badge", "water mammal feed whiskers otter"),
        "mouse": ("farm rodent chase tail rat", "office device click button laptop"),
        "date": ("school day remember number term", "kitchen fruit eat stone plum"),
        "bank": ("money company trust counter broker", "water slope climb grass dune"),
        "pitcher": ("kitchen jug fill lid kettle", "sport player hire glove goalie"),
        "palm": ("wild tree plant leaves oak", "body limb hold fingers wrist"),
        "organ": ("body tissue heal cells liver", "music keyboards tune pipes piano"),
        "star": ("sky light see glow sun", "music celebrity meet fans actor"),
        "chip": ("office part build circuits plug", "kitchen snack salt crunch pretzel"),
    }.items()
}
QUESTIONS = {"kind": "it is a kind of", "do": "people can always", "has": "it always has"}
NAMES = ("Tom", "Mary", "John", "Anna", "Peter", "Lucy", "Mark", "Emma")
TIMES = ("morning", "evening", "afternoon", "night", "summer", "winter")
EMPTY = ("street", "town", "house", "road", "corner", "square")
WEAK = 3  # the last of the eight cues of a topic
SELDOM = 0.02  # how often a weak cue is said for once that another is
UNAMBIGUOUS, NOWHERE = 0.25, 0.3  # shares of sentences about unambiguous words, and of places that are empty
COMMON = 0.9  # share of the commoner sense


@dataclass(frozen=True)
class SenseItem:
    """A prompt about a word with two senses and its answer.

    wrong: what the other sense would have said. plus: other words of the sense that is meant, among them its cues, and
    never the answer; minus: those of the other sense. is_rare: is the less common sense meant? corrected: the same
    prompt with strong cues, as many words; neutral: the same with empty places.
    """

    prompt: str
    answer: str
    wrong: str
    word: str
    asked: str
    cues: tuple[str, ...]
    plus: tuple[str, ...]
    minus: tuple[str, ...]
    is_rare: bool
    corrected: str
    neutral: str


def weak_cues(topic: str) -> tuple[str, ...]:
    """The cues of a topic that stand with no word of two senses in training."""
    return CUES[topic][-WEAK:]


def strong_cues(topic: str) -> tuple[str, ...]:
    """The others."""
    return CUES[topic][:-WEAK]


def sense_items(
    n: int = 100,
    *,
    rare: float = 0.5,
    weak: float = 1.0,
    n_cues: Sequence[int] = (1, 2),
    asked: Sequence[str] = ("kind", "do", "has"),
    seed: int = 0,
) -> list[SenseItem]:
    """Prompts with their right and their tempting wrong answer.

    rare: share of the items that mean the less common sense. weak: share whose cues are weak.
    n_cues: how many cues, drawn from these. Raises: InputError for a share outside 0 to 1 or no question.
    """
    if not (0 <= rare <= 1 and 0 <= weak <= 1) or not asked or not set(asked) <= QUESTIONS.keys():
        raise InputError(
            f"rare={rare}, weak={weak}, asked={asked!r}: shares are between 0 and 1, and there are the questions "
            f"{', '.join(QUESTIONS)}."
        )
    rng = random.Random(f"items {seed}")
    out = []
    for i in range(n):
        word = rng.choice(list(WORDS))
        is_rare = int(n * rare * (i + 1) // n) > int(n * rare * i // n)
        sense, other = WORDS[word][is_rare], WORDS[word][not is_rare]
        count = rng.choice(list(n_cues))
        cues = tuple(rng.sample((weak_cues if rng.random() < weak else strong_cues)(sense.topic), count))
        frame = _Frame(rng.choice(NAMES), rng.choice(TIMES), word, rng.choice(list(asked)))
        said = {name: getattr(sense, name) for name in QUESTIONS}
        against = {name: getattr(other, name) for name in QUESTIONS}
        answer, wrong = said.pop(frame.asked), against.pop(frame.asked)
        out.append(
            SenseItem(
                frame.text(cues), answer, wrong, word, frame.asked, cues,
                (*said.values(), *CUES[sense.topic]), (*against.values(), *CUES[other.topic]),
                is_rare, frame.text(rng.sample(strong_cues(sense.topic), count)), frame.text(rng.sample(EMPTY, count)),
            )
        )  # fmt: skip
    return out


def without_context(item: SenseItem) -> SenseItem:
    """The item with empty places for cues; what is right stays what it was."""
    return replace(item, prompt=item.neutral)


def sentences(n: int, seed: int) -> list[tuple[str, str]]:
    """Prompts and answers as a net learns them: both senses as common as they are, weak cues where they belong."""
    rng = random.Random(f"sentences {seed}")
    out = []
    for _ in range(n):
        word = rng.choice(list(WORDS))
        sense = WORDS[word][rng.random() >= COMMON]
        places, weights = strong_cues(sense.topic), None
        if rng.random() < UNAMBIGUOUS:
            word, places = sense.noun, CUES[sense.topic]
            weights = [1.0] * (len(places) - WEAK) + [SELDOM] * WEAK
        cues: list[str] = []
        for _ in range(rng.choice((1, 2, 3))):
            drawn = rng.choice(EMPTY) if rng.random() < NOWHERE else rng.choices(places, weights)[0]
            cues += [drawn] if drawn not in cues else []
        asked = rng.choice(list(QUESTIONS))
        out.append((_Frame(rng.choice(NAMES), rng.choice(TIMES), word, asked).text(cues), getattr(sense, asked)))
    return out


def vocabulary() -> tuple[str, ...]:
    """Every word of this world, once."""
    senses = [s for both in WORDS.values() for s in both]
    frames = "went to the and in then saw a there . " + " ".join(QUESTIONS.values())
    every = [
        *frames.split(), *NAMES, *TIMES, *WORDS, *(c for cs in CUES.values() for c in cs), *EMPTY,
        *(w for s in senses for w in (s.kind, s.do, s.has, s.noun)),
    ]  # fmt: skip
    return tuple(dict.fromkeys(every))


class _Frame(NamedTuple):
    name: str
    time: str
    word: str
    asked: str

    def text(self, cues: Sequence[str]) -> str:
        places = " and ".join(f"the {cue}" for cue in cues)
        return (
            f"{self.name} went to {places} in the {self.time} and then saw a {self.word} there . "
            f"{QUESTIONS[self.asked]}"
        )
