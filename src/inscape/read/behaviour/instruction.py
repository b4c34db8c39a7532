"""A sentence added to prompts, beside another of the same length that asks for nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from inscape.core.errors import InputError, TokenError
from inscape.models.model import Model


@dataclass(frozen=True)
class Instructed:
    """The prompts with the instruction, and with the neutral sentence in its place; both have as many tokens."""

    prompts: tuple[str, ...]
    control: tuple[str, ...]
    neutral: str


def instructed(
    model: Model,
    prompts: Sequence[str],
    instruction: str,
    neutral: str | Sequence[str],
    *,
    form: str = "{said} {prompt}",
) -> Instructed:
    """Prompts with an instruction, and the same prompts with a neutral sentence of the same length in tokens.

    More tokens before a prompt change what a model says whatever they mean; only the difference between the two is the
    instruction's. neutral: a sentence, or several of which the first that fits is taken. form: where it goes.
    Raises: TokenError, with the lengths, when no neutral sentence is as long as the instruction in every prompt.
    """
    if model.tokenizer is None or not prompts:
        raise InputError("instructions are texts: they need prompts, and a model with its tokenizer.")
    neutrals = [neutral] if isinstance(neutral, str) else list(neutral)

    def lengths(said: str) -> list[int]:
        return [len(model.tokenizer(form.format(said=said, prompt=p))["input_ids"]) for p in prompts]

    wanted = lengths(instruction)
    found = [(sentence, lengths(sentence)) for sentence in neutrals]
    chosen = next((sentence for sentence, has in found if has == wanted), None)
    if chosen is None:
        said = ", ".join(f"{sentence!r} makes {has[0]}" for sentence, has in found)
        raise TokenError(
            f"no neutral sentence is as long as the instruction, which makes {wanted[0]} tokens of prompt 0; {said}.\n"
            "  write one with as many tokens, so that only what is said differs."
        )
    both = [tuple(form.format(said=said, prompt=p) for p in prompts) for said in (instruction, chosen)]
    return Instructed(both[0], both[1], chosen)
