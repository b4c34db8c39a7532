"""Why might this have been the next token? Simple readings of a place in a text, for labelling what a head is good for.

A behaviour is a function of (the tokens so far, the right next token) that says yes or no. They are readings of the
text alone, so several may hold at one place, and each holds at some places by chance: compare with a base rate.
"""

from collections.abc import Callable, Sequence

from inscape.core.errors import InputError, TokenError
from inscape.models.model import Model
from inscape.tasks.ordinals import ordinals

Behaviour = Callable[[Sequence[int], int], bool]


def behaviours(model: Model) -> dict[str, Behaviour]:
    """The behaviours that this model's tokenizer allows: copying always; with a tokenizer those of ordered classes too.

    copying: the token stood before. successor, predecessor: it follows, or comes before, an earlier one in an ordered
    class, however both are written. greater: a numeral above an earlier numeral. acronym: capital letters, the first
    ones of as many earlier words in a row.
    """
    found: dict[str, Behaviour] = {"copying": lambda seen, right: right in seen}
    try:
        places = _places(model)
    except (InputError, TokenError):  # no tokenizer, or none whose tokens are members of ordered classes
        places = {}
    if places:
        found["successor"] = lambda seen, right: _steps(places, seen, right, 1)
        found["predecessor"] = lambda seen, right: _steps(places, seen, right, -1)
        found["greater"] = lambda seen, right: _greater(places, seen, right)
    if model.tokenizer is not None:
        found["acronym"] = lambda seen, right: _acronym(model, seen, right)
    return found


Places = dict[int, set[tuple[str, int, int]]]  # token -> (class, value, size of the class where its end leads on, or 0)


def _places(model: Model) -> Places:
    made: Places = {}
    for one in ordinals(model):
        for token, value in zip(one.ids.tolist(), one.values, strict=True):
            made.setdefault(token, set()).add((one.name, value, one.size if one.cyclic else 0))
    return made


def _steps(places: Places, seen: Sequence[int], right: int, by: int) -> bool:
    wanted = {(c, (v - by) % size if size else v - by) for c, v, size in places.get(right, ())}
    return bool(wanted) and any((c, v) in wanted for token in set(seen) for c, v, _ in places.get(token, ()))


def _greater(places: Places, seen: Sequence[int], right: int) -> bool:
    here = [v for c, v, _ in places.get(right, ()) if c == "numerals"]
    return bool(here) and any(
        c == "numerals" and v < max(here) for token in set(seen) for c, v, _ in places.get(token, ())
    )


def _acronym(model: Model, seen: Sequence[int], right: int) -> bool:
    letters = model.tokenizer.decode([right]).strip()
    if not (letters.isascii() and letters.isalpha() and letters.isupper() and len(letters) > 1):
        return False
    words = model.tokenizer.decode(list(seen)).split()
    return letters in "".join(word[0] if word[:1].isupper() else " " for word in words)
