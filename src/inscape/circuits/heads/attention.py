"""What each attention head looks at, on a probe of random tokens that come twice.

The probe is `first, r_1 ... r_L, r_1 ... r_L` with random r. Means over the queries of the second half:
1. previous   pattern[q, q-1]        the token before
2. duplicate  pattern[q, q-L]        the same token, one period ago
3. induction  pattern[q, q-L+1]      what followed the same token one period ago
4. first      pattern[q, 0]          the first position, where sinks are
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError, InscapeError, ModelError
from inscape.core.progress import Progress, tell
from inscape.engine.forward import run
from inscape.models.model import Model
from inscape.tasks.induction import repeated_probe

KINDS = ("previous", "duplicate", "induction", "first")


@dataclass(frozen=True, eq=False)
class HeadScores:
    """Scores of every head, [layer, head], by kind; NaN where a layer cannot see that far (a sliding window).

    chance: per layer, the same score of a head that spreads its attention evenly over the keys it may see, on the same
    probe. control: the same scores on a probe whose second half is the first in another order: the tokens are the
    same, their pairing is not; duplicate and induction fall there to what position alone gives.
    """

    layers: tuple[str, ...]
    scores: dict[str, Float[Tensor, "layer head"]]
    chance: dict[str, Float[Tensor, " layer"]]
    control: dict[str, Float[Tensor, "layer head"]] | None
    length: int
    n_rows: int

    def top(self, kind: str, n: int = 5) -> list[tuple[str, int, float]]:
        """The n highest scores of a kind: (layer, head, score)."""
        if kind not in self.scores:
            raise InputError(f"no head score is called {kind!r}; there are {', '.join(self.scores)}.")
        flat = self.scores[kind].nan_to_num(-1.0).flatten()
        n_heads = self.scores[kind].shape[1]
        best = flat.topk(min(n, len(flat)))
        return [
            (self.layers[int(i) // n_heads], int(i) % n_heads, float(v))
            for v, i in zip(best.values, best.indices, strict=True)
        ]


def head_scores(
    model: Model,
    *,
    length: int = 24,
    rows: int = 8,
    control: str | None = "shuffle",
    seed: int = 0,
    progress: Progress = None,
) -> HeadScores:
    """Previous-token, duplicate-token, induction and first-token scores of every head.

    length: tokens before they come again. rows: probes in the batch. control: "shuffle", see `HeadScores`.
    Cost: one forward of rows x (2 length + 1) tokens without the head, two with the control.
    Raises: ModelError for models that do not read tokens or have no attention patterns.
    Source: Olsson et al. 2022, arXiv:2209.11895, scores on repeated random tokens.
    """
    if control not in (None, "shuffle"):
        raise InputError(f"control={control!r} is none of head_scores; it can be 'shuffle' or None.")
    names = pattern_sites(model)
    length = probe_length(model, length)
    tell(progress, "running the probe of repeated tokens", 0.0)
    plain = looks(model, names, repeated_probe(model, length, rows, seed), length)
    shuffled = None
    if control is not None:
        tell(progress, "running its shuffled control", 0.5)
        other = looks(model, names, repeated_probe(model, length, rows, seed, shuffle=True), length)
        shuffled = {kind: x.mean(0) for kind, x in other.scores.items()}
    scores = {kind: x.mean(0) for kind, x in plain.scores.items()}
    layers = tuple(name.removesuffix(".attn.pattern") for name in names)
    return HeadScores(layers, scores, plain.chance, shuffled, length, rows)


@dataclass(frozen=True, eq=False)
class Looks:
    """Attention on the keys of each kind, row by row; NaN where a layer cannot see that far.

    scores: kind -> [row, layer, head]. chance: kind -> even attention over the keys in sight, by layer.
    elsewhere: attention on keys drawn at random among those in sight, the mean over rows and queries, [draw, layer,
    head]: what a head looks at when it does not care where the key is. None without draws.
    """

    scores: dict[str, Float[Tensor, "row layer head"]]
    chance: dict[str, Float[Tensor, " layer"]]
    elsewhere: Float[Tensor, "draw layer head"] | None


def pattern_sites(model: Model) -> list[str]:
    """The attention patterns of all layers that have one. Raises: ModelError for a model without attention."""
    names = [f"{b.name}.attn.pattern" for b in model.blocks if f"{b.name}.attn.pattern" in model.sites]
    if not names:
        raise ModelError(f"{type(model.module).__name__} offers no attention pattern.")
    return names


def probe_length(model: Model, length: int) -> int:
    """As many tokens as asked for, or as the model's positions hold twice."""
    length = min(length, _room(model))
    if length < 2:
        raise ModelError("this model's positions do not hold a probe of two times two tokens.")
    return length


def looks(
    model: Model, names: list[str], ids: Int[Tensor, "row pos"], length: int, *, draws: int = 0, seed: int = 0
) -> Looks:
    """Run a probe of twice `length` tokens behind a first one, and take what is needed of each pattern on the way."""
    q = torch.arange(length + 1, 2 * length + 1)
    keys = {"previous": q - 1, "duplicate": q - length, "induction": q - length + 1, "first": torch.zeros_like(q)}
    where = torch.rand(draws, length, generator=torch.Generator().manual_seed(seed))

    def picked(pattern: Tensor) -> Tensor:
        """[kind, row, head + 1]: the mean over queries, and in the last column what even attention gives."""
        seen = _seen(pattern)
        even = seen.float() / seen.sum(1, keepdim=True).clamp(min=1)
        made = []
        for kind in KINDS:
            k = keys[kind].to(pattern.device)
            visible = seen[q.to(k.device), k]
            score = pattern[:, :, q, k][:, :, visible].float().mean(2)
            made.append(torch.cat([score, even[q, k][visible].mean().expand(len(score), 1)], 1))
        return torch.stack(made)

    def drawn(pattern: Tensor) -> Tensor:
        """[draw, head]: attention on one random visible key a query."""
        seen = _seen(pattern)[q.to(pattern.device)]
        order = seen.long().sort(dim=1, descending=True, stable=True).indices  # the keys in sight first
        place = (where.to(seen.device) * seen.sum(1)).long()
        k = order.gather(1, place.T.clamp(max=seen.shape[1] - 1)).T
        return pattern.float().mean(0)[:, q.to(k.device), k].mean(-1).T

    read = {name: (name, picked) for name in names}
    read |= {f"{name} elsewhere": (name, drawn) for name in names} if draws else {}
    try:
        trace = run(model, _inputs(model, ids), read=read)
    except (AttributeError, TypeError, ValueError) as error:
        if isinstance(error, InscapeError):
            raise
        raise ModelError(f"{type(model.module).__name__} does not run on tokens alone: {error}") from error
    heads = max(trace[name].shape[-1] for name in names) - 1
    scores = {kind: torch.full((len(ids), len(names), heads), torch.nan) for kind in KINDS}
    chance = {kind: torch.full((len(names),), torch.nan) for kind in KINDS}
    elsewhere = torch.full((draws, len(names), heads), torch.nan) if draws else None
    for layer, name in enumerate(names):
        for i, kind in enumerate(KINDS):
            value = trace[name][i].cpu()
            scores[kind][:, layer, : value.shape[1] - 1] = value[:, :-1]
            chance[kind][layer] = value[0, -1]
        if elsewhere is not None:
            value = trace[f"{name} elsewhere"].cpu()
            elsewhere[:, layer, : value.shape[1]] = value
    return Looks(scores, chance, elsewhere)


def _seen(pattern: Tensor) -> Tensor:
    return (pattern > 0).flatten(0, 1).any(0)


def _inputs(model: Model, ids: Tensor) -> Any:
    if getattr(model.config, "is_encoder_decoder", False):
        return {"input_ids": ids, "decoder_input_ids": ids}
    return ids


def _room(model: Model) -> int:
    text = getattr(model.config, "get_text_config", lambda: model.config)()
    limits = [getattr(text, n, None) for n in ("max_position_embeddings", "n_positions", "max_seq_len")]
    known = [n for n in limits if isinstance(n, int) and n > 0]
    return (min(known) - 4) // 2 if known else 1 << 20  # some families count positions from the padding id on
