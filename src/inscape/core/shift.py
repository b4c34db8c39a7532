"""How far a next-token distribution has moved: from the logits before and after, some rows at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.core.errors import InputError, ShapeError

BUDGET = 64 * 2**20  # bytes of float32 logits looked at together


@dataclass(frozen=True, eq=False)
class Shift:
    """What happened to n next-token distributions p, which became q.

    kl: KL(p || q) in nats. total_variation: half the summed |p - q|, the most that any event's probability changed.
    entropy, base_entropy: of q and of p, in bits. agreement: the same top token. mass, base_mass: probability of each
    set of answers under q and under p.
    """

    kl: Float[Tensor, " n"]
    total_variation: Float[Tensor, " n"]
    entropy: Float[Tensor, " n"]
    base_entropy: Float[Tensor, " n"]
    agreement: Bool[Tensor, " n"]
    mass: Mapping[str, Float[Tensor, " n"]] = field(default_factory=dict)
    base_mass: Mapping[str, Float[Tensor, " n"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.kl)

    def share(self, name: str, *, base: bool = False) -> Float[Tensor, " n"]:
        """The mass of one set of answers over that of all sets together: how it stands among the answers alone."""
        mass = self.base_mass if base else self.mass
        if name not in mass:
            raise InputError(f"no answers are called {name!r}; there are {', '.join(map(repr, mass)) or 'none'}.")
        return mass[name] / torch.stack(list(mass.values())).sum(0).clamp(min=1e-30)

    @staticmethod
    def cat(parts: Sequence["Shift"]) -> "Shift":
        """Several after one another. Raises: InputError for none."""
        if not parts:
            raise InputError("there are no shifts to put together.")
        made: dict[str, Any] = {name: torch.cat([getattr(p, name) for p in parts]) for name in COLUMNS}
        for which in ("mass", "base_mass"):
            made[which] = {k: torch.cat([getattr(p, which)[k] for p in parts]) for k in getattr(parts[0], which)}
        return Shift(**made)


COLUMNS = ("kl", "total_variation", "entropy", "base_entropy", "agreement")


def shift(
    base: Float[Tensor, "n vocab"],
    moved: Float[Tensor, "m vocab_moved"],
    answers: Mapping[str, Any] | None = None,
    *,
    budget: int = BUDGET,
) -> Shift:
    """How far next-token distributions moved, row by row, from their logits.

    answers: sets of token ids by name, the same for all rows [k] or one set a row [n, k] (-1 fills up); an id counts
    once in a set. Cost: a few passes over the logits; copies of at most `budget` bytes of them, in float32 or wider.
    Raises: ShapeError for logits of unlike shape, InputError for ids outside the vocabulary.
    """
    if base.shape != moved.shape or base.ndim != 2:
        raise ShapeError(
            f"logits before and after have shapes {tuple(base.shape)} and {tuple(moved.shape)}.\n"
            "  give those of the same predictions, [n, vocab]."
        )
    n, n_vocab = base.shape
    sets = {name: _set(ids, n, n_vocab, name) for name, ids in (answers or {}).items()}
    rows = max(1, budget // (4 * n_vocab))
    parts = []
    for start in range(0, max(1, n), rows):
        here = slice(start, start + rows)
        parts.append(_shift(base[here], moved[here], {k: ids[here] for k, ids in sets.items()}))
    return Shift.cat(parts)


def log_probabilities(logits: Float[Tensor, "*rows vocab"]) -> Float[Tensor, "*rows vocab"]:
    """In float32 or wider; what is impossible is very unlikely, so that 0 times its logarithm is 0."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.detach().to(wide).log_softmax(-1).clamp_(min=torch.finfo(wide).min)


def kl_between(
    p: Float[Tensor, "n vocab"], log_p: Float[Tensor, "n vocab"], log_q: Float[Tensor, "n vocab"]
) -> Float[Tensor, " n"]:
    """KL(p || q) in nats, of what `log_probabilities` gave. Writes into log_q: two passes and no copy."""
    kl = torch.linalg.vecdot(p, torch.sub(log_p, log_q, out=log_q)).clamp_(min=0)
    return torch.where(kl > torch.finfo(kl.dtype).max * 1e-8, torch.inf, kl)  # something that became impossible


def _shift(base: Tensor, moved: Tensor, sets: Mapping[str, Tensor]) -> Shift:
    log_p, log_q = log_probabilities(base), log_probabilities(moved)
    agreement = (log_p.argmax(-1) == log_q.argmax(-1)).cpu()
    p, q = log_p.exp(), log_q.exp()
    mass, base_mass = ({k: _of_set(x, ids).cpu() for k, ids in sets.items()} for x in (q, p))
    before, after = (-torch.linalg.vecdot(x, y) / log(2) for x, y in ((p, log_p), (q, log_q)))
    kl = kl_between(p, log_p, log_q)
    variation = q.sub_(p).abs_().sum(-1) / 2
    return Shift(kl.cpu(), variation.cpu(), after.cpu(), before.cpu(), agreement, mass, base_mass)


def _of_set(probabilities: Tensor, ids: Tensor) -> Tensor:
    ids = ids.to(probabilities.device)
    return (probabilities.gather(-1, ids.clamp(min=0)) * (ids >= 0)).sum(-1)


def _set(ids: Any, n: int, n_vocab: int, name: str) -> Int[Tensor, "n k"]:
    """One set of different ids a row, -1 where there is none."""
    made = torch.as_tensor(ids).long().cpu()
    if made.ndim not in (1, 2) or not made.numel() or (made.ndim == 2 and len(made) not in (1, n)):
        raise ShapeError(f"answers {name!r} have shape {tuple(made.shape)}: give ids [k], or one set a row, [{n}, k].")
    if int(made.min()) < -1 or int(made.max()) >= n_vocab:
        raise InputError(f"answers {name!r} hold ids outside the vocabulary of {n_vocab}.")
    made = made.reshape(-1, made.shape[-1]).sort(-1).values
    twice = torch.cat([torch.zeros_like(made[:, :1], dtype=torch.bool), made[:, 1:] == made[:, :-1]], 1)
    return made.masked_fill(twice, -1).expand(n, -1)
