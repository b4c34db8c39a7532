"""Choosing an answer among sampled traces: by votes, by a score, or by taking the first that is good enough.

Tokens are counted for everything that was drawn, used or not.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.nulls.values import generator
from inscape.core.progress import Progress, tell

POLICIES = ("majority", "best_of_k", "sequential", "early")
Scorer = Callable[[Float[Tensor, "trace signal"]], Tensor]


@dataclass(frozen=True, eq=False)
class Drawn:
    """One sampled trace. answer: None when it never came to one. signals: of the whole span. early: of its first
    `early_tokens` tokens, for choosing which trace goes on."""

    answer: Hashable
    tokens: int
    signals: Float[Tensor, " signal"]
    early: Float[Tensor, " signal"] | None = None
    early_tokens: int = 0


@dataclass(frozen=True, eq=False)
class Selected:
    """Answers, one a question; tokens that were drawn for each; and what was done: "accepted 3 of 3", "voted"."""

    answers: tuple[Any, ...]
    tokens: tuple[int, ...]
    log: tuple[str, ...]
    drawn: tuple[int, ...] = field(default=())

    def accuracy(self, truth: Sequence[Any]) -> float:
        """Share of right answers."""
        return float(np.mean([a == t for a, t in zip(self.answers, truth, strict=True)]))


def select_traces(
    questions: int,
    sample: Callable[[int, int], Drawn],
    scorer: Scorer | None = None,
    policy: str = "best_of_k",
    *,
    k: int = 8,
    threshold: float | None = None,
    budget: int | None = None,
    progress: Progress = None,
) -> Selected:
    """Answer questions from up to k sampled traces each.

    sample: (question, number) -> `Drawn`; it is asked for a trace when that trace is drawn, so it may generate it then
        (`traces_of` makes such pools in batches). scorer: signals [trace, signal] -> scores, such as
        `TraceScore(...).fit(...).transform`.
    policy: "majority" the commonest answer of k; "best_of_k" that of the best score; "sequential" draws one by one and
        takes the first whose score reaches `threshold` (choose it with `choose_threshold`), else the majority of all;
        "early" draws the beginnings of k and goes on with the best alone.
    budget: tokens a question: nothing is drawn once they are spent.
    Raises: InputError for an unknown policy, or one whose scorer, threshold or beginnings are missing.
    Source: arXiv:2510.10494.
    """
    if policy not in POLICIES:
        raise InputError(f"policy={policy!r} is unknown; there are {', '.join(POLICIES)}.")
    if policy != "majority" and scorer is None:
        raise InputError(f"policy={policy!r} needs scorer=, a function of signals.")
    if policy == "sequential" and threshold is None:
        raise InputError(
            "policy='sequential' needs threshold=.\n  choose_threshold finds one on calibration questions."
        )
    if k < 1:
        raise InputError(f"k={k}: at least one trace is drawn.")
    answers, tokens, log, counts = [], [], [], []
    for q in range(questions):
        tell(progress, f"question {q + 1} of {questions}", q / questions)
        if policy == "early" and scorer is not None:
            one = _early(q, sample, scorer, k)
        else:
            one = _whole(q, sample, scorer, policy, k, threshold, budget)
        for held, value in zip((answers, tokens, log, counts), one, strict=True):
            held.append(value)
    return Selected(tuple(answers), tuple(tokens), tuple(log), tuple(counts))


def _whole(
    q: int, sample: Callable[[int, int], Drawn], scorer: Scorer | None, policy: str, k: int, threshold: float | None,
    budget: int | None,
) -> tuple[Any, int, str, int]:  # fmt: skip
    drawn: list[Drawn] = []
    spent = 0
    for number in range(k):
        if budget is not None and spent >= budget:
            break
        one = sample(q, number)
        drawn.append(one)
        spent += one.tokens
        if policy == "sequential":
            assert scorer is not None
            assert threshold is not None
            if one.answer is not None and float(scorer(one.signals[None])[0]) >= threshold:
                return one.answer, spent, f"accepted {number + 1} of {number + 1}", len(drawn)
    if policy == "best_of_k":
        assert scorer is not None
        finished = [d for d in drawn if d.answer is not None]
        if not finished:
            return None, spent, "no answer", len(drawn)
        best = int(scorer(torch.stack([d.signals for d in finished])).argmax())
        return finished[best].answer, spent, f"best of {len(drawn)}", len(drawn)
    return majority([d.answer for d in drawn]), spent, f"voted, {len(drawn)}", len(drawn)


def _early(q: int, sample: Callable[[int, int], Drawn], scorer: Scorer, k: int) -> tuple[Any, int, str, int]:
    drawn = [sample(q, number) for number in range(k)]
    begun = [d for d in drawn if d.early is not None]
    if not begun:
        raise InputError("policy='early' needs traces with the signals of their beginnings.\n  Drawn(early=...).")
    best = begun[int(scorer(torch.stack([d.early for d in begun if d.early is not None])).argmax())]
    spent = sum(min(d.early_tokens or d.tokens, d.tokens) for d in drawn)
    return best.answer, spent + best.tokens - min(best.early_tokens, best.tokens), f"went on with 1 of {k}", len(drawn)


def majority(answers: Sequence[Any]) -> Any:
    """The commonest answer, the first of them when two are as common; None where there is none."""
    given = [a for a in answers if a is not None]
    return Counter(given).most_common(1)[0][0] if given else None


def choose_threshold(
    score: Float[Tensor, "question trace"],
    answers: Sequence[Sequence[Any]],
    tokens: Float[Tensor, "question trace"],
    truth: Sequence[Any],
    *,
    tolerance: float = 0.0,
    folds: int = 5,
    seed: int = 0,
) -> tuple[float, float]:
    """The threshold of the sequential policy that draws fewest tokens at the accuracy of voting, and the share of
    traces that it accepts, on calibration questions.

    Each of `folds` parts of the questions is answered with the threshold that the others choose; what is returned is
    the median of the folds' choices, so that one lucky question decides nothing. tolerance: accuracy that may be lost.
    Raises: InputError for fewer questions than folds.
    """
    n, k = score.shape
    if n < folds or folds < 2:
        raise InputError(f"{n} questions do not make folds={folds}: give more questions, or two folds.")
    s, t = score.double().numpy(), tokens.double().numpy()
    fold = generator(seed).permutation(n) % folds
    grid = np.quantile(s, np.linspace(0, 1, 41))
    grid = np.append(grid, np.nextafter(grid[-1], np.inf))  # nobody is accepted: voting itself
    voted = [majority(list(row)) for row in answers]
    right, cost = np.zeros((len(grid), n)), np.zeros((len(grid), n))
    for g, bar in enumerate(grid):
        for q in range(n):
            passing = [i for i in range(k) if s[q, i] >= bar and answers[q][i] is not None]
            said = answers[q][passing[0]] if passing else voted[q]
            right[g, q], cost[g, q] = said == truth[q], t[q, : passing[0] + 1].sum() if passing else t[q].sum()
    chosen = []
    for f in range(folds):
        others = fold != f
        good = right[:, others].mean(1) >= right[-1, others].mean() - tolerance - 1e-12
        prices = np.where(good, cost[:, others].mean(1), np.inf)
        chosen.append(float(grid[int(prices.argmin())]))
    bar = float(np.median(chosen))
    return bar, float((s >= bar).mean())
