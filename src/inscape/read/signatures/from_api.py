"""Signatures from what an API returns: the log probability of each token and of the few most probable ones."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from inscape.core.errors import InputError
from inscape.read.signatures.signature import UNKNOWN, Signatures

ROUNDING = 1e-3  # sums of rounded probabilities may be so much above 1


def from_logprobs(
    items: Sequence[Sequence[Any]], n_vocab: int, *, k: int | None = None, texts: Sequence[str] = ()
) -> Signatures:
    """Signatures of answers whose log probabilities an API gave, with only the top few a step.

    A rank is known where the token that came is at least as probable as the last of the top ones, and -1 elsewhere.
    mu = 1 / n_vocab is exact. What is left of 1 is taken to be even over the tokens that were not given, which makes
    sigma a little too small and the entropy too large; the signatures say so (`approximate`).
    items: a list of steps an item. A step is (log_prob, [top log probs]), or a mapping as chat APIs return it:
        {"token": ..., "logprob": ..., "top_logprobs": [{"token": ..., "logprob": ...}, ...]}.
    n_vocab: size of the model's vocabulary; look it up, ranks and sigma are scaled by it. k: probabilities kept a step;
        the fewest that any step has, where it is left out.
    Cost: none. Raises: InputError for no items or steps, a positive log probability, probabilities of more than 1, too
    few top ones, or a vocabulary that is smaller than k.
    """
    steps = [[_step(step, i, j) for j, step in enumerate(item)] for i, item in enumerate(items)]
    if not steps or not all(steps):
        empty = next((i for i, item in enumerate(steps) if not item), None)
        raise InputError("there are no items." if empty is None else f"item {empty} has no steps.")
    fewest = min(len(top) for item in steps for _, _, top in item)
    k = fewest if k is None else k
    if not 1 <= k <= fewest or k > n_vocab:
        raise InputError(
            f"k={k}, and the step with the fewest has {fewest} top log probabilities of a vocabulary of {n_vocab:,}.\n"
            "  ask the API for more of them (top_logprobs), or take a smaller k."
        )
    shape = (len(steps), max(map(len, steps)))
    flat: dict[str, Any] = {name: torch.zeros(shape) for name in ("log_prob", "mu", "sigma", "log_mean", "log_std")}
    top, mask = torch.zeros(*shape, k, dtype=torch.float16), torch.zeros(shape, dtype=torch.bool)
    rank = torch.zeros(shape, dtype=torch.int32)
    for i, item in enumerate(steps):
        for j, (own, place, given) in enumerate(item):
            mask[i, j] = True
            values = torch.tensor(given, dtype=torch.float64)
            top[i, j] = values[:k].exp().half()
            rank[i, j] = place
            for name, value in _moments(values, own, n_vocab).items():
                flat[name][i, j] = value
            flat["log_prob"][i, j] = own
    return Signatures(
        top=top, rank=rank, mask=mask, tokens=torch.full(shape, -1, dtype=torch.int32), n_vocab=n_vocab,
        span="generated", approximate=True, texts=tuple(texts), **flat,
    )  # fmt: skip


def _step(step: Any, item: int, at: int) -> tuple[float, int, list[float]]:
    """The log probability of a step, its rank (or -1), and the top ones, falling."""
    where = f"step {at} of item {item}"
    if isinstance(step, Mapping):
        if "logprob" not in step or "top_logprobs" not in step:
            raise InputError(f"{where} has {', '.join(step)}: it needs 'logprob' and 'top_logprobs'.")
        own = float(step["logprob"])
        ordered = sorted(step["top_logprobs"], key=lambda one: -float(one["logprob"]))
        top = [float(one["logprob"]) for one in ordered]
        named = [
            n for n, one in enumerate(ordered) if one.get("token") is not None and one["token"] == step.get("token")
        ]
    else:
        own, given = float(step[0]), step[1]
        top, named = sorted((float(x) for x in given), reverse=True), []
    if not top or own > 0 or top[0] > 0 or not all(map(math.isfinite, (own, *top))):
        raise InputError(f"{where} holds no top log probabilities, or one that is above 0 or not finite.")
    if sum(map(math.exp, top)) > 1 + ROUNDING:
        raise InputError(f"the top probabilities of {where} add up to more than 1: are they logarithms to base e?")
    above = sum(x > own for x in top)
    known = named[0] if named else above if own >= top[-1] else UNKNOWN
    return own, known, top


def _moments(top: torch.Tensor, own: float, n_vocab: int) -> dict[str, float]:
    """mu and sigma of all probabilities, log_mean and log_std, with what is left spread evenly."""
    p = top.exp()
    others = n_vocab - len(top)
    left = max(0.0, 1.0 - float(p.sum())) if others else 0.0
    each = left / others if others else 0.0
    mu = 1.0 / n_vocab
    squares = float((p - mu).square().sum()) + others * (each - mu) ** 2
    rest = math.log(each) if each > 0 else 0.0
    mean = float((p * top).sum()) + left * rest
    spread = float((p * (top - mean).square()).sum()) + left * (rest - mean) ** 2
    return {"mu": mu, "sigma": math.sqrt(squares / n_vocab), "log_mean": mean, "log_std": math.sqrt(max(spread, 0.0))}
