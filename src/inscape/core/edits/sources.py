"""Edits that bring values from another run: patching, and the three ablations."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.edit import Edit, make_edit
from inscape.core.errors import EditError, ShapeError, TokenError
from inscape.core.step import Step

KINDS = ("zero", "mean", "resample")
MAPS = (".scores", ".pattern")


def patch(
    site: str,
    source: Mapping[str, Tensor] | Tensor,
    *,
    mask: Tensor | None = None,
    along: Direction | Tensor | None = None,
    **places: Any,
) -> Edit:
    """Put another run's activation in place of this one's, real position by real position.

    source: a trace that recorded `site`, or a tensor [batch, pos, ...] (one row serves every row). Positions are
    matched among real tokens, so a padded run can be patched from an unpadded one. Without at= both runs must have
    as many real tokens; with at= only those positions need to exist in the source.
    mask: real tokens of a source given as a tensor; all of them, when left out.
    along: only what lies in a subspace is exchanged, x + V (V'V)^-1 V' (source - x): a direction, or the columns of
        V [d, k], which need not be orthonormal and may be learned. At a per-head site d is that of one head, or of all.
    """
    subspace = None if along is None else _columns(along)
    recorded = source if isinstance(source, Tensor) else None
    names: Any = None if recorded is not None else source
    mask = mask if mask is not None else getattr(source, "mask", None)
    at_given = places.get("at") is not None

    def fn(x: Tensor, step: Step) -> Tensor:
        value = recorded if recorded is not None else names[step.site]
        brought = _aligned(value, mask, x, step, at_given)
        if subspace is not None:
            return exchanged(x, brought, subspace)
        return brought.clone()  # some models go on writing into what they get

    spec = {"kind": "patch"} if recorded is not None else None
    tensors = {"source": recorded} if recorded is not None else {}
    if recorded is not None and mask is not None:
        tensors["mask"] = mask
    if names is not None and "*" not in str(site) and site in names:
        spec, tensors = {"kind": "patch"}, {"source": names[site]} | ({"mask": mask} if mask is not None else {})
    label = f"{site} patched"
    if subspace is not None:
        source_of = along.source if isinstance(along, Direction) else ""
        label += f" along {source_of or 'a subspace'}"
        if spec is not None:
            spec, tensors = spec | {"along": source_of}, tensors | {"along": subspace}
    return make_edit(site, fn, label, contextual=True, spec=spec, tensors=tensors, **places)


def exchanged(x: Tensor, source: Tensor, subspace: Float[Tensor, "d k"]) -> Tensor:
    """x with what lies in the span of the columns of `subspace` taken from `source`: x + V (V'V)^-1 V' (source - x)."""
    d, wide = subspace.shape[0], torch.promote_types(x.dtype, torch.float32)
    flat = x.ndim > 2 and d != x.shape[-1] and d == x.shape[-1] * x.shape[-2]
    if d != x.shape[-1] and not flat:
        raise ShapeError(f"patch along {d} units: the activation has {x.shape[-1]} on its last axis.")
    v = subspace.to(x.device, wide)
    moved = (source - x).to(wide)
    moved = moved.flatten(-2) if flat else moved
    gram = v.T @ v
    if v.shape[1] == 1:
        moved = (moved @ v) / gram @ v.T
    else:
        moved = torch.linalg.solve(gram, (moved @ v).unsqueeze(-1)).squeeze(-1) @ v.T
    return x + moved.reshape(x.shape).to(x.dtype)


def _columns(along: Direction | Tensor) -> Float[Tensor, "d k"]:
    """A direction or a basis as the columns of a matrix of full rank."""
    v = along.vector.reshape(-1, 1) if isinstance(along, Direction) else along
    v = v[:, None] if v.ndim == 1 else v
    if v.ndim != 2 or not v.is_floating_point() or v.shape[1] > v.shape[0]:
        raise ShapeError(f"patch: along= is a direction or a matrix [d, k] with k <= d; got {tuple(v.shape)}.")
    rank = int(torch.linalg.matrix_rank(v.detach().double()))
    if rank < v.shape[1]:
        raise EditError(
            f"patch: along= has {v.shape[1]} columns and rank {rank}: some add nothing, or there is no direction in it."
            "\n  give independent columns, for instance torch.linalg.qr(V).Q of those that matter."
        )
    return v


def _aligned(value: Tensor, mask: Tensor | None, x: Tensor, step: Step, at_given: bool) -> Tensor:
    """`value` brought to the columns of `x` by real position; where the source has none, x itself."""
    value = value.to(x)
    if value.ndim != x.ndim:
        raise ShapeError(f"patch at {step.site}: the source has {value.ndim} axes, the activation {x.ndim}.")
    if value.shape[2:] != x.shape[2:] and x.ndim != 4:
        raise ShapeError(
            f"patch at {step.site}: the source has shape {tuple(value.shape)}, the activation {tuple(x.shape)}."
        )
    if value.shape[0] not in (1, x.shape[0], x.shape[0] // step.n_repeats):
        raise ShapeError(
            f"patch at {step.site}: the source has {value.shape[0]} rows, the run {x.shape[0]}; give 1 or as many."
        )
    if value.shape[0] not in (1, x.shape[0]):
        value = value.repeat_interleave(step.n_repeats, 0)
    if step.site.endswith(MAPS):
        return _same_map(value, mask, x, step)
    if value.shape[1:] == x.shape[1:] and mask is None and step.start == 0:
        return value.expand_as(x)
    if value.ndim > 2 and value.shape[1] == step.real.shape[1] and step.start == 0 and mask is not None:
        same = Step.of_mask(mask).real
        if torch.equal(same.expand_as(step.real) if same.shape[0] == 1 else same, step.real):
            return value.expand_as(x)
    source_real = (Step.of_mask(mask) if mask is not None else Step.plain(value.shape[0], value.shape[1])).real
    if source_real.shape[0] not in (1, x.shape[0]):
        source_real = source_real.repeat_interleave(x.shape[0] // source_real.shape[0], 0)
    lengths = source_real.amax(1) + 1
    if not at_given and step.start == 0 and not torch.equal(lengths.expand(x.shape[0]), step.lengths):
        raise TokenError(
            f"patch at {step.site}: the source has {lengths.tolist()} real tokens a row, "
            f"the run {step.lengths.tolist()}.\n"
            "  give at= to say which positions to patch."
        )
    wanted = step.real[:, step.start :]
    found = source_real[:, None, :].expand(x.shape[0], -1, -1) == wanted[:, :, None]
    exists = (found.any(-1) & (wanted >= 0)).to(x.device)
    column = found.to(torch.uint8).argmax(-1).to(x.device)
    rows = torch.arange(x.shape[0], device=x.device)[:, None]
    brought = value.expand(x.shape[0], *value.shape[1:])[rows, column]
    return torch.where(exists.reshape(*exists.shape, *[1] * (x.ndim - 2)), brought, x)


def _same_map(value: Tensor, mask: Tensor | None, x: Tensor, step: Step) -> Tensor:
    """Attention maps have two axes of positions, so they are patched between runs with the same columns only."""
    real = Step.of_mask(mask).real if mask is not None else step.real
    if value.shape[1:] != x.shape[1:] or not torch.equal(real.expand_as(step.real), step.real):
        raise TokenError(
            f"patch at {step.site}: a map of shape {tuple(value.shape)} for one of {tuple(x.shape)}, or with padding "
            "in other places.\n  attention maps can be patched between prompts of the same length and padding."
        )
    return value.expand_as(x)


def ablate(
    site: str, how: str = "zero", source: Mapping[str, Tensor] | Tensor | None = None, *, seed: int = 0, **places: Any
) -> Edit:
    """Take away what a site says: set it to zero, to its mean, or to its value on other inputs.

    how: "zero"; "mean", over the rows and real positions of `source`; "resample", every position gets the value of a
    random real position of `source` (drawn by `seed`). Mean and resample without a source use the batch itself, which
    is refused in cached decoding, where one step holds no such batch. Zero is the crudest: it leaves the site far from
    anything the model has met; prefer resample where there is data.
    """
    if how not in KINDS:
        raise EditError(f"ablate: {how!r} is no kind of ablation; the kinds are {', '.join(KINDS)}.")
    mask = getattr(source, "mask", None)
    spec: dict[str, Any] | None = {"kind": "ablate", "how": how, "seed": seed}
    tensors: dict[str, Tensor] = {}
    if isinstance(source, Tensor):
        tensors = {"source": source}
    elif source is not None:
        if "*" in str(site):
            spec = None
        else:
            tensors = {"source": _rows(source[site], mask)}

    def fn(x: Tensor, step: Step) -> Tensor:
        if how == "zero":
            return torch.zeros_like(x)
        pool = _pool(step)
        if pool is None:
            if step.start > 0:
                raise EditError(
                    f"ablate({step.site!r}, {how!r}) needs source= in cached decoding: "
                    "a single step has no batch to draw from."
                )
            pool = _rows(x, (step.real[:, step.start :] >= 0).to(x.device) if x.ndim == 3 else None)
        pool = pool.to(x)
        if pool.shape[-1] != x.shape[-1]:
            raise ShapeError(
                f"ablate at {step.site}: the source has {pool.shape[-1]} units, the activation {x.shape[-1]}."
            )
        if how == "mean":
            return pool.mean(0).expand_as(x).clone()
        drawn = _drawn(step, x, len(pool), seed)
        return pool[drawn.to(x.device)]

    def _pool(step: Step) -> Tensor | None:
        if tensors:
            return _rows(tensors["source"], None)
        return None if source is None or isinstance(source, Tensor) else _rows(source[step.site], mask)

    return make_edit(site, fn, f"{site} {how}-ablated", contextual=True, spec=spec, tensors=tensors, **places)


def _rows(value: Tensor, mask: Tensor | None) -> Tensor:
    """Every real position as one row, [n, ...]."""
    if value.ndim < 3:
        return value if value.ndim == 2 else value[None]
    return value[mask.to(value.device)] if mask is not None and mask.shape == value.shape[:2] else value.flatten(0, 1)


def _drawn(step: Step, x: Tensor, n: int, seed: int) -> Tensor:
    """Indices into a pool of n rows for every column of `x`."""
    return (draws(step, seed) * n).long()[: x.shape[0], : x.shape[1]]


def draws(step: Step, seed: int) -> Tensor:
    """A number in [0, 1) for every column of a call, the same for a real position in whichever way it is reached."""
    real, rows = step.real[:, step.start :], []
    for row in range(step.batch):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + row)
        numbers = torch.rand(max(step.stop, 4096), generator=generator, dtype=torch.float64)
        rows.append(numbers[real[row].clamp(min=0)])
    return torch.stack(rows)
