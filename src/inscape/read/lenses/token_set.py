"""Which tokens begin a word: what a lens must add up to know how much of a word a state says.

token_set(tokenizer, "fleur")     the ids of fl, fle, fleu, fleur, and of the same after a space, as far as there
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from inscape.core.errors import InputError, TokenError

LETTERS = ("LATIN", "GREEK", "CYRILLIC")  # scripts in which one letter begins thousands of words


@dataclass(frozen=True, eq=False)
class WordSets:
    """Token sets by concept and label. sizes: of the sets. dropped: concepts that were left out, and why."""

    sets: dict[str, dict[str, tuple[int, ...]]]
    dropped: dict[str, str]

    def by_label(self, concepts: Sequence[str]) -> dict[str, list[tuple[int, ...]]]:
        """{label: [its set for each concept]}, as `token_set_lens` takes it."""
        labels = next(iter(self.sets.values()))
        return {label: [self.sets[concept][label] for concept in concepts] for label in labels}


def token_set(
    tokenizer: Any,
    word: str | Sequence[str],
    prefixes: bool = True,
    space_variants: bool = True,
    bytes: bool = True,
) -> tuple[int, ...]:
    """The tokens that a text would go on with if it went on with this word (or one of its forms).

    prefixes: every beginning of the word that is a token, not only the whole word; a single letter of a Latin, Greek or
        Cyrillic word begins too many others and is left out. space_variants: also with the space before it inside the
        token. bytes: where the first character has no token of its own, the bytes that it begins with.
    Cost: two look-ups a character. Knows tokenizers of SentencePiece, of bytes, WordPiece and whole words.
    Raises: TokenError with the word's pieces when no token begins it; InputError for an empty word.
    Source: the token sets of arXiv:2408.10811 and Wendler et al. 2024, arXiv:2402.10588.
    """
    forms = [word] if isinstance(word, str) else list(word)
    if not forms or not all(form.strip() for form in forms):
        raise InputError(f"{word!r} is no word: there is nothing that a token could begin.")
    spelled = _speller(tokenizer)
    found: dict[int, None] = {}
    for form in (form.strip() for form in forms):
        starts = [form[:n] for n in range(1, len(form) + 1)] if prefixes else [form]
        starts = [s for s in starts if s == form or len(s) > 1 or not _is_letter(s)]
        tokens = [f"{space}{s}" for s in starts for space in (("", " ") if space_variants else ("",))]
        ids = [i for text in tokens for i in spelled(text)]
        if bytes and not spelled(form[0]):
            ids += _byte_tokens(tokenizer, form[0])
        found |= dict.fromkeys(ids)
    if not found:
        pieces = [tokenizer.decode([i]) for i in tokenizer(forms[0], add_special_tokens=False)["input_ids"]]
        raise TokenError(
            f"no token begins {forms[0]!r}; the tokenizer cuts it into {'|'.join(map(repr, pieces)) or 'nothing'}.\n"
            "  leave the word out, or allow bytes=True and prefixes=True."
        )
    return tuple(found)


def overlaps(sets: Mapping[str, Sequence[int]]) -> dict[tuple[str, str], tuple[int, ...]]:
    """Pairs of labels whose sets share tokens, with these: none of those says which of the two is meant."""
    found = {}
    for one, two in combinations(sets, 2):
        shared = tuple(sorted(set(sets[one]) & set(sets[two])))
        if shared:
            found[one, two] = shared
    return found


def word_sets(tokenizer: Any, words: Mapping[str, Mapping[str, str | Sequence[str]]], **how: Any) -> WordSets:
    """Token sets of every concept in every label, {concept: {label: word or forms}}; what cannot be told apart is out.

    A concept is dropped, and the reason kept, when two of its labels share a token (cognates, shared characters) or a
    word has no token. how: as in `token_set`.
    Raises: InputError for concepts with unlike labels; TokenError when fewer than two concepts are left.
    """
    labels = list(next(iter(words.values()), {}))
    unlike = [concept for concept, of in words.items() if list(of) != labels]
    if unlike or not labels:
        raise InputError(f"{', '.join(unlike[:3]) or 'these words'}: every concept needs the same labels in one order.")
    kept: dict[str, dict[str, tuple[int, ...]]] = {}
    dropped: dict[str, str] = {}
    for concept, of in words.items():
        try:
            sets = {label: token_set(tokenizer, word, **how) for label, word in of.items()}
        except TokenError as error:
            dropped[concept] = str(error).splitlines()[0]
            continue
        shared = overlaps(sets)
        if shared:
            (one, two), ids = next(iter(shared.items()))
            dropped[concept] = f"{one} and {two} share {'|'.join(repr(tokenizer.decode([i])) for i in ids[:3])}"
        else:
            kept[concept] = sets
    if len(kept) < 2:
        some = "; ".join(f"{concept}: {why}" for concept, why in list(dropped.items())[:4])
        raise TokenError(f"{len(kept)} of {len(words)} concepts can be told apart by their tokens: {some}.")
    return WordSets(kept, dropped)


def _speller(tokenizer: Any) -> Any:
    """A function: the ids of the tokens that are exactly this text (a leading space included)."""

    def known(name: str) -> int | None:
        i = tokenizer.convert_tokens_to_ids(name)
        return i if isinstance(i, int) and tokenizer.convert_ids_to_tokens(i) == name else None

    if known("▁") is not None or known("▁a") is not None or known("▁the") is not None:

        def names(text: str) -> list[str]:
            return [text.replace(" ", "▁")]

    elif known("Ġ") is not None:

        def names(text: str) -> list[str]:
            return ["".join(_AS_BYTE[b] for b in text.encode())]

    else:  # whole words or pieces, in whose vocabulary there are no spaces
        lower = bool(getattr(tokenizer, "do_lower_case", False))

        def names(text: str) -> list[str]:
            return [text.lower() if lower else text] if " " not in text else []

    return lambda text: [i for name in names(text) if (i := known(name)) is not None]


def _byte_tokens(tokenizer: Any, character: str) -> list[int]:
    """Tokens of the bytes that a character begins with: `<0xE8>`, or one or more bytes where tokens are bytes."""
    raw = character.encode()
    if len(raw) == 1:
        return []
    names = [f"<0x{raw[0]:02X}>", *("".join(_AS_BYTE[b] for b in raw[:n]) for n in range(1, len(raw)))]
    ids = [(name, tokenizer.convert_tokens_to_ids(name)) for name in names]
    return [i for name, i in ids if isinstance(i, int) and tokenizer.convert_ids_to_tokens(i) == name]


def _is_letter(character: str) -> bool:
    return unicodedata.name(character, "").startswith(LETTERS)


def _byte_names() -> dict[int, str]:
    """How tokenizers of bytes write each byte: printable ones as themselves, the others moved beyond 255."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names = {b: chr(b) for b in plain}
    others = [b for b in range(256) if b not in names]
    return names | {b: chr(256 + n) for n, b in enumerate(others)}


_AS_BYTE = _byte_names()
