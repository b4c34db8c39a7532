"""Tokens at the end of short neutral sentences: each in a few contexts that say nothing about it.

    It was Monday          Here we have the word Monday          This one is called Monday

For what a model makes of a token once it has read it in running text, and not of a token alone.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from inscape.core.errors import TokenError
from inscape.tasks.tokens import Tokens

FRAMES = ("It was", "Here we have the word", "This one is called")


def framed(model: Any, tokens: Iterable[int], frames: Sequence[str] = FRAMES) -> list[list[int]]:
    """Rows of token ids: every frame with every token behind it, special tokens included.

    Frames with words that the tokenizer does not know are left out; where none is left, a token stands alone behind
    the beginning of the text. model: an opened model or a tokenizer. Raises: InputError without a tokenizer.
    """
    pieces = Tokens(model)
    known = [frame for frame in frames if not pieces.unknown(frame)]
    starts = [list(_ids(pieces, frame)) for frame in known or [""]]
    return [[*start, int(token)] for start in starts for token in tokens]


def _ids(pieces: Tokens, frame: str) -> tuple[int, ...]:
    try:
        return pieces.ids(frame)
    except TokenError:  # a tokenizer that ends texts with a token of its own: the frame without its ending
        return tuple(pieces.tokenizer(frame, add_special_tokens=False)["input_ids"])
