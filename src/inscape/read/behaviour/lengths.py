"""Are answers shorter, and still right? What a model writes with and without edits, prompt by prompt.

1. Every prompt is answered; an answer is finished when it came to the token that ends a text.
2. Lengths are compared on prompts whose answer is finished both times: one that was cut off is as long as the limit,
   and says nothing of how long it would have been.
3. An unfinished answer is wrong, so that nothing is won by not coming to an end.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from inscape.core.edit import Edits
from inscape.core.errors import InputError, ModelError, ShapeError
from inscape.core.interval import Interval
from inscape.core.nulls import bootstrap, mcnemar, share
from inscape.core.progress import Progress, tell
from inscape.engine.generate import generate
from inscape.models.model import Model

OFTEN = 0.02  # unfinished answers beyond this share are warned of


@dataclass(frozen=True, eq=False)
class Answers:
    """One answer a prompt. tokens: of each, its end included; is_finished: whether it came to its end."""

    texts: tuple[str, ...]
    tokens: Int[Tensor, " prompt"]
    is_finished: Bool[Tensor, " prompt"]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, eq=False)
class LengthReport:
    """Answers without and with edits (the pairs are in this order), on the same prompts.

    tokens: mean length of answers that are finished both times. saved: share of these tokens that the edits save,
    `1 - sum of edited / sum of plain`, below 0 where answers grow; saved_where_right: the same of prompts answered
    rightly both times. Both resampled by prompt, None of fewer than two such prompts.
    accuracy: of all prompts, unfinished answers being wrong; lost: how much of it is lost, plain minus edited, by
    prompt; lost_p: that it is none (McNemar, exact). unfinished: share of answers that were cut off.
    """

    tokens: tuple[float, float]
    saved: Interval | None
    saved_where_right: Interval | None
    accuracy: tuple[Interval, Interval]
    lost: Interval
    lost_p: float
    unfinished: tuple[Interval, Interval]
    n_finished: int
    n_right: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes these lengths say less than they seem to, in words."""
        out = []
        if self.saved is None:
            out.append(f"{self.n_finished} prompts have a finished answer both times: too few to compare lengths.")
        if self.unfinished[1].value > max(OFTEN, self.unfinished[0].value):
            out.append(
                f"{self.unfinished[1].value:.0%} of the edited answers are cut off ({self.unfinished[0].value:.0%} of "
                "the plain ones): those are left out of the lengths. Give more new tokens, or steer less."
            )
        if self.lost.low > 0:
            out.append(f"accuracy falls by {self.lost}: answers may be shorter because they give up.")
        return tuple(out)

    def __str__(self) -> str:
        (a, b), (right, still) = self.tokens, self.accuracy
        return (
            f"{a:.1f} -> {b:.1f} tokens, {self.saved} saved; accuracy {right.value:.3f} -> {still.value:.3f}, "
            f"{self.lost} lost; cut off {self.unfinished[0].value:.3f} -> {self.unfinished[1].value:.3f}"
        )


def answers(
    model: Model,
    prompts: Sequence[Any],
    edits: Edits = (),
    *,
    max_new_tokens: int = 256,
    batch: int = 64,
    seed: int = 0,
    progress: Progress = None,
    **generate_kwargs: Any,
) -> Answers:
    """What the model answers, with how long it is and whether it came to an end.

    generate_kwargs: for the model's own generate (do_sample=True, temperature=0.7; greedy without). Hold them equal in
    what is compared: a repetition penalty alone shortens texts. seed: of torch meanwhile, which is put back.
    Cost: the generation, `batch` prompts at a time.
    Raises: InputError for no prompts; ModelError for a model that has no token to end a text with; else as `generate`.
    """
    if isinstance(prompts, str) or not len(prompts):
        raise InputError("answers takes a list of prompts, at least one.")
    end = getattr(getattr(model.module, "generation_config", None), "eos_token_id", None)
    if end is None:
        raise ModelError(
            f"{type(model.module).__name__} knows no token that ends a text, so no answer would be finished.\n"
            "  set model.module.generation_config.eos_token_id."
        )
    texts, tokens, finished = [], [], []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(prompts), batch):
            tell(progress, f"{start} of {len(prompts)} answers", start / len(prompts))
            some = prompts[start : start + batch]
            made = generate(model, some, edits, max_new_tokens=max_new_tokens, **generate_kwargs)
            is_end = torch.isin(made.tokens.cpu(), torch.as_tensor(end).reshape(-1))
            before = is_end.long().cumsum(1) - is_end.long() == 0  # up to and with the first end
            texts += made.text
            tokens.append(before.sum(1))
            finished.append(is_end.any(1))
    return Answers(tuple(texts), torch.cat(tokens), torch.cat(finished))


def length_report(
    plain: Answers,
    edited: Answers,
    answer_of: Callable[[str], Hashable],
    truth: Sequence[Hashable],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> LengthReport:
    """Compare answers with and without edits: tokens, accuracy, how many were cut off, paired by prompt.

    answer_of: the answer that a text comes to, None where there is none (`tasks.chains.answer_of`). truth: the right
    answers. seed: of the resampling.
    Cost: a bootstrap; no forwards. Raises: ShapeError for unlike numbers of prompts, InputError for fewer than two.
    """
    if not len(plain) == len(edited) == len(truth):
        raise ShapeError(
            f"{len(plain)} plain answers, {len(edited)} edited ones and {len(truth)} right ones: give one of each a "
            "prompt."
        )
    if len(truth) < 2:
        raise InputError(f"{len(truth)} prompts: an interval takes two at least.")
    right = [_right(made, answer_of, truth) for made in (plain, edited)]
    both, well = plain.is_finished & edited.is_finished, right[0] & right[1]
    lengths = [made.tokens[both].double() for made in (plain, edited)]
    means = [float(x.mean()) if len(x) else float("nan") for x in lengths]
    return LengthReport(
        (means[0], means[1]),
        _saved(plain, edited, both, level, seed),
        _saved(plain, edited, well, level, seed),
        (share(right[0], level=level), share(right[1], level=level)),
        bootstrap(right[0].double() - right[1].double(), level=level, seed=seed),
        mcnemar(right[0], right[1]),
        (share(~plain.is_finished, level=level), share(~edited.is_finished, level=level)),
        int(both.sum()),
        int(well.sum()),
    )  # fmt: skip


def _right(made: Answers, answer_of: Callable[[str], Hashable], truth: Sequence[Hashable]) -> Bool[Tensor, " prompt"]:
    said = [answer_of(text) for text in made.texts]
    same = torch.tensor([a is not None and a == b for a, b in zip(said, truth, strict=True)])
    return same & made.is_finished


def _saved(plain: Answers, edited: Answers, on: Bool[Tensor, " prompt"], level: float, seed: int) -> Interval | None:
    """The share of tokens saved on some prompts, both numbers of each drawn together."""
    if int(on.sum()) < 2:
        return None
    pair = torch.stack([plain.tokens[on], edited.tokens[on]], 1).double()
    return bootstrap(pair, _share_saved, level=level, method="percentile", seed=seed)


def _share_saved(pair: Any) -> float:  # called thousands of times: no shapes to check
    before, after = pair.sum(0).tolist()
    return 1 - after / before
