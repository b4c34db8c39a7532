"""From words to pairs: templates filled in with the place of every word, checked, and collected until there are enough.

    >>> fill("When {io} and {s1} went home, {s2} thanked", io="Mary", s1="John", s2="John")
    Text("When Mary and John went home, John thanked", {"io": [(5, 9)], "s1": [(14, 18)], "s2": [(30, 34)]})

A draft that does not fit (answers of several tokens, clean and corrupted of unequal length, a word the tokenizer does
not have) is left out and counted; when nothing is left the error shows why.
"""

import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from inscape.core.errors import InputError, TokenError
from inscape.tasks.pairs import Pairs, chance_of
from inscape.tasks.tokens import Span, Tokens

ALIGN = "\n  write prompts whose words stand at the same positions, or give aligned=False and go by role."


@dataclass(frozen=True)
class Text:
    """A prompt, and for each role the stretches of characters that have it."""

    text: str
    spans: Mapping[str, list[Span]] = field(default_factory=dict)


@dataclass(frozen=True)
class Draft:
    """One pair before the tokenizer has seen it.

    candidates: what could be the answer, `answer` and `wrong` when left out; right: those that are, `answer` alone when
    left out. facts: what it was made of.
    """

    clean: Text
    corrupted: Text
    answer: str
    wrong: str
    candidates: tuple[str, ...] = ()
    right: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One pair in tokens."""

    draft: Draft
    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    roles: dict[str, list[int]]
    corrupted_roles: dict[str, list[int]]
    answer: int
    wrong: int
    right: tuple[int, ...]
    candidates: tuple[int, ...]


def after(before: str, text: Text) -> Text:
    """The text behind other text that has no roles: worked examples, an instruction."""
    shift = len(before)
    return Text(before + text.text, {r: [(a + shift, b + shift) for a, b in s] for r, s in text.spans.items()})


def fill(template: str, **values: Any) -> Text:
    """The template with its fields filled in; a field is a role unless its name starts with an underscore."""
    made, spans = "", {}
    for literal, name, _, _ in string.Formatter().parse(template):
        made += literal
        if name is not None:
            start, made = len(made), made + str(values[name])
            if not name.startswith("_"):
                spans.setdefault(name, []).append((start, len(made)))
    return Text(made, spans)


def check_choice(call: str, name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Raises InputError when an option has none of its values."""
    if value not in allowed:
        raise InputError(
            f"{call}({name}={value!r}): it can be {', '.join(map(repr, allowed[:-1]))} or {allowed[-1]!r}."
        )


def check_fields(call: str, template: str, needed: Sequence[str]) -> None:
    """Raises InputError when a template lacks a field, or has one that nothing fills."""
    try:
        has = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise InputError(f"{call}: the template {template!r} cannot be read: {error}.") from error
    if has != set(needed):
        raise InputError(f"{call}: the template {template!r} must have {{{'}, {'.join(needed)}}}, each, and no others.")


def check_range(call: str, name: str, value: int, low: int, high: int) -> None:
    """Raises InputError when a number lies outside low to high."""
    if not low <= value <= high:
        raise InputError(f"{call}({name}={value}): it can be {low} to {high}.")


def collect(
    name: str,
    tokens: Tokens,
    drafts: Iterable[Draft | None],
    n: int | None,
    *,
    following: Mapping[str, str] | None = None,
    aligned: bool = True,
    strict: bool = False,
    notes: tuple[str, ...] = (),
) -> Pairs:
    """The first n drafts that fit, different from one another; all that fit when n is None.

    drafts: None where one was tried and could not be made; that counts as a try, so that a search comes to an end.
    following: new role -> the role whose last token it comes after. strict: a draft that does not fit is an error.
    Raises: TokenError when none fits, with the reason; InputError when fewer than n do.
    """
    if n is not None and n < 1:
        raise InputError(f"{name}: n={n}; ask for at least one pair.")
    rows: dict[Any, Row] = {}
    left_out: Counter = Counter()
    tries = 0
    for tries, draft in enumerate(drafts, 1):
        if draft is not None:
            try:
                row = _row(tokens, draft, following or {}, aligned, ALIGN if strict else "")
                rows.setdefault(tries if strict else (row.clean, row.corrupted, row.answer), row)
            except TokenError as error:
                if strict:
                    raise TokenError(f"pair {tries - 1}: {error}") from error
                left_out[str(error)] += 1
        if n is not None and (len(rows) == n or tries == 300 * n + 3000):
            break
    if not rows:
        reasons = "\n  ".join(reason for reason, _ in left_out.most_common(3)) or "there was nothing to try"
        raise TokenError(f"{name}: none of {tries} pairs fits this tokenizer.\n  {reasons}")
    if n is not None and len(rows) < n:
        why = f"; left out: {_said(left_out)}" if left_out else ""
        raise InputError(f"{name}: {n} pairs were asked for and {len(rows)} different ones can be made{why}.")
    if left_out:
        notes = (*notes, f"{sum(left_out.values())} of {tries} pairs tried: {_said(left_out)}")
    return _pairs(name, list(rows.values()), aligned, notes)


def _row(tokens: Tokens, draft: Draft, following: Mapping[str, str], aligned: bool, hint: str) -> Row:
    clean, corrupted = tokens.ids(draft.clean.text), tokens.ids(draft.corrupted.text)
    if aligned and len(clean) != len(corrupted):
        raise TokenError(
            f"the clean prompt has {len(clean)} tokens and the corrupted one {len(corrupted)}: "
            f"{draft.clean.text!r} and {draft.corrupted.text!r}.{hint}"
        )
    for text in (draft.clean.text, draft.corrupted.text):
        if tokens.unknown(text):
            raise TokenError(f"the tokenizer does not have every word of {text!r}: {tokens.spelled(tokens.ids(text))}.")
    roles = _positions(tokens, draft.clean, following)
    others = _positions(tokens, draft.corrupted, following)
    if aligned:
        moved = next((r for r in others if r in roles and roles[r] != others[r]), None)
        if moved is not None:
            raise TokenError(
                f"the role {moved!r} stands at {roles[moved]} in the clean prompt and at {others[moved]} in the "
                f"corrupted one: {draft.clean.text!r} and {draft.corrupted.text!r}.{hint}"
            )
    prompt = draft.clean.text
    candidates = tuple(tokens.one(prompt, c) for c in draft.candidates or (draft.answer, draft.wrong))
    right = tuple(tokens.one(prompt, c) for c in draft.right or (draft.answer,))
    answer, wrong = tokens.one(prompt, draft.answer), tokens.one(prompt, draft.wrong)
    if wrong in right:
        raise TokenError(f"{draft.answer!r} and {draft.wrong!r} are the same token: {tokens.spelled([wrong])}.")
    return Row(draft, clean, corrupted, roles, others, answer, wrong, right, tuple(dict.fromkeys(candidates)))


def _positions(tokens: Tokens, text: Text, following: Mapping[str, str]) -> dict[str, list[int]]:
    found = {role: tokens.positions(text.text, spans) for role, spans in text.spans.items()}
    length = len(tokens.ids(text.text))
    return found | {new: [min(found[role][-1] + 1, length - 1)] for new, role in following.items() if role in found}


def _pairs(name: str, rows: list[Row], aligned: bool, notes: tuple[str, ...]) -> Pairs:
    answer_sets, candidate_sets = tuple(r.right for r in rows), tuple(r.candidates for r in rows)
    shared = set.intersection(*(set(r.corrupted_roles) for r in rows))
    return Pairs(
        clean=tuple(r.draft.clean.text for r in rows),
        corrupted=tuple(r.draft.corrupted.text for r in rows),
        answers=tuple(r.draft.answer for r in rows),
        wrong=tuple(r.draft.wrong for r in rows),
        answer_ids=torch.tensor([r.answer for r in rows]),
        wrong_ids=torch.tensor([r.wrong for r in rows]),
        roles={role: _table([r.roles[role] for r in rows]) for role in rows[0].roles},
        chance=chance_of(answer_sets, candidate_sets),
        clean_ids=tuple(r.clean for r in rows),
        corrupted_ids=tuple(r.corrupted for r in rows),
        answer_sets=answer_sets,
        candidate_sets=candidate_sets,
        corrupted_roles={r: _table([row.corrupted_roles[r] for row in rows]) for r in sorted(shared)},
        facts={fact: tuple(r.draft.facts[fact] for r in rows) for fact in rows[0].draft.facts},
        name=name,
        notes=notes,
        aligned=aligned,
    )


def _table(positions: list[list[int]]) -> Tensor:
    width = max(map(len, positions))
    return torch.tensor([p + [p[-1]] * (width - len(p)) for p in positions])


def _said(left_out: Counter) -> str:
    reason, count = left_out.most_common(1)[0]
    more = f" (and {len(left_out) - 1} other reasons)" if len(left_out) > 1 else ""
    return f"{count} × {reason}{more}"
