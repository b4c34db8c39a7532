"""Prompts whose answer is one of a closed list, judged by the one next-token distribution after each of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.edit import Edits, listed
from inscape.core.errors import InputError, ShapeError, TokenError
from inscape.engine.predictions import Predictions, Sequences, measured_sequences, short, token_rows
from inscape.models.model import Model

MEASURES = ("right", "mass", "share", "others", "kl", "entropy")


@dataclass(frozen=True, eq=False)
class Answered:
    """What a model says after n prompts, one number a prompt.

    kl: KL(plain || edited) in nats. entropy: of the edited prediction, in bits. right: 1 where the right answer is the
    likeliest of the list. mass: probability of the right answer; others: of the rest of the list. rival: which of the
    list is the likeliest wrong answer.
    """

    kl: Float[Tensor, " n"]
    entropy: Float[Tensor, " n"]
    right: Float[Tensor, " n"]
    mass: Float[Tensor, " n"]
    others: Float[Tensor, " n"]
    rival: Int[Tensor, " n"]

    @property
    def share(self) -> Float[Tensor, " n"]:
        """The right answer's mass over that of the list: how it stands among the answers, whatever else broke."""
        return self.mass / (self.mass + self.others).clamp(min=1e-30)


@dataclass(frozen=True, eq=False)
class ClosedAnswers:
    """Made by `closed_answers`: prompts with the plain model's predictions, to compare edited ones with."""

    prompts: tuple[tuple[int, ...], ...]
    right: Int[Tensor, " n"]
    ids: Int[Tensor, " answer"]
    predictions: Predictions
    sequences: list[Sequences]
    base: list[Tensor]

    def of(self, edits: Edits = ()) -> Answered:
        """Under edits; the model as it is without. Cost: a forward of every prompt, the head at its last token."""
        edits = listed(edits)
        self.predictions.check_before(edits)
        rows = torch.cat([seq.owner for seq in self.sequences]).argsort()
        sets = {str(k): self.ids[k : k + 1] for k in range(len(self.ids))}
        parts = []
        for seq, base in zip(self.sequences, self.base, strict=True):
            moved = self.predictions.states(seq, edits) if edits else base
            found = self.predictions.shift(base, moved, sets)
            parts.append(torch.stack([found.kl, found.entropy, *found.mass.values()]).double())
        kl, entropy, *masses = torch.cat(parts, 1)[:, rows]
        mass = torch.stack(masses)
        mine = mass.gather(0, self.right[None])[0]
        rival = mass.scatter(0, self.right[None], -1.0).argmax(0)
        return Answered(kl, entropy, (mass.argmax(0) == self.right).double(), mine, mass.sum(0) - mine, rival)

    @cached_property
    def plain(self) -> Answered:
        return self.of()

    def __len__(self) -> int:
        return len(self.prompts)


def closed_answers(
    model: Model, prompts: Any, right: Sequence[str], answers: Sequence[str], *, batch_rows: int = 64
) -> ClosedAnswers:
    """Prompts with their right answers, one of `answers` each, by the first token of every answer.

    An answer brings its leading space (" mice"): with and without it are different tokens, which changes an accuracy
    by more than most steering does. Cost: one forward of every prompt without the head.
    Raises: InputError for answers that begin with the same token, or a right answer that is none of them; TokenError
    for one that the tokenizer does not know; ShapeError for another number of right answers than of prompts.
    """
    ids = first_tokens(model, answers)
    rows = token_rows(model, prompts)
    if isinstance(right, str) or len(right) != len(rows):
        raise ShapeError(f"{len(rows)} prompts and {len(right)} right answers: give one a prompt.")
    known = {answer: i for i, answer in enumerate(answers)}
    if odd := [r for r in right if r not in known]:
        raise InputError(f"the right answer {odd[0]!r} is none of the list: {', '.join(map(repr, answers))}.")
    made = measured_sequences(model, rows, "last", 1, batch_rows)
    predictions = Predictions.of(model, short(made[0]))
    base = [predictions.states(seq) for seq in made]
    place = torch.tensor([known[r] for r in right])
    return ClosedAnswers(tuple(map(tuple, rows)), place, torch.tensor(ids), predictions, made, base)


def first_tokens(model: Model, answers: Sequence[str]) -> list[int]:
    """The first token of every answer of a closed list, all different. Raises: InputError, TokenError."""
    if isinstance(answers, str) or len(answers) < 2:
        raise InputError(f"answers={answers!r}: a closed list has two answers or more, such as [' mice', ' cats'].")
    if model.tokenizer is None:
        raise TokenError("answers are texts, and this model has no tokenizer: open it with one.")
    found: dict[int, str] = {}
    for answer in answers:
        ids = list(model.tokenizer(answer, add_special_tokens=False)["input_ids"])
        if not ids or ids[0] == getattr(model.tokenizer, "unk_token_id", None):
            raise TokenError(f"the answer {answer!r} begins with no token that this tokenizer knows.")
        if (first := int(ids[0])) in found:
            raise InputError(
                f"the answers {found[first]!r} and {answer!r} both begin with the token "
                f"{model.tokenizer.decode([first])!r}, so that the next token cannot tell them apart.\n"
                "  leave one out, or word the prompt so that they part at once."
            )
        found[first] = answer
    return list(found)
