"""How often what a model says is of a kind: refusals by their first words, or any judge of a text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.errors import InputError
from inscape.core.interval import Interval
from inscape.core.judges import REFUSALS, Judge, begins_with
from inscape.core.nulls import share
from inscape.core.progress import Progress, tell
from inscape.engine.generate import generate
from inscape.models.model import Model


@dataclass(frozen=True, eq=False)
class Judged:
    """What was said to each prompt and whether it is of the kind; rate: the share, with Wilson's interval."""

    rate: Interval
    flags: Bool[Tensor, " prompt"]
    texts: tuple[str, ...]

    def __float__(self) -> float:
        return self.rate.value

    def examples(self, of_kind: bool, n: int = 3) -> list[str]:
        """Some of the texts that are, or are not, of the kind: read them before you believe a rate."""
        return [t for t, flag in zip(self.texts, self.flags.tolist(), strict=True) if flag == of_kind][:n]


def judged_rate(
    model: Model,
    prompts: Any,
    judge: Judge | Callable[[str], bool] | Sequence[str] = REFUSALS,
    edits: Sequence[Edit] | Edit = (),
    *,
    max_new_tokens: int = 64,
    batch: int = 16,
    progress: Progress = None,
    **generate_kwargs: Any,
) -> Judged:
    """The share of prompts whose generated answer is of a kind: refusals when nothing else is said.

    prompts: texts, lists of ids or chats, a list of them. judge: one of `core.judges` that says yes or no, a
    function of the text that does, or phrases for `begins_with`.
    edits: in force while it answers (`ins.project_out(d)` to remove a direction, `ins.add(d)` to add it).
    Cost: one greedy generation a prompt, `batch` at a time.
    Raises: InputError for no prompts or a judge that does not answer yes or no; else as `ins.generate`.
    """
    if isinstance(prompts, str) or not len(prompts):
        raise InputError("judged_rate takes a list of prompts, at least one.")
    chosen = judge if callable(judge) else begins_with(judge)
    texts: list[str] = []
    for start in range(0, len(prompts), batch):
        some = prompts[start : start + batch]
        texts += generate(model, some, edits, max_new_tokens=max_new_tokens, **generate_kwargs).text
        tell(progress, f"{len(texts)} of {len(prompts)} answers", len(texts) / len(prompts))
    if isinstance(chosen, Judge) and chosen.is_yes_no:
        flags = (chosen.of(texts) >= chosen.at).tolist()
    else:
        flags = [_flag(chosen(text), text) for text in texts]
    return Judged(share(torch.tensor(flags)), torch.tensor(flags), tuple(texts))


def _flag(found: Any, text: str) -> bool:
    if not isinstance(found, bool):
        raise InputError(f"the judge said {found!r} to {text[:40]!r}; it must say True or False.")
    return found
