"""How many things a caption names that are not there, beside how many that are there it names."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.interval import Interval
from inscape.core.nulls import bootstrap, share

Words = Sequence[str] | Mapping[str, Sequence[str]]


@dataclass(frozen=True, eq=False)
class Chair:
    """Hallucinated objects in captions, each rate with an interval by caption; None where no caption gives it.

    mentions: share of named objects that are not there (CHAIR_i). captions: share of captions with one such at least
    (CHAIR_s). recall: share of objects that are there and named. length: words a caption; read the rates beside it and
    beside recall, since a caption that says less is wrong less. control: `mentions` and `recall` of the same captions
    beside the objects of other pictures. named, wrong, present, found: counts by caption; `told` what each named.
    """

    mentions: Interval | None
    captions: Interval
    recall: Interval | None
    length: Float[Tensor, " caption"]
    named: Int[Tensor, " caption"]
    wrong: Int[Tensor, " caption"]
    present: Int[Tensor, " caption"]
    found: Int[Tensor, " caption"]
    told: tuple[tuple[str, ...], ...]
    control: "Chair | None" = None

    @property
    def hallucinates(self) -> Bool[Tensor, " caption"]:
        """Which captions name something that is not there."""
        return self.wrong > 0

    def __str__(self) -> str:
        return (
            f"not there: {self.mentions} of mentions, {self.captions} of captions; named of what is there: "
            f"{self.recall}; {float(self.length.mean()):.1f} words"
        )


def chair(
    captions: Sequence[str],
    objects: Sequence[Iterable[str]],
    vocabulary: Words,
    *,
    control: str | None = "shuffle",
    seed: int = 0,
) -> Chair:
    """Count what captions name and is not there: `wrong / named` over mentions, and the share of captions with any.

    objects: what each picture shows. vocabulary: every object that counts, or a mapping from it to the words and
    phrases that name it ({"couch": ["sofa", "settee"]}); it is named once a caption, however often it is said. Words
    are found whole, whatever their case, with a plural s or es; the longest name wins ("hot dog" is no dog).
    control: "shuffle" counts the same captions beside the objects of other pictures (a random order that leaves none
    in its place); one caption has none.
    Intervals: by caption, bootstrapped (rates over mentions are ratios of sums), Wilson's for the share of captions.
    Raises: InputError for lists of unlike length, no captions, objects outside the vocabulary, names of two objects.
    Source: CHAIR of Rohrbach et al. 2018, arXiv:1809.02156; there an object that is said twice counts twice.
    """
    if isinstance(captions, str) or not captions or len(captions) != len(objects):
        raise InputError(
            f"{0 if isinstance(captions, str) else len(captions)} captions and {len(objects)} sets of objects: give a "
            "list of captions and what each of their pictures shows."
        )
    if control not in (None, "shuffle"):
        raise InputError(f"control={control!r} is none of these counts; it can be 'shuffle' or None.")
    names_of = _finder(vocabulary)
    known = set(vocabulary)
    there = [frozenset([o] if isinstance(o, str) else o) for o in objects]
    strange = sorted({o for of in there for o in of} - known)
    if strange:
        raise InputError(
            f"the pictures show {', '.join(map(repr, strange[:5]))}, which the vocabulary does not have.\n"
            f"  it knows {', '.join(map(repr, list(vocabulary)[:8]))}."
        )
    told = [tuple(dict.fromkeys(names_of(text))) for text in captions]
    length = torch.tensor([len(text.split()) for text in captions], dtype=torch.float32)
    counted = _counted(told, there, length, seed)
    if control is None or len(captions) < 2:
        return counted
    generator = torch.Generator().manual_seed(seed)
    cycle = torch.randperm(len(there), generator=generator)
    moved = dict(zip(cycle.tolist(), cycle.roll(1).tolist(), strict=True))
    other = _counted(told, [there[moved[i]] for i in range(len(there))], length, seed)
    return replace(counted, control=other)


def _counted(told: list[tuple[str, ...]], there: list[frozenset[str]], length: Tensor, seed: int) -> Chair:
    named = torch.tensor([len(t) for t in told])
    wrong = torch.tensor([sum(n not in of for n in t) for t, of in zip(told, there, strict=True)])
    present = torch.tensor([len(of) for of in there])
    found = named - wrong
    flags = (wrong > 0).float()
    return Chair(
        _ratio(wrong, named, seed), share(flags), _ratio(found, present, seed), length, named, wrong, present, found,
        tuple(told),
    )  # fmt: skip


def _ratio(part: Tensor, whole: Tensor, seed: int) -> Interval | None:
    """The sum of one over the sum of the other, by caption; captions without any of either are no items."""
    used = whole > 0
    a, b = part[used].double(), whole[used].double()
    if not len(b):
        return None
    value = float(a.sum() / b.sum())
    if len(b) < 2 or bool((a == 0).all()) or bool((a == b).all()):  # no spread to resample: Wilson's, of the captions
        rough = share(torch.full((len(b),), value > 0.5).float())
        return Interval(value, min(value, rough.low), max(value, rough.high), rough.level, len(b))
    return bootstrap((a, b), lambda x, y: x.sum() / y.sum(), method="percentile", seed=seed)


def _finder(vocabulary: Words) -> Callable[[str], list[str]]:
    """A function: the objects that a text names, in order, by their own names."""
    if isinstance(vocabulary, str) or not len(vocabulary):
        raise InputError("the vocabulary is a list of objects, or a mapping from them to the words that name them.")
    words = vocabulary if isinstance(vocabulary, Mapping) else dict.fromkeys(vocabulary, ())
    by_name: dict[str, str] = {}
    for thing, others in words.items():
        for name in (thing, *([others] if isinstance(others, str) else others)):
            key = " ".join(name.lower().split())
            if not key or by_name.setdefault(key, thing) != thing:
                raise InputError(
                    f"{name!r} names both {by_name.get(key)!r} and {thing!r}: a name belongs to one object."
                )
    longest = sorted(by_name, key=len, reverse=True)
    either = "|".join(r"\s+".join(map(re.escape, name.split())) for name in longest)
    pattern = re.compile(rf"(?<!\w)({either})(?:s|es)?(?!\w)")
    return lambda text: [by_name[" ".join(m[1].split())] for m in pattern.finditer(text.lower())]
