"""Where in ordinary text is a head needed? Its mean in its place, and the loss at every position beside others'."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.circuits.bank import ablation_bank
from inscape.circuits.behaviours import Behaviour, behaviours
from inscape.circuits.effect import Measure
from inscape.core.errors import InputError, ModelError
from inscape.core.nulls.permutation import permutation_p
from inscape.core.progress import Progress, tell
from inscape.engine.inputs import prepare
from inscape.engine.unembed import predicts_next
from inscape.models.model import Model

BATCH = 8  # texts at once
EVERY = 1 << 40  # positions: all of them


@dataclass(frozen=True, eq=False)
class Place:
    """One place in the texts. context: what stands before it. right: the token that follows. change: of its loss.

    others: the mean change without one of the other heads. behaviours: what the right token could be a case of.
    """

    row: int
    position: int
    context: str
    right: str
    change: float
    others: float
    behaviours: tuple[str, ...]


@dataclass(frozen=True)
class Share:
    """How many of the places where a head is needed most are of one behaviour.

    share: of the head's top places. base: of all places. others: of the other heads' top places, the mean. p: how often
    another head's share is as large (1 / (others + 1) at best).
    """

    behaviour: str
    share: float
    base: float
    others: float
    p: float


@dataclass(frozen=True, eq=False)
class AblationLoss:
    """The change of the loss, in nats, at every place, without the head and without each of the other heads.

    head, others: names. rows, positions: of each place: the text and the real token before the right one. right: the
    tokens that follow. tokens: of each text. labels: behaviour -> at which places it holds. loss: of the model whole.
    """

    head: str
    others: tuple[str, ...]
    change: Float[Tensor, " place"]
    others_change: Float[Tensor, "head place"]
    loss: Float[Tensor, " place"]
    rows: Int[Tensor, " place"]
    positions: Int[Tensor, " place"]
    right: Int[Tensor, " place"]
    tokens: tuple[tuple[int, ...], ...]
    labels: dict[str, Bool[Tensor, " place"]]
    tokenizer: Any = None

    @property
    def mean(self) -> float:
        """The mean change over all places."""
        return float(self.change.mean())

    def top(self, n: int = 10, *, context: int = 24) -> list[Place]:
        """The n places where the loss rises most, with up to `context` tokens before them."""
        order = self.change.topk(min(n, len(self.change))).indices.tolist()
        return [self._place(i, context) for i in order]

    def behaviours(self, n: int = 50) -> list[Share]:
        """Of each behaviour, its share of the n places where the loss rises most, beside other heads' places.

        A head with several of them above their base is polysemous: it does different things in different texts.
        """
        tops = [_top(x, n) for x in (self.change, *self.others_change)]
        made = []
        for name, held in self.labels.items():
            shares = torch.stack([held[t].double().mean() for t in tops])
            p = permutation_p(float(shares[0]), shares[1:]) if len(self.others) else float("nan")
            others = float(shares[1:].mean()) if len(self.others) else float("nan")
            made.append(Share(name, float(shares[0]), float(held.double().mean()), others, float(p)))
        return sorted(made, key=lambda s: s.base - s.share)

    def _place(self, i: int, context: int) -> Place:
        row, at = int(self.rows[i]), int(self.positions[i])
        before = self.tokens[row][max(0, at + 1 - context) : at + 1]
        others = float(self.others_change[:, i].mean()) if len(self.others) else float("nan")
        held = tuple(name for name, where in self.labels.items() if bool(where[i]))
        return Place(row, at, self._text(before), self._text([int(self.right[i])]), float(self.change[i]), others, held)

    def _text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids)) if self.tokenizer is not None else " ".join(map(str, ids))


def _top(change: Tensor, n: int) -> Tensor:
    return change.topk(min(n, len(change))).indices


def ablation_loss(
    model: Model,
    head: tuple[int, int],
    texts: Sequence[Any],
    *,
    others: int | None = 15,
    labels: Mapping[str, Behaviour] | None = None,
    seed: int = 0,
    progress: Progress = None,
) -> AblationLoss:
    """Put a head's mean in its place at all positions of texts, and see where the right next token gets less likely.

    `change[place] = loss without the head - loss`, the mean of z taken over all positions of these texts. What is then
    missing is what the head says of this text and no other. Loss rises somewhere without any head, so the same is done
    for `others` heads, drawn at random (all heads when None): read a head's places beside theirs.
    Choose it to see what a head is for in the wild; choose `head_atlas` to try known kinds, `ins.sweep` for one prompt.

    head: (layer, head). texts: texts or lists of token ids, two tokens or more each. labels: behaviour -> function of
        (tokens so far, right token); `circuits.behaviours` when left out.
    Cost: two forwards without the head's matrix, and for each head one more with that matrix at every position.
    Raises: InputError for a head that is not there or no texts; ModelError for a model that does not score the next
        token, or whose scores cannot be made from its final stream.
    Source: Gould et al. 2023, arXiv:2312.09230, section on successor heads in the wild; the other heads are added here.
    """
    if not predicts_next(model):
        raise ModelError(
            f"{type(model.module).__name__} does not score the next token, so there is no loss at a position."
        )
    heads = _heads(model)
    name = f"layers.{head[0]}.head.{head[1]}"
    if name not in heads:
        raise InputError(f"there is no head {head}: the heads with a z are {', '.join(list(heads)[:4])} ...")
    given = [texts] if isinstance(texts, str) else list(texts)
    if not given:
        raise InputError("ablation_loss needs texts: give at least one, of two tokens or more.")
    rest = [other for other in heads if other != name]
    chosen = rest if others is None else random.Random(seed).sample(rest, min(others, len(rest)))
    bank = ablation_bank(model, given, sorted({heads[h][0] for h in (name, *chosen)}), key="position", pool=1)
    changes, losses, where, right, tokens = [], [], [], [], []
    for start in range(0, len(given), BATCH):
        tell(progress, f"ablating {1 + len(chosen)} heads", start / len(given))
        part = given[start : start + BATCH]
        measure = Measure.of(model, part, EVERY, True, seed)
        if measure.losses is None or measure.next is None:
            raise ModelError(f"the scores of {type(model.module).__name__} cannot be made from its final stream.")
        edits = [bank.edit(model, heads[h][0], "mean", heads=heads[h][1]) for h in (name, *chosen)]
        changes.append(torch.stack([_change(measure, edit) for edit in edits]))
        losses.append(measure.losses)
        right.append(measure.next)
        rows, columns = measure.places
        ready = prepare(model, part)
        assert ready.tokens is not None
        mask = ready.mask.bool().cpu() if ready.mask is not None else torch.ones_like(ready.tokens.cpu().bool())
        where.append(torch.stack([rows + start, mask.long().cumsum(1)[rows, columns] - 1]))
        tokens += [tuple(t[m].tolist()) for t, m in zip(ready.tokens.cpu(), mask, strict=True)]
    change, (row, at), following = torch.cat(changes, 1), torch.cat(where, 1), torch.cat(right)
    known = labels if labels is not None else behaviours(model)
    held = {
        label: torch.tensor(
            [
                bool(fn(tokens[r][: p + 1], t))
                for r, p, t in zip(row.tolist(), at.tolist(), following.tolist(), strict=True)
            ]
        )
        for label, fn in known.items()
    }
    return AblationLoss(
        name, tuple(chosen), change[0], change[1:], torch.cat(losses), row, at, following, tuple(tokens), held,
        model.tokenizer,
    )  # fmt: skip


def _heads(model: Model) -> dict[str, tuple[str, int]]:
    """Name -> (site of z, head), of every head whose output can be replaced."""
    found = {}
    for block in model.blocks:
        point = block.points.get("attn.z")
        if point is not None:
            found |= {f"{block.name}.head.{h}": (point.name, h) for h in range(point.heads or 1)}
    if not found:
        raise ModelError(f"{type(model.module).__name__} has no heads whose output can be replaced.")
    return found


def _change(measure: Measure, edit: Any) -> Tensor:
    change = measure.loss_change(edit)
    assert change is not None
    return change
