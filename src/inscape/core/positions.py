"""Where in the sequence: `at=` is counted among real tokens, on either padding side, cached or not.

at=3, at=-1, at=[0, 3], at=slice(2, None)     positions; negative ones count from the newest real token
at="all" | "first" | "last" | "prompt" | "generated"
at="newest", at=newest(3)                     the last (3) of the prompt and every generated token: in a cached step the
                                              newest column; the same tokens without a cache
at=span("Eiffel Tower")                       the tokens of that stretch of the prompt
at=span("?", behind=True)                     all tokens of the prompt behind it
at=tokens(262, 11)                            wherever these ids stand
at=mask                                       bool [batch, pos] or [pos], over the columns of the prompt
at=LongTensor [batch, k]                      positions row by row
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from inscape.core.errors import TokenError
from inscape.core.step import Step

WORDS = ("all", "first", "last", "prompt", "generated", "newest")


@dataclass(frozen=True)
class Span:
    """The tokens of a stretch of text in each prompt, or those `behind` it; `nth` picks an occurrence, 0 the first."""

    text: str
    nth: int = 0
    behind: bool = False


@dataclass(frozen=True)
class Tokens:
    """Every position that holds one of these token ids."""

    ids: tuple[int, ...]


@dataclass(frozen=True)
class Newest:
    """The last `n` tokens of the prompt, and every token that is generated after it."""

    n: int = 1


At = None | int | str | slice | list | tuple | Span | Tokens | Newest | Tensor


def span(text: str, nth: int = 0, *, behind: bool = False) -> Span:
    """Positions of the tokens that cover `text` in each prompt; raises TokenError where it does not occur.

    nth: which of several occurrences, 0 the first. behind: in its place all tokens of the prompt that begin behind it,
    such as an answer behind its question: `span("?", behind=True)`.
    """
    return Span(text, nth, behind)


def tokens(*ids: int) -> Tokens:
    """Positions that hold one of the given token ids, in the prompt and among generated tokens alike."""
    return Tokens(tuple(int(i) for i in ids))


def newest(n: int = 1) -> Newest:
    """Positions of the last `n` prompt tokens and of every generated one; "newest" is newest(1).

    What a cached generation does to "the newest token of each forward", said so that a run without a cache does the
    same: a token stays changed after it is no longer the newest, since its keys and values stay in the cache.
    Choose "last" for the very last token of what a forward has seen, and slice(-n, None) for the last n of it.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise TokenError(f"newest({n!r}): give how many of the prompt's last tokens are meant, 1 or more.")
    return Newest(n)


def check_at(at: At) -> At:
    """The same positions, or TokenError when they are of no kind that is understood."""
    if (
        at is None
        or isinstance(at, (slice, Span, Tokens, Newest))
        or (isinstance(at, int) and not isinstance(at, bool))
    ):
        return at
    if isinstance(at, str):
        if at in WORDS:
            return None if at == "all" else at
        raise TokenError(
            f"at={at!r} is no position word; the words are {', '.join(WORDS)}.\n"
            f"  for the tokens of a text in the prompt write at=ins.span({at!r})."
        )
    if isinstance(at, range):
        return tuple(at)
    if isinstance(at, (list, tuple)) and at and all(isinstance(p, int) and not isinstance(p, bool) for p in at):
        return tuple(at)
    if isinstance(at, Tensor) and (at.dtype == torch.bool or not at.is_floating_point()):
        if at.dtype != torch.bool and at.ndim <= 1:
            return tuple(at.reshape(-1).tolist())
        return at.cpu()
    raise TokenError(
        f"at={at!r} cannot be read as positions.\n"
        "  give an integer, a list of integers, a slice, 'first', 'last', 'prompt', 'generated', ins.span(text), "
        "ins.tokens(id), a bool mask [batch, pos] or a table of positions [batch, k]."
    )


def select(at: At, step: Step) -> Tensor | None:
    """Which of the columns of this call are meant: bool [batch, stop - start] on the CPU, or None for all."""
    if at is None:
        return None
    key = at if isinstance(at, (int, str, Tokens, Newest, tuple)) else None
    if key is not None and key in step.selections:
        return step.selections[key]
    chosen = _select(at, step)
    if key is not None:
        step.selections[key] = chosen
    return chosen


def _select(at: At, step: Step) -> Tensor:
    if isinstance(at, Newest):
        return _newest(at.n, step)
    if isinstance(at, str) and at not in ("first", "last"):  # asked in every step of a generation: no more than needed
        return _word(at, step)
    real = step.real[:, step.start :]
    lengths = step.lengths[:, None]
    if isinstance(at, int):
        return (real == (at if at >= 0 else lengths + at)) & (real >= 0)
    if isinstance(at, str):
        return _select(0 if at == "first" else -1, step)
    if isinstance(at, slice):
        chosen = torch.zeros_like(real, dtype=torch.bool)
        for row, length in enumerate(lengths[:, 0].tolist()):
            wanted = torch.zeros(length, dtype=torch.bool)
            wanted[range(*at.indices(length))] = True
            here = real[row]
            chosen[row] = torch.where(here >= 0, wanted[here.clamp(min=0)], False) if length else False
        return chosen
    if isinstance(at, tuple):
        chosen = torch.zeros_like(real, dtype=torch.bool)
        for position in at:
            chosen |= _select(position, step)
        return chosen
    if isinstance(at, Tokens):
        if step.tokens is None:
            raise TokenError(f"at={at!r}: these inputs are no tokens, so there are no ids to look for; give positions.")
        return torch.isin(step.tokens.cpu(), torch.tensor(at.ids)) & (real >= 0)
    if isinstance(at, Tensor):
        return _select_tensor(at, step, real, lengths)
    raise TokenError(f"at={at!r} has not been resolved against the prompts; spans need text inputs.")


def _word(at: str, step: Step) -> Tensor:
    if at == "newest":
        return _newest(1, step)
    real = step.real[:, step.start :]
    if step.start >= step.prompt:
        return real >= 0 if at == "generated" else torch.zeros_like(real, dtype=torch.bool)
    columns = torch.arange(step.start, step.stop)
    return ((columns < step.prompt) if at == "prompt" else (columns >= step.prompt)) & (real >= 0)


def _newest(n: int, step: Step) -> Tensor:
    real = step.real[:, step.start :]
    if step.start >= step.prompt:
        return real >= 0
    final = step.real[:, : step.prompt].amax(1, keepdim=True)  # position of the prompt's last token
    return (real > final - n) & (real >= 0)


def _select_tensor(at: Tensor, step: Step, real: Tensor, lengths: Tensor) -> Tensor:
    rows = step.batch // step.n_repeats
    if at.ndim not in (1, 2) or (at.ndim == 2 and at.shape[0] not in (1, rows)):
        raise TokenError(
            f"at= of shape {tuple(at.shape)} does not fit a batch of {rows} rows; give [batch, pos] or [pos]."
        )
    at = at.expand(rows, -1) if at.ndim == 2 else at[None].expand(rows, -1)
    at = at.repeat_interleave(step.n_repeats, 0)
    if at.dtype == torch.bool:
        if at.shape[1] > max(step.stop, step.prompt):
            raise TokenError(
                f"at= is a mask over {at.shape[1]} columns, the prompt has {step.prompt}.\n"
                "  a mask counts columns as fed, padding included; trace.mask shows which are real."
            )
        wide = torch.zeros(at.shape[0], max(step.stop, at.shape[1]), dtype=torch.bool)
        wide[:, : at.shape[1]] = at
        return wide[:, step.start : step.stop]
    wanted = torch.where(at >= 0, at, lengths + at)
    return (real[:, :, None] == wanted[:, None, :]).any(-1) & (real >= 0)
