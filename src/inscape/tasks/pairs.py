"""Prompt pairs whose answer is one token: a clean prompt, a corrupted one, and where in them the words stand.

    clean      When Mary and John went to the store, John gave a drink to
    corrupted  When Anna and Peter went to the store, Ruth gave a drink to
    answer     " Mary", not " John"
    roles      io 2, s1 4, s1_plus_1 5, s2 10, end 14

Every task of this room makes one such value; `Pairs.of` makes one of prompts of your own.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.core.errors import InputError, TokenError
from inscape.engine.forward import run
from inscape.models.model import Model
from inscape.tasks.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Pairs:
    """Prompt pairs for one tokenizer; every answer is one token.

    clean, corrupted: texts, pair by pair of as many tokens, and their roles at the same positions (else refused, but
        for aligned=False). clean_ids, corrupted_ids: their tokens as fed, special ones included.
    answers, wrong: one right and one wrong continuation a pair, with the leading space the text needs, and their ids.
    roles: role -> positions in the clean prompt, counted as `at=` counts: real tokens, special ones included. Where a
        role has fewer tokens than elsewhere its last position is repeated. "end", the last token, is always there.
    corrupted_roles: the same for the corrupted prompt; equal to `roles` in aligned pairs.
    chance: how often a random choice among the candidates is right.
    candidate_sets: the ids that could be the answer, pair by pair; answer_sets: those of them that are right.
    facts: what the prompts were made of, one value a pair. notes: what was left out, and why.

    Raises: TokenError for pairs of unequal length or roles, InputError for parts that do not fit together.
    """

    clean: tuple[str, ...]
    corrupted: tuple[str, ...]
    answers: tuple[str, ...]
    wrong: tuple[str, ...]
    answer_ids: Int[Tensor, " n"]
    wrong_ids: Int[Tensor, " n"]
    roles: Mapping[str, Int[Tensor, "n _"]]
    chance: float
    clean_ids: tuple[tuple[int, ...], ...]
    corrupted_ids: tuple[tuple[int, ...], ...]
    answer_sets: tuple[tuple[int, ...], ...] = ()
    candidate_sets: tuple[tuple[int, ...], ...] = ()
    corrupted_roles: Mapping[str, Int[Tensor, "n _"]] = field(default_factory=dict)
    facts: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    name: str = "pairs"
    notes: tuple[str, ...] = ()
    aligned: bool = True

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("answer_sets", self.answer_sets or tuple((int(i),) for i in self.answer_ids))
        both = zip(self.answer_ids.tolist(), self.wrong_ids.tolist(), strict=True)
        put("candidate_sets", self.candidate_sets or tuple(both))
        ends = {"end": torch.tensor([[len(ids) - 1] for ids in self.clean_ids])}
        put("roles", dict(self.roles) | ends)
        if self.aligned:
            put("corrupted_roles", self.roles)
        else:
            ends = {"end": torch.tensor([[len(ids) - 1] for ids in self.corrupted_ids])}
            put("corrupted_roles", dict(self.corrupted_roles) | ends)
        self._check()

    def _check(self) -> None:
        n = len(self.clean)
        rows: dict[str, Any] = {
            "corrupted": self.corrupted, "answers": self.answers, "wrong": self.wrong, "clean_ids": self.clean_ids,
            "corrupted_ids": self.corrupted_ids, "answer_sets": self.answer_sets, "candidate_sets": self.candidate_sets,
            **self.roles, **self.facts,
        }  # fmt: skip
        uneven = next((f"{len(v)} {k}" for k, v in rows.items() if len(v) != n), None)
        if not n or uneven:
            raise InputError(
                f"{n} clean prompts and {uneven or 'nothing else'}: give at least one, and as many of each."
            )
        for i, (a, b) in enumerate(zip(self.clean_ids, self.corrupted_ids, strict=True)):
            if self.aligned and len(a) != len(b):
                raise TokenError(
                    f"pair {i}: the clean prompt has {len(a)} tokens and the corrupted one {len(b)}, so that positions "
                    f"do not mean the same.\n  {self.clean[i]!r}\n  {self.corrupted[i]!r}\n"
                    "  write prompts of equal length, or give aligned=False and patch positions by role."
                )
            right, among = set(self.answer_sets[i]), set(self.candidate_sets[i])
            if int(self.answer_ids[i]) not in right or int(self.wrong_ids[i]) in right or not right <= among:
                raise InputError(
                    f"pair {i}: the answer {self.answers[i]!r} must be right, {self.wrong[i]!r} must not, and all "
                    "right answers must be among the candidates."
                )
        for roles, prompts in ((self.roles, self.clean_ids), (self.corrupted_roles, self.corrupted_ids)):
            lengths = torch.tensor([len(ids) for ids in prompts])[:, None]
            for role, at in roles.items():
                if bool(((at < 0) | (at >= lengths)).any()):
                    raise TokenError(f"the role {role!r} has positions outside the prompt; they count from 0.")

    @classmethod
    def of(
        cls,
        model: Any,
        clean: Sequence[str],
        corrupted: Sequence[str],
        answers: Sequence[str],
        wrong: Sequence[str],
        *,
        roles: Mapping[str, Sequence[str]] | None = None,
        aligned: bool = True,
        name: str = "pairs",
    ) -> "Pairs":
        """Pairs of your own prompts, for an opened model or a tokenizer.

        answers, wrong: continuations, with their leading space. roles: role -> the words that have it, one a pair;
        their first occurrence counts, in the clean prompt and, where it is there, in the corrupted one.
        Raises: TokenError, with the pieces, for an answer of several tokens, a word that is not in its prompt, pairs of
        unequal length.
        """
        from inscape.tasks.drafts import Draft, Text, collect

        def text(prompt: str, row: int, needed: bool) -> Text:
            spans = {}
            for role, words in (roles or {}).items():
                start = prompt.find(words[row])
                if start < 0 and needed:
                    raise TokenError(f"pair {row}: {words[row]!r} ({role}) is not in {prompt!r}.")
                if start >= 0:
                    spans[role] = [(start, start + len(words[row]))]
            return Text(prompt, spans)

        given = (clean, corrupted, answers, wrong, *(roles or {}).values())
        if len({len(x) for x in given}) != 1 or any(isinstance(x, str) for x in given):
            raise InputError(
                f"give as many of each, as lists of texts: {len(clean)} clean, {len(corrupted)} corrupted, "
                f"{len(answers)} answers, {len(wrong)} wrong."
            )
        drafts = [
            Draft(text(clean[i], i, True), text(corrupted[i], i, False), answers[i], wrong[i])
            for i in range(len(clean))
        ]
        return collect(name, Tokens(model), drafts, None, aligned=aligned, strict=True)

    def __len__(self) -> int:
        return len(self.clean)

    def subset(self, which: slice | Sequence[int] | Tensor) -> "Pairs":
        """The pairs at these indices, in this order."""
        if isinstance(which, Tensor) and which.dtype == torch.bool:
            return self.filtered(which)
        index = list(range(len(self)))[which] if isinstance(which, slice) else [int(i) for i in which]
        out = [i for i in index if not -len(self) <= i < len(self)]
        if out or not index:
            raise InputError(f"subset({which!r}): there are {len(self)} pairs, and at least one has to be taken.")
        at = torch.tensor(index)
        rows = {
            name: tuple(getattr(self, name)[i] for i in index)
            for name in (
                "clean", "corrupted", "answers", "wrong", "clean_ids", "corrupted_ids", "answer_sets", "candidate_sets",
            )
        }  # fmt: skip
        return replace(
            self,
            **rows,
            answer_ids=self.answer_ids[at],
            wrong_ids=self.wrong_ids[at],
            roles={role: x[at] for role, x in self.roles.items()},
            corrupted_roles={role: x[at] for role, x in self.corrupted_roles.items()},
            facts={fact: tuple(x[i] for i in index) for fact, x in self.facts.items()},
            chance=chance_of(rows["answer_sets"], rows["candidate_sets"]),
        )

    def filtered(self, mask: Tensor | Sequence[bool]) -> "Pairs":
        """The pairs where the mask is true; InputError when it is true nowhere."""
        mask = torch.as_tensor(mask).bool().cpu()
        if mask.shape != (len(self),):
            raise InputError(f"the mask has the shape {tuple(mask.shape)}, and there are {len(self)} pairs.")
        if not bool(mask.any()):
            raise InputError(
                f"no pair of {self.name} is left: the mask is false for all {len(self)}.\n"
                "  where it says what the model answers right, the model is too weak for this task."
            )
        return self.subset(mask.nonzero()[:, 0])

    def is_right(self, logits: Float[Tensor, "n vocab"], among: str = "vocabulary") -> Bool[Tensor, " n"]:
        """Is the top token of each row a right answer? among: "vocabulary", or "candidates", which `chance` is for."""
        if among not in ("vocabulary", "candidates"):
            raise InputError(f"among={among!r}: it can be 'vocabulary' or 'candidates'.")
        logits = logits.detach().float().cpu()
        made = []
        for row, right, candidates in zip(logits, self.answer_sets, self.candidate_sets, strict=True):
            top = int(row.argmax()) if among == "vocabulary" else candidates[int(row[list(candidates)].argmax())]
            made.append(top in right)
        return torch.tensor(made)

    def answered_by(
        self, model: Model, *, among: str = "vocabulary", batch: int = 32, edits: Sequence[Any] = ()
    ) -> Bool[Tensor, " n"]:
        """Which pairs the model answers right on the clean prompt: `pairs.filtered(pairs.answered_by(model))`.

        among: the right token is the top of the "vocabulary", or only of the "candidates" (as `chance` counts).
        edits: the same for every pair; ones with rows or positions of their own need a `batch` that holds all pairs.
        Cost: a forward of the clean prompts, `batch` at a time, the head at the last position only.
        """
        made = []
        for start in range(0, len(self), batch):
            part = self.subset(slice(start, start + batch))
            trace = run(model, [list(ids) for ids in part.clean_ids], edits=list(edits), output="last")
            made.append(part.is_right(trace.output.logits[:, -1], among))
        return torch.cat(made)

    def describe(self, model: Any = None) -> str:
        """What there is, the first pair as the example; with a model or tokenizer, roles with their text."""
        lengths = sorted({len(ids) for ids in self.clean_ids})
        tokens = f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
        pieces = Tokens(model).pieces(self.clean_ids[0]) if model is not None else None
        roles = []
        for role, at in self.roles.items():
            where = list(dict.fromkeys(at[0].tolist()))
            said = ",".join(map(str, where))
            roles.append(f"{role} {said}" + (f" {''.join(pieces[i] for i in where)!r}" if pieces else ""))
        n_right = Counter(map(len, self.answer_sets)).most_common(1)[0][0]
        more = f" and {n_right - 1} more" if n_right > 1 else ""
        lines = [
            f"{self.name}: {len(self)} pairs of {tokens} tokens; {self.chance:.1%} by chance",
            f"  clean      {self.clean[0]!r}",
            f"  corrupted  {self.corrupted[0]!r}",
            f"  answer     {self.answers[0]!r}{more}, not {self.wrong[0]!r}",
            f"  roles      {' · '.join(roles)}",
            *(f"  left out   {note}" for note in self.notes),
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Pairs({self.name}: {len(self)} pairs, {', '.join(self.roles)}; chance {self.chance:.2f})"


def chance_of(answer_sets: Sequence[Sequence[int]], candidate_sets: Sequence[Sequence[int]]) -> float:
    """How often a choice at random among the candidates is right."""
    shares = [len(set(right)) / len(set(among)) for right, among in zip(answer_sets, candidate_sets, strict=True)]
    return sum(shares) / len(shares)
