"""Kinds of heads that are known by what they do to an answer: they bring it, hold it down, or hold its rival back.

Measured on pairs such as "When Mary and John went to the store, John gave a drink to": the answer is " Mary", the word
that comes twice is " John". Where a head looks from the last token, and what it does to logit(answer) - logit(wrong):
directly, through the final norm and the head of the model, or by way of later heads.
"""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.circuits.direct import direct_logits
from inscape.circuits.heads.measured import Measured, all_of, beside
from inscape.circuits.heads.probes import Probes
from inscape.circuits.paths import path_patching
from inscape.circuits.role_attention import role_attention
from inscape.circuits.sweep import sweep
from inscape.core.errors import InputError, ModelError
from inscape.core.grid import Grid
from inscape.core.metrics import logit_diff
from inscape.core.nulls.paired import sign_flipped
from inscape.core.progress import tell
from inscape.engine.unembed import predicts_next

UNIT, OTHERS = "logits", "other tokens"


def mover(probes: Probes) -> Measured:
    """Looks from the end at the answer, and adds to it directly."""
    return _looks_and_acts(probes, probes.roles[0], direct_effect(probes), "direct effect")


def negative_mover(probes: Probes) -> Measured:
    """Looks from the end at the answer, and takes from it directly."""
    return _looks_and_acts(probes, probes.roles[0], -direct_effect(probes), "direct effect, downwards")


def inhibition(probes: Probes) -> Measured:
    """Looks from the end at the word that comes twice, and serves the answer by way of later heads.

    The effect is what patching the head's output at the end from the corrupted prompt costs, less what it costs through
    the direct path alone.
    """
    return _looks_and_acts(probes, probes.roles[1], indirect_effect(probes), "effect through later heads")


def _looks_and_acts(probes: Probes, role: str, effect: Float[Tensor, "pair layer head"], name: str) -> Measured:
    parts = {
        f"attention on {role}": _beside_signs(probes, excess_at_the_end(probes, role), "attention"),
        name: _beside_signs(probes, effect, UNIT),
    }
    right = probes.pairs.answered_by(probes.model, among="candidates").float().mean()
    said = (
        f"the model answers {float(right):.0%} of {len(probes.pairs)} pairs right, {probes.pairs.chance:.0%} by chance"
    )
    return all_of(parts[name], parts, (said,))


def _beside_signs(probes: Probes, effect: Float[Tensor, "pair layer head"], unit: str) -> Measured:
    there = ~effect.isnan().any(0)
    null = torch.full((probes.draws, *effect.shape[1:]), torch.nan)
    null[:, there] = sign_flipped(effect[:, there], n=probes.draws, seed=probes.seed).float()
    return beside(effect.mean(0), null, unit, own_scale=True)


def excess_at_the_end(probes: Probes, role: str) -> Float[Tensor, "pair layer head"]:
    """Attention from the last token on a role's tokens (their mean), less the mean over other tokens but the first.

    The first position is left out: attention that has nowhere to go rests there.
    """
    return probes.once(f"attention on {role}", lambda: _excess(probes, role))


def _excess(probes: Probes, role: str) -> Float[Tensor, "pair layer head"]:
    tell(probes.progress, f"attention from the last token on {role}", 0.5)
    _needs_next(probes)
    pairs = probes.pairs
    on, counts, others = [], [], []
    for ids, at in zip(pairs.clean_ids, pairs.roles[role].tolist(), strict=True):
        on.append(len(set(at)))
        others.append([i for i in range(1, len(ids)) if i not in at])
        counts.append(len(others[-1]))
    if not min(counts):
        raise InputError(f"pair {counts.index(0)} has no token beside its {role!r} to compare attention with.")
    widest = max(counts)
    table = torch.tensor([row + row[-1:] * (widest - len(row)) for row in others])
    both = replace(
        pairs, roles={**pairs.roles, OTHERS: table}, corrupted_roles={**pairs.corrupted_roles, OTHERS: table}
    )
    found = role_attention(probes.model, both, (role, OTHERS)).per_pair
    size = torch.tensor([on, counts]).T[..., None, None]
    mean = found / size
    return mean[:, 0] - mean[:, 1]


def direct_effect(probes: Probes) -> Float[Tensor, "pair layer head"]:
    """What each head adds to logit(answer) - logit(wrong) itself."""
    return probes.once("direct effect", lambda: _direct(probes))


def _direct(probes: Probes) -> Float[Tensor, "pair layer head"]:
    tell(probes.progress, "direct effects on the answer", 0.6)
    _needs_next(probes)
    pairs = probes.pairs
    made = direct_logits(
        probes.model, [list(ids) for ids in pairs.clean_ids], pairs.answer_ids, pairs.wrong_ids, control=None
    )
    names = [name for name in made.parts if ".head." in name]
    split = [(layer, int(head)) for layer, head in (name.rsplit(".head.", 1) for name in names)]
    return probes.array(split, torch.stack([made.parts[name] for name in names], 1))


def indirect_effect(probes: Probes) -> Float[Tensor, "pair layer head"]:
    """What a head's output at the end from the corrupted prompt costs, less what it costs on the direct path."""
    tell(probes.progress, "effects through later heads", 0.7)
    _needs_next(probes)
    model, pairs = probes.model, probes.pairs
    clean, corrupted = ([list(ids) for ids in side] for side in (pairs.clean_ids, pairs.corrupted_ids))
    metric = logit_diff(pairs.answer_ids, pairs.wrong_ids)
    whole = sweep(
        model, clean, corrupted, metric=metric, sites="layers.*.attn.z", heads="all", positions=[-1], direction="noise"
    )
    path = path_patching(model, clean, corrupted, metric=metric, positions=-1)
    return _lost(probes, whole) - _lost(probes, path)


def _lost(probes: Probes, grid: Grid) -> Float[Tensor, "pair layer head"]:
    values: Any = grid.per_pair.flatten(1)
    names = [grid.label(i) for i in range(values.shape[1])]
    split = [(str(label[0]).removesuffix(".attn.z"), int(label[-1])) for label in names]
    return probes.array(split, grid.base[:, None] - values)


def _needs_next(probes: Probes) -> None:
    if not predicts_next(probes.model):
        raise ModelError(
            f"{type(probes.model.module).__name__} does not score the next token, so no head of it can bring an answer."
        )
