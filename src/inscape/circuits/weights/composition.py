"""Which head's output which later head is made to read, from weights alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.circuits.weights.factored import Factored
from inscape.circuits.weights.head import HeadWeights
from inscape.core.errors import InputError, ShapeError

KINDS, LEVELS, NULLS = ("q", "k", "v"), ("head", "component", "pair"), ("rotation", "gaussian")


class Link(NamedTuple):
    """A sender and a reader by name; component of the sender, and of the reader: -1 where whole heads are meant."""

    sender: str
    component: int
    reader: str
    reader_component: int
    score: float
    z: float


@dataclass(frozen=True, eq=False)
class Composition:
    """Composition scores of senders (rows) with readers (columns), beside what chance gives.

    scores: [sender, reader] at level "head", [sender, component, reader] at "component", [sender, component, reader,
        component of the reader] at "pair". z: how many standard deviations of the null the squared score lies above
        the null's mean, which is 1 / d_model whatever the ranks: 1 / sqrt(d_model) is the zero line of the scores.
    causal: [sender, reader], False where the sender does not come before the reader (scores there are 0, z NaN).
    ranks: how many components each sender has; entries beyond are 0, z NaN. how: kind, level, null, what was folded.
    """

    senders: tuple[str, ...]
    readers: tuple[str, ...]
    scores: Float[Tensor, "sender *axes"]
    z: Float[Tensor, "sender *axes"]
    causal: Tensor
    zero_line: float
    how: str

    def top(self, n: int = 10) -> list[Link]:
        """The n pairs that stand out most, by z."""
        flat = self.z.nan_to_num(-torch.inf).flatten()
        out = []
        for i in flat.topk(min(n, len(flat))).indices.tolist():
            place = [int(j) for j in torch.unravel_index(torch.tensor(i), self.z.shape)]
            part = place.pop(1) if len(place) > 2 else -1
            score, z = float(self.scores.flatten()[i]), float(self.z.flatten()[i])
            own = place[2] if len(place) > 2 else -1
            out.append(Link(self.senders[place[0]], part, self.readers[place[1]], own, score, z))
        return out

    def among_components(self) -> Float[Tensor, "sender component reader"]:
        """How far each component stands out from the other components of its head, in their standard deviations.

        The median and the median absolute deviation (times 1.4826) take the place of mean and deviation, so that the
        one or two that carry a channel do not hide themselves.
        """
        if self.scores.ndim != 3:
            raise ShapeError("components are compared with each other at level='component'.")
        known = torch.where(self.z.isnan(), torch.nan, self.scores)
        middle = known.nanmedian(1, keepdim=True).values
        spread = 1.4826 * (known - middle).abs().nanmedian(1, keepdim=True).values
        return (known - middle) / spread.clamp(min=1e-12)


def composition(
    senders: Sequence[HeadWeights],
    readers: Sequence[HeadWeights],
    kind: str = "k",
    *,
    level: str = "head",
    null: str = "rotation",
    unordered: bool = False,
) -> Composition:
    """`|A B|_F / (|A|_F |B|_F)`: A the sender's OV, B what the reader reads with.

    kind: "q", B = QK (what the sender writes turns the reader's queries); "k", B = QK' (its keys); "v", B = OV.
    level: "head"; "component", A is each rank-one part of the sender's OV in turn (a part's score does not depend on
        its strength: it is how much of B lies along the direction it writes); "pair", B is split likewise, and the
        score of two parts is the absolute cosine between what one writes and the other reads.
    null: what the sender is replaced by, with the reader as it is. "rotation": itself, turned at random, so with its
        own spectrum; "gaussian": a random d x d matrix of full rank. Both moments of the squared score are exact:
        mean `1/d`, variance `2 |A0|^2 |B0|^2 / ((d - 1)(d + 2))` with A0, B0 the traceless parts of `A'A / tr` and
        `BB' / tr`; nothing is drawn. For thin matrices the null leans to the right: a z of 4 among hundreds of parts is
        nothing unusual, so look at the largest of `shuffled` heads too.
    unordered: score pairs where the sender is not in an earlier layer than the reader as well.
    Choose it to find candidates from weights; confirm them by patching, since it sees no data, and heads that compose
    through an MLP or a norm's size are not seen at all.
    Cost: one d x r x r product a pair of heads; no d x d matrix is made.
    Raises: InputError for a kind, level or null that is none, or heads of different widths; ModelError for a reader
        whose queries and keys could not be traced.
    Source: Elhage et al. 2021; Merullo et al. 2024, arXiv:2406.09519 for components. Both there leave norms out of
        readers with RMS gains; here gains and centring are folded (see `head`), and the null is closed-form.
    """
    for value, allowed, what in ((kind, KINDS, "kind"), (level, LEVELS, "level"), (null, NULLS, "null")):
        if value not in allowed:
            raise InputError(f"{what}={value!r} is none of composition; it can be {', '.join(map(repr, allowed))}.")
    if not senders or not readers:
        raise InputError("composition needs at least one sender and one reader, such as weights.heads(model).")
    d = senders[0].W_O.shape[1]
    writes, reads = [_writer(s, level) for s in senders], [_reader(r, kind, level) for r in readers]
    if any(w.shape[1] != d for w, _ in writes) or any(r.shape[1] != d for r, _ in reads):
        raise InputError("composition takes heads that write to and read from streams of one width.")
    causal = torch.tensor([[unordered or _before(s.layer, r.layer) for r in readers] for s in senders])
    shape = [len(senders), len(readers)]
    if level != "head":
        shape.insert(1, max(len(w) for w, _ in writes))
    if level == "pair":
        shape.append(max(len(r) for r, _ in reads))
    scores, z = torch.zeros(shape), torch.full(shape, torch.nan)
    for j, (inward, weight) in enumerate(reads):
        for i, (outward, strength) in enumerate(writes):
            if not bool(causal[i, j]):
                continue
            overlap = (outward @ inward.T).square()  # [component of the sender, component of the reader]
            if level == "pair":
                square, spread = overlap, _spread(d, 1.0, torch.ones(()))
                scores[i, : len(square), j, : square.shape[1]] = square.sqrt()
                z[i, : len(square), j, : square.shape[1]] = (square - 1 / d) / spread
                continue
            square = overlap @ weight
            if level == "component":
                spread = _spread(d, 1.0, weight)
                scores[i, : len(square), j] = square.sqrt()
                z[i, : len(square), j] = (square - 1 / d) / spread
            else:
                square = (strength * square).sum()
                flat = float(strength.square().sum()) if null == "rotation" else (2 * d + 1) / (d * d + 2)
                scores[i, j], z[i, j] = square.sqrt(), (square - 1 / d) / _spread(d, flat, weight)
    folded = ", ".join(dict.fromkeys(h.folded for h in (*senders, *readers)))
    turned = ", ".join(dict.fromkeys(r.turned for r in readers)) if kind != "v" else ""
    how = f"{kind}-composition of {level}s against a {null} null; {folded}" + (f"; {turned}" if turned else "")
    return Composition(
        tuple(s.name for s in senders), tuple(r.name for r in readers), scores, z, causal, d**-0.5, how
    )  # fmt: skip


def shuffled(heads: Sequence[HeadWeights], seed: int = 0) -> list[HeadWeights]:
    """Heads whose matrices hold the same entries in random places: what scores are without structure.

    The null of `composition` treats one pair at a time; the largest of all pairs must be larger than the largest here.
    """
    generator = torch.Generator().manual_seed(seed)

    def mixed(matrix: Tensor | None) -> Tensor | None:
        if matrix is None:
            return None
        order = torch.randperm(matrix.numel(), generator=generator).to(matrix.device)
        return matrix.flatten()[order].reshape(matrix.shape)

    names = ("W_Q", "W_K", "W_V", "W_O")
    return [replace(h, **{n: mixed(getattr(h, n)) for n in names}) for h in heads]


def _writer(head: HeadWeights, level: str) -> tuple[Tensor, Tensor]:
    """What a head writes along: orthonormal rows, and the share of its squared norm that lies along each."""
    parts = head.OV.components
    return parts.write.float(), _shares(parts.strength)


def _reader(head: HeadWeights, kind: str, level: str) -> tuple[Tensor, Tensor]:
    """What a head reads along, likewise."""
    matrix: Factored = {"q": lambda: head.QK, "k": lambda: head.QK.T, "v": lambda: head.OV}[kind]()
    parts = matrix.components
    return parts.read.float(), _shares(parts.strength)


def _shares(strength: Tensor) -> Tensor:
    square = strength.double().square()
    return (square / square.sum().clamp(min=1e-300)).float()


def _spread(d: int, flat: float, weight: Tensor) -> float:
    """Standard deviation of the squared score; flat: sum of the sender's squared shares, weight: the reader's."""
    of_reader = float(weight.double().square().sum())
    return (2 * (flat - 1 / d) * (of_reader - 1 / d) / ((d - 1) * (d + 2))) ** 0.5


def _before(sender: str, reader: str) -> bool:
    """Is the sender's layer an earlier one of the same stack?"""
    (a, m), (b, n) = (name.rsplit(".", 1) for name in (sender, reader))
    return a == b and int(m) < int(n)
