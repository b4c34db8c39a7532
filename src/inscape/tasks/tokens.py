"""What a tokenizer makes of a text: its tokens as they are fed, the characters each covers, and one-token answers.

    >>> Tokens(tokenizer).one("The Eiffel Tower is in", " Paris")      # the id of the one token that continues it
    9079

A token counts with the special tokens before it (a beginning-of-text token is position 0), because the model does.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

from inscape.core.errors import InputError, TokenError
from inscape.models.model import Model

Span = tuple[int, int]


class Tokens:
    """One tokenizer, asked what tasks need to know; answers are remembered.

    Takes a model or a tokenizer. Works without offsets (slow tokenizers) by spelling the text with the tokens' pieces.
    Raises: InputError where there is no tokenizer; TokenError from its methods, with the pieces in the message.
    """

    def __init__(self, model: Any) -> None:
        tokenizer = model.tokenizer if isinstance(model, Model) else model
        if tokenizer is None or not callable(tokenizer):
            raise InputError(
                f"a task needs a tokenizer, and {type(model).__name__} has none.\n"
                "  give an opened model with one, or the tokenizer itself."
            )
        self.tokenizer: Any = tokenizer
        self._ids: dict[str, tuple[int, ...]] = {}
        self._covers: dict[str, list[Span]] = {}
        self._ones: dict[tuple[str, str], int] = {}
        unknown = getattr(tokenizer, "unk_token_id", None)
        self._unknown = unknown if isinstance(unknown, int) else -1

    def ids(self, text: str) -> tuple[int, ...]:
        """The tokens that are fed for this text, special ones included."""
        if text not in self._ids:
            full = tuple(self.tokenizer(text)["input_ids"])
            plain = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
            if plain and full[len(full) - len(plain) :] != plain:
                raise TokenError(
                    f"this tokenizer ends every text with {self.pieces(full)[-1]!r}, so nothing can continue it.\n"
                    "  tasks ask for the next token: give the tokenizer of a decoder, or switch the ending off "
                    "(tokenizer.add_eos_token = False)."
                )
            self._ids[text] = full
        return self._ids[text]

    def unknown(self, text: str) -> bool:
        """Does the text hold something the tokenizer has no token for?"""
        return self._unknown in self.ids(text)[len(self.ids("")) :]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token."""
        return [self.tokenizer.decode([i]) for i in ids]

    def spelled(self, ids: Sequence[int]) -> str:
        """The tokens as a message shows them: 'Re'|'becca'."""
        return "|".join(map(repr, self.pieces(ids)))

    def one(self, prompt: str, answer: str) -> int:
        """The one token that `answer` is after `prompt`; raises TokenError with the pieces when it is not one."""
        key = (prompt[-12:], answer)  # what an answer becomes depends on the end of the prompt alone
        if key not in self._ones:
            before, after = self.ids(prompt), self.ids(prompt + answer)
            made = after[len(before) :]
            if after[: len(before)] != before:
                raise TokenError(
                    f"{answer!r} changes the tokens before it: {self.spelled(before[-3:])} becomes "
                    f"{self.spelled(after[len(before) - 3 :])}."
                )
            if len(made) != 1:
                raise TokenError(f"{answer!r} is {len(made)} tokens here: {self.spelled(made) or 'nothing'}.")
            if made[0] == self._unknown:
                raise TokenError(f"the tokenizer has no token for {answer!r}: it is {self.spelled(made)}.")
            self._ones[key] = made[0]
        return self._ones[key]

    def ones(self, prompt: str, answers: Sequence[str]) -> list[str]:
        """Those of the answers that are one token after the prompt."""
        kept = []
        for answer in answers:
            with contextlib.suppress(TokenError):
                self.one(prompt, answer)
                kept.append(answer)
        return kept

    def ending(self, prompt: str, answer: str, *, spaced: bool = True) -> tuple[str, str]:
        """How one-token answers follow this prompt: what to put after the prompt, and what before the answer.

        ("", " ") where the space belongs to the answer's token, (" ", "") where it is a token of its own, as before
        digits in many vocabularies, ("", "") after a line's end, or where texts are not `spaced`.
        Raises: TokenError when the answer is one token in none of these ways.
        """
        ways = (("", " "), (" ", "")) if spaced and not prompt[-1:].isspace() else (("", ""),)
        reason = TokenError("")
        for end, start in ways:
            try:
                self.one(prompt + end, start + answer)
                return end, start
            except TokenError as error:
                reason = error
        raise reason

    def singles(
        self, words: Sequence[str], what: str, *, after: str = "the", at_least: int = 2
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The words that are one token after a space, and a note that names the others.

        Raises: TokenError when fewer than `at_least` are left, with the pieces of some that are not one token.
        """
        kept, dropped = [], []
        for word in words:
            try:
                self.one(after, f" {word}")
                kept.append(word)
            except TokenError:
                dropped.append(word)
        if len(kept) < at_least:
            shown = "; ".join(f"{w!r} is {self.spelled(self._tail(after, f' {w}'))}" for w in dropped[:4])
            raise TokenError(
                f"{len(kept)} of {len(words)} {what} are one token here, and {at_least} are needed: {shown}.\n"
                "  take another tokenizer, or give words of your own that it has."
            )
        note = f"{len(dropped)} of {len(words)} {what} are not one token: {', '.join(dropped)}" if dropped else ""
        return tuple(kept), (note,) if note else ()

    def positions(self, text: str, spans: Sequence[Span]) -> list[int]:
        """The positions of the tokens that cover these stretches of characters."""
        covered = self.covers(text)
        found = [i for i, (a, b) in enumerate(covered) if any(a < stop and b > start for start, stop in spans)]
        if not found:
            raise TokenError(f"no token covers {[text[a:b] for a, b in spans]} in {text[:80]!r}.")
        return found

    def covers(self, text: str) -> list[Span]:
        """The characters each token covers; (0, 0) for special tokens."""
        if text not in self._covers:
            if getattr(self.tokenizer, "is_fast", False):
                offsets = self.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
                self._covers[text] = [tuple(pair) for pair in offsets]
            else:
                self._covers[text] = self._spelling(text)
        return self._covers[text]

    def _spelling(self, text: str) -> list[Span]:
        """The same without offsets: each token's piece is looked for right after the one before it."""
        ids = self.ids(text)
        special = set(getattr(self.tokenizer, "all_special_ids", ()))
        spans, at, folded = [], 0, text.casefold()
        for i in ids:
            if i in special and i != self._unknown:
                spans.append((0, 0))
                continue
            piece = self.tokenizer.decode([i]).strip().casefold()
            start = at + len(folded[at:]) - len(folded[at:].lstrip())
            if len(folded) != len(text) or not folded.startswith(piece, start):
                raise TokenError(
                    "this tokenizer gives no offsets, and its pieces do not spell the text: "
                    f"after {text[:at]!r} comes {piece!r}.\n  take its fast version, or one that spells texts out."
                )
            stop = start + len(piece)
            spans.append((at, stop))
            at = stop
        return spans

    def _tail(self, prompt: str, answer: str) -> tuple[int, ...]:
        return self.ids(prompt + answer)[len(self.ids(prompt)) :]
