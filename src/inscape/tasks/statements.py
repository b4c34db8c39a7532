"""Statements, true and false, and the question which of both they are.

    clean      The city of Paris is in France. This statement is:      -> " TRUE"
    corrupted  The city of Paris is in Japan. This statement is:       -> " FALSE"

Pairs whose two statements are not of as many tokens, or do not have their words at the same positions, are left out.
"""

import random
from collections.abc import Sequence
from typing import Any

from inscape.core.errors import InputError
from inscape.tasks.drafts import Draft, Text, after, check_fields, collect, fill
from inscape.tasks.pairs import Pairs
from inscape.tasks.tokens import Tokens

ANSWERS = (" TRUE", " FALSE")
ASK = " This statement is:"


def statements(
    model: Any,
    rows: Sequence[Sequence[str]],
    template: str = "{subject} is {object}.",
    n: int | None = None,
    *,
    shots: int = 4,
    ask: str = ASK,
    answers: tuple[str, str] = ANSWERS,
    between: str = "\n",
    false: bool = False,
    name: str = "statements",
    seed: int = 0,
) -> Pairs:
    """Pairs of a true and a false statement about the same subject, after a few that are judged.

    Roles: subject, object, stop (the last token of the statement), asked (what comes after it), end. They tell where a
    token stands whatever the template is: read positions by role and not by index. Facts: subject, object, name.
    model: an opened model or a tokenizer. rows: (subject, its object, another object). n: that many of them, drawn; all
    that line up when None. shots: judged statements before each, half of them true, the same ones for all pairs and
    from rows that are then in no pair. false: the corrupted statement is the true one (for templates that deny).
    Raises: TokenError when no pair lines up, with the reason; InputError for rows that are too few, or a template
    without {subject} and {object}.
    Source: the form of Marks & Tegmark 2023, arXiv:2310.06824, as used by arXiv:2504.02904.
    """
    check_fields("statements", template, ("subject", "object"))
    rng = random.Random(seed)
    order = [tuple(row) for row in rows]
    rng.shuffle(order)
    if any(len(row) != 3 for row in order) or len(order) <= shots or shots < 0:
        raise InputError(
            f"statements: {len(order)} rows and {shots} judged ones before each; give rows (subject, object, another "
            "object), more than are judged."
        )
    judged = [i % 2 == 0 for i in range(shots)]
    rng.shuffle(judged)
    said = "".join(
        template.format(subject=row[0], object=row[1] if truth != false else row[2])
        + ask + answers[0 if truth else 1] + between
        for row, truth in zip(order, judged, strict=False)
    )  # fmt: skip

    def text(subject: str, object_: str) -> Text:
        made = fill(template, subject=subject, object=object_)
        stop = len(made.text)
        spans = {
            **made.spans,
            "stop": [(stop - 1, stop)],
            "asked": [(stop + len(ask) - len(ask.lstrip()), stop + len(ask))],
        }
        return after(said, Text(made.text + ask, spans))

    drafts = [
        Draft(text(s, o if not false else w), text(s, w if not false else o), answers[0], answers[1],
              facts={"subject": s, "object": o, "name": name})
        for s, o, w in order[shots:]
    ]  # fmt: skip
    return collect(name, Tokens(model), drafts, n)
