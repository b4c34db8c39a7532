"""Two prompts a pair: the runs that are edited and those that patches come from, and a metric measured on both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inscape.core.errors import InputError, TokenError
from inscape.core.metrics import BoundMetric, Metric, logit_diff, metric_of
from inscape.core.progress import Progress
from inscape.engine.cells import Cell, Cells, run_cells
from inscape.engine.forward import run
from inscape.engine.inputs import Inputs, prepare
from inscape.engine.planning import Read
from inscape.models.model import Model
from inscape.tasks.pairs import Pairs

PLAIN = {"input_ids", "attention_mask", "position_ids", "token_type_ids"}  # what token ids alone bring back


def asked(
    clean: Any, corrupted: Any, metric: Any, who: str, *, alone: bool = False, hint: str = ""
) -> tuple[Any, Any, Metric]:
    """(clean prompts, corrupted ones, metric) of what a method was given; a `Pairs` brings all three.

    alone: one prompt will do. hint: what else would. Raises: InputError for what is missing, in the name of the method
    `who`.
    """
    if isinstance(clean, Pairs):
        if corrupted is not None:
            raise InputError(f"{who}: {clean!r} holds both prompts of every pair; leave corrupted= out.")
        metric = metric if metric is not None else logit_diff(clean.answer_ids, clean.wrong_ids)
        clean, corrupted = clean.clean, clean.corrupted
    if corrupted is None and not alone:
        raise InputError(
            f"{who} compares two prompts, and there is one here.\n"
            f"  give corrupted=, of as many tokens as the clean one, or a tasks.Pairs, which holds both{hint}."
        )
    if metric is None:
        raise InputError(
            f"{who} needs a metric, such as metric=ins.logit_diff(' Paris', ' Rome'); a tasks.Pairs brings its own."
        )
    return clean, corrupted, metric_of(metric)


DIRECTIONS = ("denoise", "noise")
BY_ROLE = ", or give positions={role: positions} for the words that matter"


@dataclass(eq=False)
class Pairing:
    """The rows that are edited and those that patches come from, as token ids or as the module's own arguments."""

    model: Model
    base: Inputs
    source: Inputs | None
    n: int
    side: str | None
    direction: str = "noise"

    @classmethod
    def of(cls, model: Model, clean: Any, corrupted: Any, direction: str, side: str | None) -> "Pairing":
        if direction not in DIRECTIONS:
            raise InputError(f"direction={direction!r}: it can be {' or '.join(DIRECTIONS)}.")
        one = prepare(model, _listed(clean), side=side)
        two = None
        if corrupted is not None:
            two = prepare(model, _listed(corrupted), side=side)
            if n_rows(one) != n_rows(two):
                raise InputError(
                    f"{n_rows(one)} clean prompts and {n_rows(two)} corrupted ones: give them pair by pair."
                )
            same = [i for i in range(n_rows(one)) if _are_equal(one, two, i)]
            if same:
                raise InputError(
                    f"pair {same[0]}: the clean and the corrupted prompt are the same"
                    + (f" ({len(same)} such pairs in all)" if len(same) > 1 else "")
                    + ", so that a patch can change nothing.\n  leave such pairs out, or change the words that matter."
                )
        base, source = (two, one) if two is not None and direction == "denoise" else (one, two)
        assert base is not None
        return cls(model, base, source, n_rows(base), side, direction)

    @property
    def lengths(self) -> list[int]:
        """Real tokens of every base row; 0 where the inputs are none."""
        return self.base.mask.sum(1).tolist() if self.base.mask is not None else [0] * self.n

    def check_aligned(self, or_else: str = "") -> None:
        """With every position a cell, position p must mean the same in both prompts of a pair.

        or_else: what can be done besides writing other prompts.
        """
        assert self.source is not None
        theirs = self.source.mask.sum(1).tolist() if self.source.mask is not None else self.lengths
        for i, (a, b) in enumerate(zip(theirs, self.lengths, strict=True)):
            if a != b:
                sides = [(a, self._text(self.source, i)), (b, self._text(self.base, i))]
                (m, clean), (n, corrupted) = sides if self.direction == "denoise" else sides[::-1]
                raise TokenError(
                    f"pair {i}: the two prompts have {m} and {n} tokens, so that their positions do not line up.\n"
                    f"  clean      {clean}\n  corrupted  {corrupted}\n"
                    f"  write prompts of equal length{or_else}."
                )

    def _text(self, inputs: Inputs, row: int) -> str:
        return repr(self._pieces(inputs, row)) if inputs.tokens is not None else ""

    def _pieces(self, inputs: Inputs, row: int) -> list[str]:
        ids = ids_of(inputs, row)
        return [self.model.tokenizer.decode([i]) for i in ids] if self.model.tokenizer is not None else [*map(str, ids)]

    def token_texts(self) -> tuple[str, ...]:
        """The first base row's tokens, for figures."""
        return tuple(self._pieces(self.base, 0)) if self.base.tokens is not None else ()

    def inputs(self, rows: Sequence[int]) -> tuple[Any, bool]:
        """(what to run for these pairs: the base rows, then the source rows; are the latter there?)"""
        if self.base.tokens is not None and set(self.base.kwargs) <= PLAIN:
            ids = [ids_of(self.base, r) for r in rows]
            both = ids + ([ids_of(self.source, r) for r in rows] if self.source is not None else [])
            return both, self.source is not None
        return self.base.kwargs or self.base.args, False


def _listed(prompts: Any) -> Any:
    """A tuple of prompts as a list; a tuple of tensors is the module's own arguments."""
    return list(prompts) if isinstance(prompts, tuple) and not isinstance(prompts[0], Tensor) else prompts


def ids_of(inputs: Inputs, row: int) -> list[int]:
    assert inputs.tokens is not None
    assert inputs.mask is not None
    return inputs.tokens[row][inputs.mask[row].to(inputs.tokens.device)].tolist()


@dataclass(eq=False)
class Measured:
    """What cells on some pairs gave: the metric of each, of the base rows and of the source rows, [pair]."""

    cells: Cells
    values: Tensor
    base: Tensor
    other: Tensor | None


def measured(
    both: Pairing,
    metric: Metric,
    cells: Sequence[Cell],
    rows: Sequence[int],
    *,
    read: Read = None,
    way: str | None = None,
    batch_tokens: int | None = None,
    progress: Progress = None,
) -> Measured:
    """Run cells on these pairs (a cell's row counts among them), and measure them and both runs of each pair."""
    model, n = both.model, len(rows)
    inputs, has_source = both.inputs(rows)
    bound = metric.bound(model.tokenizer, both.n, n_vocab(model))
    pair = torch.tensor([*rows, *(rows if has_source else ())])
    more = _more(both, metric, inputs, len(pair), n, has_source)
    tokens = bound.tokens[pair] if bound.tokens is not None else None

    def measure(x: Tensor, which: Tensor, positions: Tensor | None = None) -> Tensor:
        told = {k: (v[which] if positions is None else v[which, positions, None]).to(x.device) for k, v in more.items()}
        if positions is not None:  # each a row of one position
            x = x[:, None]
        elif metric.at == "all":  # one row at a time, of its own length
            told = {k: v[:, : x.shape[1]] for k, v in told.items()}
        if tokens is not None:
            return bound.of_columns(x, pair[which], **told)
        return bound.of_logits(x, pair[which], **told)

    out = run_cells(
        model, inputs, cells, read=read, measure=measure, tokens=tokens, way=way,
        at=more["targets"] >= 0 if metric.by_position else metric.at,
        batch_tokens=batch_tokens, padding_side=both.side, progress=progress,
    )  # fmt: skip
    assert out.base_measured is not None
    values = out.measured if cells and out.measured is not None else torch.zeros(0)
    other = out.base_measured[n:] if has_source else _other(both, bound, rows, way)
    return Measured(out, values, out.base_measured[:n], other)


def _other(both: Pairing, bound: BoundMetric, rows: Sequence[int], way: str | None) -> Tensor | None:
    """The metric of the source rows where they cannot run beside the base rows."""
    source = both.source
    if source is None or bound.metric.at == "all" or bound.metric.reference:
        return None
    which = torch.tensor(list(rows))
    out = run_cells(
        both.model, source.kwargs or source.args, [], way=way, measure=lambda x, at: bound.of_logits(x, which[at])
    )
    return out.base_measured


def _more(both: Pairing, metric: Metric, inputs: Any, total: int, n: int, has_source: bool) -> dict[str, Tensor]:
    """What the metric is told of every row: the reference's logits, [row, vocab], or the tokens that follow."""
    if metric.reference:
        if metric.reference == "clean" and not has_source:
            raise InputError(f"{metric.name} needs a second prompt to compare with: give corrupted=.")
        logits = run(both.model, inputs, output="last", padding_side=both.side).output.logits[:, -1].float()
        chosen = torch.arange(n) + (n if metric.reference == "clean" else 0)
        return {"reference": logits[chosen.repeat(total // n)]}
    if metric.at == "all":
        if both.base.tokens is None:
            raise InputError(f"{metric.name} needs the tokens that follow, and these inputs are no tokens.")
        width = max(len(ids) for ids in inputs)
        return {"targets": torch.tensor([[*ids[1:], *[-1] * (width - len(ids) + 1)] for ids in inputs])}
    return {}


def n_rows(inputs: Inputs) -> int:
    if inputs.mask is not None:
        return inputs.mask.shape[0]
    return next(v.shape[0] for v in (*inputs.args, *inputs.kwargs.values()) if isinstance(v, Tensor))


def _are_equal(one: Inputs, two: Inputs, row: int) -> bool:
    if one.tokens is None or two.tokens is None:
        return False
    return len(one.kwargs) == len(two.kwargs) <= 3 and ids_of(one, row) == ids_of(two, row)


def n_vocab(model: Model) -> int | None:
    text = getattr(model.config, "get_text_config", lambda: model.config)()
    return getattr(text, "vocab_size", None)
