"""Tune some layers of a model and nothing else, beside the same tuning of other layers, and undo it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatch
from itertools import combinations
from math import comb
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from inscape.core.errors import InputError, ModelError, SiteError
from inscape.core.progress import Progress, tell
from inscape.models.model import Model
from inscape.models.points import Block
from inscape.train import fit, next_token
from inscape.train.data import Batches
from inscape.train.loop import Loss
from inscape.tune.handle import Control, Tuned
from inscape.tune.parameters import Difference, LowRank, Weight, written_as

Score = Callable[[Model], float | Mapping[str, float]]
METHODS = ("full", "lora")


def tune_layers(
    model: Model,
    layers: str | int | Sequence[str | int],
    data: Batches | Any,
    *,
    method: str = "full",
    loss: Loss = next_token,
    steps: int = 100,
    lr: float | None = None,
    rank: int = 8,
    alpha: float = 16.0,
    parts: str | Sequence[str] = "*",
    score: Score | None = None,
    control: str | None = None,
    n_controls: int = 3,
    seed: int = 0,
    progress: Progress = None,
    **fitting: Any,
) -> Tuned:
    """Train only the named layers, in place; everything else stays bit-equal, and the result can be undone bit-equal.

    Choose "full" where data is plenty for the layers' weights or a layer must change a lot; "lora" adds a product of
    rank `rank` to each matrix and is harder to overfit. Either way the trained sum is written into the plain weights at
    the end: nothing stays in the model's way, and what runs is exactly what was trained.

    layers: block names, patterns ("layers.5", "encoder.layers.*") or numbers of the main stack (-1 is the last).
    data, loss: as `train.fit` takes them; `train.answer_batches` makes data of prompts and answers.
    lr: 1e-4 for "full" and 1e-3 for "lora" when not given. rank, alpha: of the product, `alpha / rank * B A`.
    parts: patterns of the names inside a layer ("*q_proj*", "mlp.*") when only some of its weights are meant.
    score: what the tuning is for, a number (or several by name) of the model; taken before, after and on controls.
    control: "random" tunes `n_controls` other sets of as many layers the same way (on the same batches, unless the
        data remembers where it stands), scores them and undoes them: a gain that they reach too is no reason to have
        chosen these layers. Needs `score`.
    fitting: further settings of `train.fit` (schedule, warmup, clip, accumulate, stop, checkpoint, ...).
    Cost: steps forward and backward passes down to the lowest layer, times 1 + n_controls; a copy of the layers.
    Raises: SiteError for a layer that is not there, ModelError where nothing in it can be trained, InputError.
    """
    if method not in METHODS:
        raise InputError(f"method={method!r}: layers are tuned by {' or '.join(map(repr, METHODS))}.")
    if control not in (None, "random"):
        raise InputError(f"control={control!r} is none of tune_layers; it can be 'random' or None.")
    if control is not None and score is None:
        raise InputError("a control needs score=: a function of the model that says what the tuning is for.")
    blocks = blocks_named(model, layers)
    others = other_sets(model, blocks, n_controls, seed) if control else []
    settings = {"steps": steps, "lr": lr if lr is not None else {"full": 1e-4, "lora": 1e-3}[method], "seed": seed}
    settings |= fitting

    def tuned(chosen: Sequence[Block], **more: Any) -> Tuned:
        weights = weights_of(model, chosen, method, parts)
        return _tuned(model, chosen, weights, data, loss, method, rank, alpha, seed, {**settings, **more})

    before = _scored(score, model)
    controls = []
    for i, chosen in enumerate(others):
        names = ", ".join(block.name for block in chosen)
        tell(progress, f"tuning {names}, control {i + 1} of {len(others)}", i / (len(others) + 1))
        with tuned(chosen, checkpoint=None) as run:
            controls.append(Control(run.layers, _scored(score, model), run.history))
    result = tuned(blocks, progress=progress)
    try:
        result.before, result.after, result.controls = before, _scored(score, model), tuple(controls)
    except BaseException:
        result.undo()
        raise
    return result


def blocks_named(model: Model, layers: str | int | Sequence[str | int]) -> list[Block]:
    """The blocks that names, patterns or numbers mean, in the model's order. Raises: SiteError with what is there."""
    every = [block for _, blocks in model.resolved.stacks for block in blocks]
    asked = [layers] if isinstance(layers, (str, int)) else list(layers)
    chosen: set[str] = set()
    for one in asked:
        if isinstance(one, int):
            main = model.blocks
            hits = [main[one].name] if -len(main) <= one < len(main) else []
        else:
            hits = [block.name for block in every if fnmatch(block.name, one)]
        if not hits:
            names = [block.name for block in every]
            shown = ", ".join(names if len(names) <= 6 else [*names[:3], "...", names[-1]]) or "none"
            raise SiteError(f"no layer is called {one!r}.\n  the layers of this model are {shown}.")
        chosen.update(hits)
    if not chosen:
        raise InputError("no layers were named, so nothing would be tuned.")
    return [block for block in every if block.name in chosen]


def other_sets(model: Model, blocks: Sequence[Block], n: int, seed: int) -> list[list[Block]]:
    """At most n other sets of as many blocks of the same stacks, different from one another."""
    used = [
        stack for _, stack in model.resolved.stacks if any(block.name == own.name for block in blocks for own in stack)
    ]
    pool = [block for stack in used for block in stack]
    own = {block.name for block in blocks}
    possible = comb(len(pool), len(blocks)) - 1
    if possible < 1:
        raise InputError(
            f"there are no other {len(blocks)} layers to compare with: the model has {len(pool)} of them.\n"
            "  leave control= out, or tune fewer layers."
        )
    if possible <= max(n, 64):
        every = [list(chosen) for chosen in combinations(pool, len(blocks)) if {b.name for b in chosen} != own]
        order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed)).tolist()
        return [every[i] for i in order[:n]]
    generator = torch.Generator().manual_seed(seed)
    found: dict[frozenset[str], list[Block]] = {}
    while len(found) < n:
        picked = sorted(torch.randperm(len(pool), generator=generator)[: len(blocks)].tolist())
        chosen = [pool[i] for i in picked]
        if (key := frozenset(block.name for block in chosen)) != own:
            found[key] = chosen
    return list(found.values())


def weights_of(model: Model, blocks: Iterable[Block], method: str, parts: str | Sequence[str]) -> list[Weight]:
    """The parameters of these blocks that a method trains. Raises: ModelError when there are none it can train."""
    patterns = [parts] if isinstance(parts, str) else list(parts)
    shared = _shared(model)
    found, seen, refused = [], set(), ""
    for block in blocks:
        for path, module in block.module.named_modules():
            for key, parameter in module.named_parameters(recurse=False):
                inner = f"{path}.{key}" if path else key
                if not any(fnmatch(inner, pattern) for pattern in patterns) or id(parameter) in seen:
                    continue
                if id(parameter) in shared:
                    refused = f"{block.name}.{inner} is shared with another part of the model"
                elif not parameter.is_floating_point() or parameter.element_size() < 2:
                    refused = f"{block.name}.{inner} is {parameter.dtype}, which has no gradients"
                elif method == "full" or parameter.dim() >= 2:
                    seen.add(id(parameter))
                    found.append(Weight(f"{block.name}.{inner}", module, key))
    if not found:
        first = next(iter(blocks))
        inside = ", ".join(name for name, _ in list(first.module.named_parameters())[:6])
        raise ModelError(
            f"{first.name} has no weight that {method!r} can train with parts={parts!r}"
            f"{': ' + refused if refused else ''}.\n  inside are {inside or 'no parameters'}."
        )
    return found


def _shared(model: Model) -> set[int]:
    """Parameters that stand in more than one place."""
    places: dict[int, int] = {}
    for module in model.module.modules():
        for parameter in module.parameters(recurse=False):
            places[id(parameter)] = places.get(id(parameter), 0) + 1
    return {key for key, count in places.items() if count > 1}


def _tuned(
    model: Model,
    blocks: Sequence[Block],
    weights: Sequence[Weight],
    data: Any,
    loss: Loss,
    method: str,
    rank: int,
    alpha: float,
    seed: int,
    settings: dict[str, Any],
) -> Tuned:
    root = model.module
    flags = {parameter: parameter.requires_grad for parameter in root.parameters()}
    state = {w.name: w.parameter for w in weights} | {
        f"{block.name}.{name}": buffer for block in blocks for name, buffer in block.module.named_buffers()
    }
    original = {name: tensor.detach().clone() for name, tensor in state.items()}
    added = _added(weights, method, rank, alpha, seed)
    try:
        root.requires_grad_(False)
        with written_as(weights, added):
            for weight in weights:
                if weight.name not in added:
                    weight.parameter.requires_grad_(True)
            for part in added.values():
                part.requires_grad_(True)
            history = fit(root, data, loss, **settings)
            with torch.no_grad():
                trained = {w.name: getattr(w.module, w.key).detach().clone() for w in weights}
        with torch.no_grad():
            for weight in weights:
                weight.parameter.copy_(trained[weight.name])
    except BaseException:
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(original[name])
        raise
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
    final = {name: tensor.detach().clone() for name, tensor in state.items()}
    factors = {
        name: (part.b.detach() * part.scale, part.a.detach())
        for name, part in added.items()
        if isinstance(part, LowRank)
    }
    return Tuned(model, tuple(block.name for block in blocks), method, history, state, original, final, factors)


def _added(weights: Sequence[Weight], method: str, rank: int, alpha: float, seed: int) -> dict[str, nn.Module]:
    """What is trained in place of weights: products for "lora", differences for weights too coarse to be trained."""
    if method == "lora":
        if rank < 1:
            raise InputError(f"rank={rank}: a product has at least rank 1.")
        generator = torch.Generator().manual_seed(seed)
        return {w.name: LowRank(w.parameter, rank, alpha, isinstance(w.module, _ConvNd), generator) for w in weights}
    return {w.name: Difference(w.parameter) for w in weights if w.parameter.dtype in (torch.bfloat16, torch.float16)}


def _scored(score: Score | None, model: Model) -> dict[str, float]:
    if score is None:
        return {}
    with torch.no_grad():
        found = score(model)
    return {k: float(v) for k, v in found.items()} if isinstance(found, Mapping) else {"score": float(found)}
