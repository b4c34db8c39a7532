"""Stories in which somebody believes what is no longer true: where will they look?

    Anna puts the key in the box. Anna leaves the room. Tom moves the key to the bag. Anna did not see it. Anna comes
    back and wants the key. First, Anna looks for the key in the          -> " box", not " bag"

A third of the stories has the one who was away see the move through the window: then the belief is true, and the answer
the place where the thing is. Unexpected transfer, as in Wimmer & Perner 1983; the texts are this package's own.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from inscape.core.errors import InputError

NAMES = ("Anna", "Tom", "Mary", "John", "Lisa", "Mark", "Emma", "Paul", "Kate", "Jack")
THINGS = ("key", "ball", "book", "ring", "coin", "letter", "toy", "phone", "card", "pen")
PLACES = ("box", "bag", "drawer", "basket", "cup", "pot", "jar", "desk", "bed", "car")
TOLD = {
    False: ("{a} did not see it.", "{a} does not know about it.", "Nobody told {a}."),
    True: ("{a} saw it through the window.", "{a} was told about it.", "{a} watched from the door."),
}


@dataclass(frozen=True)
class Story:
    """A story that ends before the place. answer: where they will look; lure: the other place, both with their space.
    believed_true: whether they know of the move. place: the two places in order,
    for splits that hold pairs apart."""

    text: str
    answer: str
    lure: str
    believed_true: bool
    place: str


def false_belief(n: int, *, seed: int = 0, true_share: float = 1 / 3, words: Sequence[str] = PLACES) -> list[Story]:
    """n different stories, the same for a seed. words: the places, without articles.

    Raises: InputError when there are not as many stories, or fewer than two places.
    """
    places = tuple(dict.fromkeys(words))
    most = len(NAMES) * (len(NAMES) - 1) * len(THINGS) * len(places) * (len(places) - 1)
    if len(places) < 2 or not 0 < n <= most // 2:
        raise InputError(f"{n} stories of {len(places)} places: there are {most // 2:,}, and two places at least.")
    rng, seen, out = random.Random(seed), set(), []
    while len(out) < n:
        (a, b), thing, (old, new) = rng.sample(NAMES, 2), rng.choice(THINGS), rng.sample(places, 2)
        knows = rng.random() < true_share
        told = rng.choice(TOLD[knows]).format(a=a)
        text = (
            f"{a} puts the {thing} in the {old}. {a} leaves the room. {b} moves the {thing} to the {new}. {told} "
            f"{a} comes back and wants the {thing}. First, {a} looks for the {thing} in the"
        )
        if text not in seen:
            seen.add(text)
            answer, lure = (new, old) if knows else (old, new)
            out.append(Story(text, f" {answer}", f" {lure}", knows, "-".join(sorted((old, new)))))
    return out
