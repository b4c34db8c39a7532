"""What one number says of a prediction: differentiable functions of the logits at one position, per row of the inputs.

A metric knows no model. Binding it to a tokenizer turns its answers into token ids, so that an answer of several tokens
is refused before anything runs, and says which columns of the logits are needed, so that no others are computed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError, TokenError

Answer = str | int | Sequence[Any] | Tensor


@dataclass(frozen=True, eq=False)
class About:
    """What a metric is told beside the logits of n rows.

    ids: its answers, group -> [n, k], filled up with -1 where a set is smaller. reference: the logits it compares
    with, [n, vocab] or [n, pos, vocab]. targets: the tokens that follow, [n, pos], -1 where none does.
    """

    ids: dict[str, Int[Tensor, "n k"]]
    reference: Tensor | None = None
    targets: Int[Tensor, "n pos"] | None = None


@dataclass(frozen=True, eq=False)
class Metric:
    """`fn(logits, about) -> [n]`: one number a row.

    answers: the tokens it asks about, by group; each is one for all rows or one a row, or with `sets` several a row.
    columns: `fn` takes the logits of the answers alone, [n, answers], in the order of the groups.
    at: "last", the logits are those of each row's last real token, [n, vocab]; or "all", [n, pos, vocab].
    by_position: with at="all", its value is the mean of its values at the single positions that have a target.
    reference: "", or whose logits it compares with: "clean", the other prompt's, or "base", the unedited run's.
    """

    name: str
    fn: Callable[[Tensor, About], Tensor]
    answers: dict[str, Answer] = field(default_factory=dict)
    columns: bool = False
    sets: bool = False
    at: str = "last"
    reference: str = ""
    by_position: bool = False

    def __repr__(self) -> str:
        said = (repr(v) if isinstance(v, str | int) else f"{len(v)} {k}s" for k, v in self.answers.items())
        return f"{self.name}({', '.join(said)})"

    def bound(self, tokenizer: Any, n_rows: int, n_vocab: int | None = None) -> "BoundMetric":
        """The metric for inputs of `n_rows` rows. Raises TokenError for an answer that is not one token."""
        ids = {
            name: token_ids(tokenizer, answer, n_rows, sets=self.sets, n_vocab=n_vocab, what=f"{self.name}: {name}")
            for name, answer in self.answers.items()
        }
        return BoundMetric(self, ids)


@dataclass(frozen=True, eq=False)
class BoundMetric:
    """A metric with its answers as token ids, group -> [rows, k]."""

    metric: Metric
    ids: dict[str, Int[Tensor, "rows k"]]

    @property
    def tokens(self) -> Int[Tensor, "rows k"] | None:
        """The only columns of the logits that it needs; None for all of them."""
        return torch.cat(list(self.ids.values()), 1) if self.metric.columns else None

    def of_logits(
        self, logits: Float[Tensor, "n *pos vocab"], rows: Int[Tensor, " n"], **more: Any
    ) -> Float[Tensor, " n"]:
        """One number for each of n rows of logits, which belong to the inputs' rows `rows`; more: see `About`."""
        if self.metric.columns:
            tokens = torch.cat(list(self.ids.values()), 1)[rows.cpu()].to(logits.device)
            return self.of_columns(logits.gather(-1, tokens), rows, **more)
        return self.metric.fn(logits, self._about(rows, logits, more))

    def of_columns(
        self, columns: Float[Tensor, "n answers"], rows: Int[Tensor, " n"], **more: Any
    ) -> Float[Tensor, " n"]:
        """The same, from the columns `tokens` alone."""
        return self.metric.fn(columns, self._about(rows, columns, more))

    def _about(self, rows: Tensor, like: Tensor, more: dict[str, Any]) -> About:
        return About({name: x[rows.cpu()].to(like.device) for name, x in self.ids.items()}, **more)


def metric_of(metric: Any) -> Metric:
    """A metric as it is, or a function of the last real token's logits, `[n, vocab] -> [n]`, as one."""
    if isinstance(metric, Metric):
        return metric
    if not callable(metric):
        raise InputError(
            f"metric={metric!r} is no metric.\n"
            "  give ins.logit_diff(' Paris', ' Rome'), another of them, or a function of logits, [n, vocab] -> [n]."
        )

    def fn(logits: Tensor, about: About) -> Tensor:
        made = metric(logits)
        if not isinstance(made, Tensor) or made.shape != logits.shape[:1]:
            shape = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise InputError(
                f"the metric returned {shape} for logits of shape {tuple(logits.shape)}; "
                f"it must return one number a row: shape ({logits.shape[0]},)."
            )
        return made

    return Metric(getattr(metric, "__name__", "metric"), fn)


def logit_diff(answer: Answer, wrong: Answer) -> Metric:
    """logit(answer) - logit(wrong) at the last real token: how much the model prefers one to the other.

    The field's usual choice for patching: linear in the final state but for the norm, so contributions add up. It does
    not see other tokens; use `probability` or `kl` to see whether the rest of the prediction broke.
    answer, wrong: a token as text (" Paris"), its id, or one a row. Cost: two columns of the unembedding.
    """
    return Metric("logit_diff", lambda x, _: x[:, 0] - x[:, 1], {"answer": answer, "wrong": wrong}, columns=True)


def probability(answer: Answer) -> Metric:
    """softmax(logits)[answer] at the last real token. Saturates near 0 and 1, where `logit_diff` still moves."""
    return Metric("probability", lambda x, a: x.softmax(-1).gather(-1, a.ids["answer"])[:, 0], {"answer": answer})


def log_prob(answer: Answer) -> Metric:
    """log softmax(logits)[answer] at the last real token, in nats."""
    return Metric("log_prob", lambda x, a: x.log_softmax(-1).gather(-1, a.ids["answer"])[:, 0], {"answer": answer})


def rank(answer: Answer) -> Metric:
    """How many tokens the model puts before the answer at the last real token; 0 is the top. Has no gradient."""

    def fn(logits: Tensor, about: About) -> Tensor:
        return (logits > logits.gather(-1, about.ids["answer"])).sum(-1).to(torch.float32)

    return Metric("rank", fn, {"answer": answer})


def accuracy(answers: Answer, among: Answer | None = None) -> Metric:
    """1 where the top token at the last real token is one of the answers, else 0. Has no gradient.

    answers: one for all rows, one a row, or a list a row of tokens that all count. among: look at the top of these
    tokens only (the same for all rows, or a list a row); of the whole vocabulary when left out.
    """
    groups = {"answers": answers} | ({"among": _for_all(among)} if among is not None else {})

    def fn(logits: Tensor, about: About) -> Tensor:
        if "among" in about.ids:
            ids = about.ids["among"]
            scores = logits.gather(-1, ids.clamp(min=0)).masked_fill(ids < 0, -torch.inf)
            top = ids.gather(-1, scores.argmax(-1, keepdim=True))
        else:
            top = logits.argmax(-1, keepdim=True)
        return (top == about.ids["answers"]).any(-1).to(torch.float32)

    return Metric("accuracy", fn, groups, sets=True)


def kl(to: str = "clean") -> Metric:
    """KL(reference || this) of the next-token distributions at the last real token, in nats; 0 where nothing moved.

    to: "clean", the run that patches come from, or "base", the unedited run of the same prompt.
    """
    if to not in ("clean", "base"):
        raise InputError(f"kl(to={to!r}): it can be 'clean' or 'base'.")

    def fn(logits: Tensor, about: About) -> Tensor:
        if about.reference is None:
            raise InputError("kl compares with another run's logits, and there are none here: it is for ins.sweep.")
        p = about.reference.log_softmax(-1)
        return (p.exp() * (p - logits.log_softmax(-1)).clamp(-1e4, 1e4)).sum(-1).clamp(min=0)

    return Metric(f"kl to {to}", fn, reference=to)


def loss() -> Metric:
    """Mean cross-entropy of the prompt's own next tokens, over its real positions, in nats a token."""

    def fn(logits: Tensor, about: About) -> Tensor:
        if about.targets is None:
            raise InputError("loss needs the tokens that follow, and these inputs are no tokens.")
        wanted = about.targets
        taken = logits.log_softmax(-1).gather(-1, wanted.clamp(min=0)[..., None])[..., 0]
        return -(taken * (wanted >= 0)).sum(-1) / (wanted >= 0).sum(-1).clamp(min=1)

    return Metric("loss", fn, at="all", by_position=True)


def token_ids(
    tokenizer: Any, answer: Answer, n_rows: int, *, sets: bool = False, n_vocab: int | None = None, what: str = "answer"
) -> Int[Tensor, "rows k"]:
    """Token ids [rows, k] of answers: text or ids, one for all rows, one a row, or with `sets` a list a row.

    Raises: TokenError for text that is not one token of this tokenizer, an id outside the vocabulary, a wrong number.
    """
    if isinstance(answer, Tensor):
        answer = answer.tolist()
    if isinstance(answer, str | int):
        rows = [[answer]] * n_rows
    elif not isinstance(answer, Sequence) or not len(answer):
        raise TokenError(f"{what}={answer!r}: give a token as text or its id, or one a row.")
    elif isinstance(answer, _Same) or (
        sets and len(answer) != n_rows and all(isinstance(a, str | int) for a in answer)
    ):
        rows = [list(answer)] * n_rows
    else:
        rows = [list(a) if isinstance(a, list | tuple | set) else [a] for a in answer]
    if len(rows) != n_rows:
        raise TokenError(f"{what}: {len(rows)} answers for {n_rows} rows; give one for all rows, or one a row.")
    if not sets and any(len(r) != 1 for r in rows):
        raise TokenError(f"{what}: this metric takes one token a row, not a set.")
    known: dict[Any, int] = {}
    for a in (a for row in rows for a in row):
        if a not in known:
            known[a] = _one(tokenizer, a, n_vocab, what)
    width = max(len(r) for r in rows)
    return torch.tensor([[known[a] for a in r] + [-1] * (width - len(r)) for r in rows])


def _one(tokenizer: Any, answer: Any, n_vocab: int | None, what: str) -> int:
    if isinstance(answer, str):
        if tokenizer is None:
            raise TokenError(f"{what}={answer!r} is text and this model has no tokenizer; give token ids.")
        ids = list(tokenizer(answer, add_special_tokens=False)["input_ids"])
        if len(ids) != 1:
            pieces = ", ".join(repr(tokenizer.decode([i])) for i in ids) or "nothing"
            raise TokenError(
                f"{what}={answer!r} is {len(ids)} tokens here: {pieces}.\n"
                "  choose an answer of one token (most words need their leading space), or give the id of its first."
            )
        return int(ids[0])
    if isinstance(answer, bool) or not isinstance(answer, int):
        raise TokenError(f"{what}={answer!r}: give a token as text or its id.")
    if answer < 0 or (n_vocab is not None and answer >= n_vocab):
        raise TokenError(f"{what}={answer}: the vocabulary has ids from 0 to {(n_vocab or 0) - 1}.")
    return answer


def _for_all(among: Answer) -> Any:
    """Candidates written as one list are the same for all rows."""
    if isinstance(among, Tensor):
        among = among.tolist()
    return _Same(among) if isinstance(among, Sequence) and all(isinstance(a, str | int) for a in among) else among


class _Same(list):
    """One list for all rows, also where it happens to be as long as there are rows."""
