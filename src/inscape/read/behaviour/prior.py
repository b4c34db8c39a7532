"""The prior of answers, and how strongly it pulls at a model that should not follow it.

Where a task has one right answer whatever is common, errors towards common answers are the prior's doing. Three numbers
say how many there are: how being right follows the prior of the right answer (slope), whether wrong answers are
commoner than the right ones (asymmetry), and by how much what is said is commoner than what is right (lift).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inscape.core.errors import InputError, ShapeError
from inscape.core.interval import Interval
from inscape.core.nulls import Correlation, Slope, bootstrap, correlation, logistic_slope, share
from inscape.core.nulls.ranks import strata_of
from inscape.core.progress import Progress
from inscape.models.model import Model
from inscape.read.behaviour.continuations import continuation_log_probs
from inscape.tasks.words import NEUTRAL_FRAMES


@dataclass(frozen=True, eq=False)
class Prior:
    """Log probabilities of answers where nothing asks for any of them, in nats.

    log_probs: the mean over the frames. by_frame: each frame's own, to see whether they agree.
    """

    answers: tuple[str, ...]
    frames: tuple[str, ...]
    log_probs: Float[Tensor, " answer"]
    by_frame: Float[Tensor, "frame answer"]

    def of(self, answers: Sequence[str]) -> Float[Tensor, " n"]:
        """The prior of each of these. Raises: InputError for one that was not asked about."""
        place = {answer: i for i, answer in enumerate(self.answers)}
        unknown = [answer for answer in answers if answer not in place]
        if unknown:
            raise InputError(
                f"the prior of {unknown[0]!r} was not measured ({len(unknown)} of {len(answers)} answers).\n"
                "  ask prior(model, ...) about every answer that can be right or given."
            )
        return self.log_probs[[place[answer] for answer in answers]]

    def lead(self, answers: Sequence[str], rivals: Sequence[Sequence[str]]) -> Float[Tensor, " n"]:
        """By how many nats the commonest rival of each answer is more probable than it: `max prior(rival) - prior`.

        Items above a margin (log 3, say) are dominated by the prior: a model that followed it would be wrong there.
        Chosen this way, and not by a model's errors, they do not get better by themselves when asked again.
        rivals: other answers that could be given, item by item; none gives -inf. Raises: as `of`, and ShapeError.
        """
        if len(answers) != len(rivals):
            raise ShapeError(f"{len(answers)} answers and {len(rivals)} lists of rivals: give one list an answer.")
        best = [float(self.of(list(others)).max()) if len(others) else -math.inf for others in rivals]
        return torch.tensor(best) - self.of(answers)


def prior(
    model: Model,
    answers: Sequence[str],
    frames: Sequence[str] = NEUTRAL_FRAMES,
    *,
    per_token: bool = False,
    progress: Progress = None,
) -> Prior:
    """log P(answer) in neutral frames: `mean over frames of log P(answer | frame)`, summed over the answer's tokens.

    Each answer counts once, in the order given. answers: with the space that belongs to them. frames: beginnings of
    sentences in which any of the answers could follow; several, so that no single one decides. per_token: see
    `continuation_log_probs`.
    Cost: frames x beginnings of answers, a row each. Raises: as `continuation_log_probs`.
    Source: the prior of arXiv:2504.12585, whose frames are not known to us; these are ours.
    """
    every = tuple(dict.fromkeys(answers))
    if not every or not frames:
        raise InputError(f"{len(every)} answers and {len(frames)} frames: give at least one of each.")
    pairs = [(frame, answer) for frame in frames for answer in every]
    found = continuation_log_probs(
        model, [f for f, _ in pairs], [a for _, a in pairs], per_token=per_token, progress=progress
    ).reshape(len(frames), len(every))
    return Prior(every, tuple(frames), found.mean(0), found)


@dataclass(frozen=True, eq=False)
class Pull:
    """How strongly the prior pulls.

    slope: log odds of being right, a nat of the right answer's prior, with its interval and its shuffled null; None
    when all are right or all wrong. accuracy: of all. asymmetry: of the wrong ones, the share whose given answer has
    the higher prior; None without errors that can be judged. asymmetry_null: the same when given answers are dealt to
    the errors at random: how common they are anyway. lift: mean prior of what was given minus what is right, in nats.
    by_quantile: the share right in each quarter of the priors of right answers, the rarest first. echo: the rank
    correlation of how probable the given answer was said to be with its prior; None where that was not given.
    """

    accuracy: Interval
    slope: Slope | None
    asymmetry: Interval | None
    asymmetry_null: float | None
    lift: Interval | None
    n_errors: int
    by_quantile: tuple[Interval, ...] = ()
    echo: Correlation | None = None

    @property
    def followed(self) -> Interval:
        """The slope with its interval; 0 without a width where all are right or all wrong and nothing can follow."""
        return self.slope.interval if self.slope is not None else Interval(0.0, 0.0, 0.0)


def prior_pull(
    prior_of_right: Float[Tensor, " item"],
    right: Bool[Tensor, " _"],
    prior_of_given: Float[Tensor, " _"] | None = None,
    *,
    log_prob_of_given: Float[Tensor, " _"] | None = None,
    covariates: Float[Tensor, "item _"] | None = None,
    by: Sequence[object] | None = None,
    n: int = 1000,
    seed: int = 0,
) -> Pull:
    """Is the model right where the right answer is common, and wrong towards common ones?

    prior_of_right, prior_of_given: log priors of the right and of the given answer, item by item; NaN where what was
    given is no answer. log_prob_of_given: how probable the model found what it gave, asked the task. covariates: what
    else makes items hard (length, position), held constant in the slope. by: the answer, where several items have the
    same one; intervals and the shuffles of the slope then take whole answers.
    Choose items by their prior and never by the model's errors: items chosen for being wrong get better by themselves
    when asked again.
    Cost: 2n small regressions. Raises: ShapeError for lists of unequal lengths.
    Source: arXiv:2504.12585; the interval and both nulls are ours.
    """
    for name, other in (
        ("right", right), ("prior_of_given", prior_of_given), ("log_prob_of_given", log_prob_of_given),
    ):  # fmt: skip
        if other is not None and len(other) != len(prior_of_right):
            raise ShapeError(f"{len(prior_of_right)} items have a prior and {len(other)} are in {name}.")
    groups = None if by is None else np.unique(np.asarray([str(b) for b in by]), return_inverse=True)[1]
    slope = None
    if 0 < int(right.sum()) < len(right):
        slope = logistic_slope(prior_of_right, right, covariates, by=groups, n=n, alternative="greater", seed=seed)
    asymmetry = null = lift = echo = None
    if prior_of_given is not None:
        judged = ~prior_of_given.isnan()
        lift = bootstrap((prior_of_given - prior_of_right)[judged], by=_of(groups, judged), seed=seed)
        wrong = judged & ~right
        if int(wrong.sum()) > 1:
            given, due = prior_of_given[wrong], prior_of_right[wrong]
            asymmetry = _rate(given > due, _of(groups, wrong), seed)
            null = float((given[:, None] > due[None]).double().fill_diagonal_(0).sum() / (len(due) * (len(due) - 1)))
        if log_prob_of_given is not None:
            echo = correlation(prior_of_given[judged], log_prob_of_given[judged], n=n, alternative="greater", seed=seed)
    quarter = strata_of(prior_of_right.double().numpy(), 4)
    parts = [torch.from_numpy(quarter == q) for q in np.unique(quarter)]
    quantiles = tuple(_rate(right[part], _of(groups, part), seed) for part in parts)
    accuracy = _rate(right, groups, seed)
    return Pull(accuracy, slope, asymmetry, null, lift, int((~right).sum()), quantiles, echo)


def _of(groups: np.ndarray | None, part: Bool[Tensor, " item"]) -> np.ndarray | None:
    return None if groups is None else groups[part.numpy()]


def _rate(flags: Bool[Tensor, " n"], groups: np.ndarray | None, seed: int) -> Interval:
    """A share with its interval, by whole answers where there are several items of one."""
    if groups is None or flags.all() or not flags.any() or len(np.unique(groups)) < 2:
        first = None if groups is None else np.unique(groups, return_index=True)[1]
        return share(flags if first is None or flags.any() != flags.all() else flags[first])
    return bootstrap(flags.double(), by=groups, method="percentile", seed=seed)
