"""Three labelled sets that need more and more of a reader: a word, a word and its negation, a chain of events.

    word_kind   After lunch they talked about the horse again.                                -> animal
    negation    Anna said that the soup was not terrible at all.                              -> good
    coin_flips  A coin shows heads. Anna flips it. Mark does not flip it. The coin now shows  -> tails

In each, counts of words say nothing about the label of a held-out group: kinds of words that were never seen, negation
that turns every adjective round, and flips whose number is even or odd.
"""

import random
from collections.abc import Callable, Iterator

from inscape.core.errors import InputError
from inscape.tasks.labelled import LabelledTexts
from inscape.tasks.words import NAMES, listed

ANIMALS = listed(
    "horse cow dog cat sheep goat lion tiger bear wolf fox rabbit mouse rat duck goose crow hen shark whale frog snake "
    "monkey deer camel donkey chicken turkey pigeon spider"
)
TOOLS = listed(
    "hammer saw drill knife spoon fork brush bucket rope ladder needle shovel mop wrench broom lamp chair table clock "
    "bottle bowl cup plate pan kettle mirror candle basket wheel key"
)
FRAMES = (
    "After lunch they talked about the {word} again.", "He had never seen such a {word} before.",
    "My aunt keeps a picture of a {word} in the hall.", "We spent all morning looking for the {word} there.",
    "The story begins with a {word} in a small town.", "Nobody could remember where the {word} had been.",
    "She asked me to draw the {word} once more.", "In the end it was only a {word} after all.",
    "The children wanted to know more about the {word} now.", "There was something strange about the {word} today.",
)  # fmt: skip
GOOD = listed("wonderful great excellent lovely delicious beautiful amazing perfect pleasant fantastic nice brilliant")
BAD = listed("terrible awful horrible nasty disgusting ugly dreadful bad boring unpleasant poor dull")
THINGS = listed("soup film hotel book song party dinner journey concert lesson game house")
OPINIONS = ("{name} said that the {thing} was {word} at all times.", "To {name}, the {thing} was {word} in every way.")


def word_kind(n: int = 600, *, seed: int = 0) -> LabelledTexts:
    """Is an animal or a tool named? The easiest: one word, known whatever stands around it.

    Group: the word, so that a probe is tested on words it has not seen. Raises: InputError above 600.
    """
    pairs = [(w, kind) for kind, words in (("animal", ANIMALS), ("tool", TOOLS)) for w in words]
    every = [(frame.format(word=w), kind, w) for w, kind in pairs for frame in FRAMES]
    return _made("word_kind", iter(_shuffled(every, seed)), n, FRAMES[0])


def negation(n: int = 600, *, seed: int = 0) -> LabelledTexts:
    """Is the thing well spoken of? The adjective, turned round by a negation in half of the texts.

    Every word is as frequent in either class. Group: adjective. Raises: InputError above 6,000.
    """
    return _made("negation", _opinions(random.Random(seed)), n, OPINIONS[0])


def coin_flips(n: int = 600, *, people: int = 2, seed: int = 0) -> LabelledTexts:
    """Which side shows after two (or more) people flip a coin or do not: the side at first, turned round for each flip.

    Group: who acts, so that no pair of names is in both training and test. people: 1 to 4.
    """
    if not 1 <= people <= 4:
        raise InputError(f"people={people}: there can be 1 to 4.")
    return _made("coin_flips", _flips(random.Random(seed), people), n, "A coin shows heads. Anna flips it. ...")


CONCEPTS: dict[str, Callable[..., LabelledTexts]] = {
    "word_kind": word_kind, "negation": negation, "coin_flips": coin_flips,
}  # fmt: skip


def _opinions(rng: random.Random) -> Iterator[tuple[str, str, str]]:
    while True:
        block = [(word, kind, no) for kind, words in (("good", GOOD), ("bad", BAD)) for word in words for no in (0, 1)]
        rng.shuffle(block)
        for word, kind, no in block:
            form = rng.choice(OPINIONS).format(
                name=rng.choice(NAMES), thing=rng.choice(THINGS), word=f"not {word}" if no else f"very {word}"
            )
            yield form, kind if not no else ("bad" if kind == "good" else "good"), word


def _flips(rng: random.Random, people: int) -> Iterator[tuple[str, str, str]]:
    cases = [(side, bits) for side in (0, 1) for bits in range(2**people)]
    while True:
        rng.shuffle(cases)
        for side, bits in cases:
            names = rng.sample(list(NAMES), people)
            acts = [f"{x} {'flips' if bits >> i & 1 else 'does not flip'} it." for i, x in enumerate(names)]
            end = (side + bits.bit_count()) % 2
            text = f"A coin shows {('heads', 'tails')[side]}. {' '.join(acts)} The coin now shows"
            yield text, ("heads", "tails")[end], "+".join(sorted(names))


def _shuffled(items: list[tuple[str, str, str]], seed: int) -> list[tuple[str, str, str]]:
    """Both classes in turn, so that any first n are balanced."""
    rng = random.Random(seed)
    rng.shuffle(items)
    sides: dict[str, list[tuple[str, str, str]]] = {}
    for item in items:
        sides.setdefault(item[1], []).append(item)
    return [item for pair in zip(*sides.values(), strict=True) for item in pair]


def _made(name: str, drawn: Iterator[tuple[str, str, str]], n: int, template: str) -> LabelledTexts:
    if n < 4:
        raise InputError(f"{name}({n}): four texts are the fewest.")
    found: dict[str, tuple[str, str]] = {}
    idle = 0
    for text, label, group in drawn:
        idle = idle + 1 if text in found else 0
        found.setdefault(text, (label, group))
        if len(found) == n or idle > 20_000:
            break
    if len(found) < n:
        raise InputError(f"{name}({n}): there are only {len(found)} different texts.")
    labels, groups = zip(*found.values(), strict=True)
    return LabelledTexts(name, tuple(found), labels, groups, template)
