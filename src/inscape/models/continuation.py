"""A prompt and what continues it, in tokens."""

from typing import Any

from inscape.core.errors import InputError, TokenError


def continued(tokenizer: Any, prompt: str, answer: str) -> tuple[list[int], int]:
    """The tokens of `prompt + answer` as they are fed, and how many of them are the prompt's.

    Raises: TokenError, with the pieces, where the answer changes the prompt's last tokens, has no tokens, or begins
    with one the tokenizer does not know; InputError without a tokenizer.
    """
    if not hasattr(tokenizer, "decode"):
        raise InputError("prompts and answers are texts, and there is no tokenizer.\n  open the model with one.")
    end = getattr(tokenizer, "eos_token_id", None)
    before, whole = (list(tokenizer(text)["input_ids"]) for text in (prompt, prompt + answer))
    if before and before[-1] == end and whole and whole[-1] == end:  # tokenizers that end every text
        before, whole = before[:-1], whole[:-1]
    after = whole[len(before) :]
    if whole[: len(before)] != before or not after or after[0] == getattr(tokenizer, "unk_token_id", -1):
        pieces = "|".join(repr(tokenizer.decode([i])) for i in whole[max(len(before) - 2, 0) :])
        raise TokenError(
            f"{answer!r} does not continue {prompt[-40:]!r} in whole, known tokens: they end in {pieces}.\n"
            "  begin the answer with the space that belongs to it, and end the prompt without one."
        )
    return whole, len(before)
