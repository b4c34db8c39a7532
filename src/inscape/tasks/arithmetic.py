"""Mental arithmetic: two or three numbers, plus and minus, and the result as the next token.

    clean      4 + 3 =                                                             -> " 7", not " 5"
    corrupted  4 + 1 =                                                             -> " 5"
    verbal     Anna had 4 apples, then found 3 and then lost 2. Now the number of apples is
    code       >>> 4 + 3 - 2\\n

Only numbers that are one token are used, in operands and results, so that every operand is one slot: 0 to 9 where a
tokenizer splits digits, more elsewhere.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from inscape.core.errors import TokenError
from inscape.tasks.drafts import Draft, Text, after, check_choice, check_fields, collect, fill
from inscape.tasks.pairs import Pairs
from inscape.tasks.tokens import Tokens

OPERANDS = ("a", "b", "c")
TEMPLATES = {  # (two operands, three operands)
    "symbolic": ("{a} {op_1} {b} =", "{a} {op_1} {b} {op_2} {c} ="),
    "verbal": (
        "Anna had {a} apples and {op_1} {b}. Now the number of apples is",
        "Anna had {a} apples, then {op_1} {b} and then {op_2} {c}. Now the number of apples is",
    ),
    "code": (">>> {a} {op_1} {b}\n", ">>> {a} {op_1} {b} {op_2} {c}\n"),
}
WORDS = {"verbal": {"+": "found", "-": "lost"}}
Sum = tuple[tuple[int, ...], tuple[str, ...]]  # operands, operations between them


@dataclass(frozen=True)
class _Form:
    """How sums are written: the prompt's text, its words for + and -, and what stands before an answer."""

    text: str
    words: dict[str, str]
    operands: int
    space: str = ""

    def asked(self, problem: Sum) -> Text:
        values, ops = problem
        named = dict(zip(OPERANDS, values, strict=False)) | {f"op_{i}": self.words[op] for i, op in enumerate(ops, 1)}
        return fill(self.text, **named)

    def of_one_number(self, value: int) -> Text:
        return self.asked(((value,) * self.operands, ("+",) * (self.operands - 1)))


def arithmetic(
    model: Any,
    n: int = 32,
    *,
    operands: int = 2,
    ops: str = "+",
    largest: int = 99,
    template: str = "symbolic",
    corrupted: str = "one",
    shots: int = 0,
    seed: int = 0,
) -> Pairs:
    """Sums of numbers that are one token each, with the place of every operand and operation.

    Roles: a, op_1, b (op_2, c), end. Facts: operands, ops, result. Candidates are all results that can be asked for and
    are one token (`chance` is one in as many), so `is_right(logits, "candidates")` looks at numbers alone.
    model: an opened model or a tokenizer; 0 to `largest` must be words of it, others are left out. operands: 2 or 3.
    ops: "+", "-", or "+-" for both, drawn place by place. template: "symbolic", "verbal", "code", or a text of your own
    with {a}, {op_1}, {b}, and for three {op_2}, {c}. corrupted: "one" operand is another number, or "all". shots:
    solved sums in front, one a line. No result is negative; results are drawn as often as sums have them.
    Raises: TokenError when fewer than two numbers, or no result, are one token; InputError for more pairs than sums.
    Source: Mamidanna et al. 2025, arXiv:2509.09650; wording here.
    """
    check_choice("arithmetic", "operands", operands, (2, 3))
    check_choice("arithmetic", "ops", ops, ("+", "-", "+-"))
    check_choice("arithmetic", "corrupted", corrupted, ("one", "all"))
    if "{" not in template:
        check_choice("arithmetic", "template", template, tuple(TEMPLATES))
    tokens = Tokens(model)
    text = TEMPLATES[template][operands - 2] if template in TEMPLATES else template
    check_fields("arithmetic", text, (*OPERANDS[:operands], *(f"op_{i}" for i in range(1, operands))))
    form = _Form(text, WORDS.get(template, {"+": "+", "-": "-"}), operands)
    numbers, note = _numbers(tokens, form, largest)
    end, space = tokens.ending(form.of_one_number(numbers[0]).text, str(numbers[0]), spaced=" " in text)
    form = replace(form, text=text + end, space=space)
    answers = [f"{space}{v}" for v in range(largest * operands + 1)]
    results = set(map(int, tokens.ones(form.of_one_number(numbers[0]).text, answers)))
    drafts = _drafts(random.Random(seed), form, numbers, ops, results, corrupted, shots)
    return collect(f"arithmetic {ops}, {operands} operands", tokens, drafts, n, notes=note)


def _numbers(tokens: Tokens, form: _Form, largest: int) -> tuple[list[int], tuple[str, ...]]:
    """Numbers that fill one position at every operand's place."""

    def is_one_token(value: int) -> bool:
        made = form.of_one_number(value)
        slots = [tokens.positions(made.text, made.spans[x]) for x in OPERANDS[: form.operands]]
        return all(len(slot) == 1 for slot in slots) and not tokens.unknown(made.text)

    kept = [v for v in range(largest + 1) if is_one_token(v)]
    if len(kept) < 2:
        text = form.of_one_number(12).text
        raise TokenError(
            f"{len(kept)} of the numbers up to {largest} are one token here: {text!r} is "
            f"{tokens.spelled(tokens.ids(text))}.\n  arithmetic needs operands of one token each."
        )
    left = largest + 1 - len(kept)
    return kept, (f"{left} of the {largest + 1} numbers up to {largest} are not one token",) if left else ()


def _drafts(
    rng: random.Random, form: _Form, numbers: Sequence[int], ops: str, results: set[int], corrupted: str, shots: int
) -> Iterator[Draft | None]:
    operands = form.operands
    possible = sorted(results & _reached(numbers, operands, ops))
    if not possible:
        raise TokenError(f"no sum of the {len(numbers)} numbers that are one token has a result that is one token too.")
    candidates = tuple(f"{form.space}{v}" for v in possible)

    def drawn() -> Sum:
        while True:
            problem = (
                tuple(rng.choice(numbers) for _ in range(operands)),
                tuple(rng.choice(ops) for _ in range(operands - 1)),
            )
            if result(*problem) in possible:
                return problem

    while True:
        problem, other = drawn(), None
        for _ in range(100):
            if corrupted == "all":
                changed = drawn()[0]
            else:
                at = rng.randrange(operands)
                changed = (*problem[0][:at], rng.choice(numbers), *problem[0][at + 1 :])
            value = result(changed, problem[1])
            if value in possible and value != result(*problem):
                other = (changed, problem[1])
                break
        if other is None:
            yield None
            continue
        solved = [x for x in (drawn() for _ in range(10 * shots)) if x not in (problem, other)][:shots]
        before = "".join(f"{form.asked(x).text}{form.space}{result(*x)}\n" for x in solved)
        answer, wrong = result(*problem), result(*other)
        yield Draft(
            after(before, form.asked(problem)), after(before, form.asked(other)), f"{form.space}{answer}",
            f"{form.space}{wrong}", candidates, facts={"operands": problem[0], "ops": problem[1], "result": answer},
        )  # fmt: skip


def result(values: Sequence[int], ops: Sequence[str]) -> int:
    """The sum's value, from left to right; -1 where it, or a step on the way, is negative."""
    total = values[0]
    for value, op in zip(values[1:], ops, strict=True):
        total = total + value if op == "+" else total - value
        if total < 0:
            return -1
    return total


def _reached(numbers: Sequence[int], operands: int, ops: str) -> set[int]:
    """Every result there is, without a negative one on the way."""
    totals = set(numbers)
    for _ in range(operands - 1):
        totals = {t + v for t in totals for v in numbers if "+" in ops} | {
            t - v for t in totals for v in numbers if "-" in ops and v <= t
        }
    return totals
