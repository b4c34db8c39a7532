"""Judges that need a model: a classifier on sentence embeddings, and the probability of answers.

Judges of the text alone are in `core.judges`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError, ShapeError
from inscape.core.interval import Interval
from inscape.core.judges import ErrorRate, Judge
from inscape.core.logistic.design import Design
from inscape.core.logistic.minimise import Columns, minimise
from inscape.core.metrics import Answer, token_ids
from inscape.core.nulls import auc, share
from inscape.engine.embed import embedded
from inscape.models.model import Model
from inscape.tasks.split import folds

TOL = 1e-6
EMPTY = "."  # what stands for a text without a word in it


@dataclass(frozen=True, eq=False, repr=False)
class Classifier(Judge):
    """A judge by a classifier of sentence embeddings. held_out: its errors on examples it was not fitted on.

    held_out_auc: how well its probabilities rank them. weight, bias: of the unit embedding.
    """

    held_out: ErrorRate | None = None
    held_out_auc: Interval | None = None
    weight: Float[Tensor, " d"] | None = None
    bias: float = 0.0


def classifier(
    encoder: Model, positive: Sequence[str], negative: Sequence[str], *, C: float = 10.0, n_folds: int = 5,
    groups: Sequence[Any] | None = None, name: str = "probability", seed: int = 0,
) -> Classifier:  # fmt: skip
    """A judge that scores a text with the probability that it is like the positive examples and not the negative ones.

    Logistic regression on unit embeddings of `encoder`, usually `ins.open("minilm-l6")`; `held_out` has the errors on
    folds that were not fitted, which is the least that will happen on generated texts: pass some of these, labelled by
    hand, to `.error_rate`. It sees topic and words more than style, and no order of what is said.
    groups: of all examples, positive ones first: those of one group (a text and its opposite, paraphrases) are held out
    together, since one would give the other away. C: inverse strength of the L2 penalty, on units of standard
    deviation 1, of a loss that is the mean over examples. Cost: one forward of the encoder a text.
    Raises: InputError for fewer than 4 examples a side, or the same text on both sides.
    """
    if isinstance(positive, str) or isinstance(negative, str) or min(len(positive), len(negative)) < 4:
        raise InputError("a classifier takes lists of positive and of negative examples, 4 a side at least.")
    if both := sorted(set(positive) & set(negative)):
        raise InputError(f"{len(both)} examples are on both sides, such as {both[0][:60]!r}: drop them from one.")
    if not C > 0:
        raise InputError(f"C={C}: it is a positive number; smaller is a stronger penalty.")
    x = _embedded(encoder, [*positive, *negative])
    labels = torch.tensor([1] * len(positive) + [0] * len(negative))
    n_folds = min(n_folds, len(positive), len(negative), len(set(groups)) if groups is not None else len(x))
    fold = folds(labels, groups, n=n_folds, seed=seed)
    fitted = torch.stack([*(fold != k for k in range(n_folds)), torch.ones(len(x), dtype=torch.bool)])
    design = Design({"x": x}, fitted)
    problems = Columns(labels[:, None].expand(-1, n_folds + 1), fitted, tuple(range(n_folds + 1)), 2)
    made = minimise(design, problems, C=C / len(x), tol=TOL, max_rounds=1000)
    weight, bias = design.folded(0, made.weight[0, :, 0])
    scores = (x.double() @ weight.double().T + bias.double()).sigmoid()
    own = scores.gather(1, fold[:, None].long())[:, 0]
    wrong = (own >= 0.5) != labels.bool()
    error = ErrorRate(share(wrong), share(wrong[labels == 1]), share(wrong[labels == 0]))
    w, b = weight[-1].double(), float(bias[-1])

    def judge(texts: list[str], _: list[int]) -> Tensor:
        return (_embedded(encoder, texts).double() @ w + b).sigmoid()

    return Classifier(
        name, judge, is_yes_no=False, held_out=error, held_out_auc=auc(own, labels).interval, weight=w.float(), bias=b
    )


def _embedded(encoder: Model, texts: Sequence[str]) -> Float[Tensor, "n d"]:
    return embedded(encoder, [t if t.strip() else EMPTY for t in texts])


@dataclass(frozen=True, eq=False)
class AnswerMass:
    """A judge of the next token: the probability of some answers after the prompt, made by `answer_mass`."""

    right: Answer
    wrong: Answer | None = None

    @property
    def name(self) -> str:
        return "mass of the answers" if self.wrong is None else "share of the right answers"

    def ids(self, model: Model, n_prompts: int) -> dict[str, Tensor]:
        """Token ids by set, one set a prompt, -1 filling up. Raises: TokenError; InputError for an id in both."""
        out = {
            name: token_ids(model.tokenizer, given, n_prompts, sets=True, what=name)
            for name, given in (("right", self.right), ("wrong", self.wrong))
            if given is not None
        }
        if "wrong" in out:
            same = (out["right"][:, :, None] == out["wrong"][:, None]) & (out["right"][:, :, None] >= 0)
            if bool(same.any()):
                row, i, _ = same.nonzero()[0].tolist()
                raise InputError(
                    f"token {int(out['right'][row, i])} is a right and a wrong answer of prompt {row}: do two answers "
                    "begin with the same token?"
                )
        return out


def answer_mass(right: Answer, wrong: Answer | None = None) -> AnswerMass:
    """Judge the next token after the prompt in place of a text: the probability of the right answers.

    With `wrong` it is their share among both sets, `P(right) / (P(right) + P(wrong))`, which does not see whether
    the rest of the distribution broke: look at the KL beside it. right, wrong: tokens as text (" yes"), ids, or a list
    of them, the same for all prompts or one (set) a prompt.
    """
    for name, given in (("right", right), ("wrong", wrong)):
        if given is not None and not isinstance(given, str | int) and not len(given):
            raise ShapeError(f"answer_mass({name}={given!r}): give one answer at least.")
    return AnswerMass(right, wrong)
