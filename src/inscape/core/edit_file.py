"""Edits as a file: one safetensors file, tensors as they are, the rest as versioned JSON in its header.

Only named edits can be written: code is never stored, so a file from elsewhere can do nothing but edit activations.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.edit import Edit, Edits, listed, meant_for
from inscape.core.edits.add import add
from inscape.core.edits.affine import affine
from inscape.core.edits.attend import attend
from inscape.core.edits.control import Controller, controlled_add, decide
from inscape.core.edits.directions import clamp, project_out
from inscape.core.edits.erase import erase
from inscape.core.edits.experts import boost_experts, force_experts, mask_experts, scale_experts
from inscape.core.edits.learned import gated_add, low_rank_add
from inscape.core.edits.norm_preserving import norm_preserving_add
from inscape.core.edits.relate import relate
from inscape.core.edits.skip import skip
from inscape.core.edits.sources import ablate, patch
from inscape.core.edits.sparsify import random_k, threshold_activation, topk_activation
from inscape.core.edits.strength import Schedule
from inscape.core.edits.values import replace, scale
from inscape.core.edits.voids import skip_voids
from inscape.core.edits.when import Condition, when
from inscape.core.errors import EditError, FileError
from inscape.core.positions import At, Newest, Span, Tokens
from inscape.core.tensor_file import read_tensors, write_tensors

VERSION = 1
OF_DIRECTIONS = ("add", "project_out", "clamp", "norm_preserving_add", "controlled_add")  # whose makers know the model


def save_edits(path: str | Path, edits: Edits, *, model: str = "") -> None:
    """Write edits to one safetensors file; a bare function (`ins.edit`) is refused. `model`: a model's fingerprint."""
    edits = listed(edits)
    about, tensors = _out(edits, "can be written to a file")
    text = json.dumps({"kind": "edits", "version": VERSION, "model": model, "edits": about})
    write_tensors(path, tensors, {"inscape": text})


def edits_fingerprint(edits: Sequence[Edit]) -> str:
    """A short name for exactly these edits, in this order: 16 hex digits. A bare function has none: EditError."""
    about, tensors = _out(edits, "has a name that another process would know it by")
    digest = hashlib.sha256(json.dumps(about).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _out(edits: Sequence[Edit], what: str) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Everything edits are, but their code. what: why that is asked, for the error about one that is code alone."""
    about, tensors = [], {}
    for i, edit in enumerate(edits):
        if edit.spec is None:
            raise EditError(
                f"{edit!r} holds a Python function or another run's whole trace; neither {what}.\n"
                "  use the named edits (add, norm_preserving_add, affine, when, scale, replace, patch from one site, "
                "ablate, project_out, clamp, skip, attend, topk_activation, random_k, threshold_activation, "
                "mask_experts, force_experts, boost_experts, scale_experts)."
            )
        at, at_tensor = _at_out(edit.at)
        if at_tensor is not None:
            tensors[f"{i}.at"] = at_tensor
        tables = {k: v for k in ("heads", "units") if isinstance(v := getattr(edit, k), Tensor)}
        for name, value in {**edit.tensors, **tables}.items():
            tensors[f"{i}.{name}"] = value
        spec = _spec_out(edit.spec)
        about.append(
            {
                "site": edit.site,
                "label": edit.label,
                "at": at,
                "heads": "tensor" if "heads" in tables else edit.heads,
                "units": "tensor" if "units" in tables else edit.units,
                "rows": edit.rows,
                "spec": spec,
            }
        )
    return about, tensors


def _spec_out(spec: Mapping[str, Any]) -> dict[str, Any]:
    out = {k: _at_out(v)[0] if k in ("keys", "to") else v for k, v in spec.items()}
    return out | {"edit": _spec_out(spec["edit"])} if "edit" in spec else out


def load_edits(path: str | Path) -> list[Edit]:
    """Read what `save_edits` wrote."""
    tensors, about = read_tensors(path, "edits", VERSION)
    try:
        return [_rebuilt(entry, i, tensors) for i, entry in enumerate(about["edits"])]
    except (KeyError, TypeError, AttributeError) as error:
        raise FileError(f"{str(path)!r} is not a complete edit file: {type(error).__name__} {error}.") from error


def _rebuilt(entry: dict[str, Any], i: int, tensors: dict[str, Tensor]) -> Edit:
    """The edit of an entry, for the model that its directions were for."""
    spec = dict(entry["spec"])
    model = spec.get("model", "")
    if spec["kind"] not in OF_DIRECTIONS:
        spec.pop("model", None)
    made = _made(entry, spec, i, tensors)
    return made if (made.spec or {}).get("model", "") == model else meant_for(made, model)


def _made(entry: dict[str, Any], spec: dict[str, Any], i: int, tensors: dict[str, Tensor]) -> Edit:
    site, kind = entry["site"], spec.pop("kind")
    mine = {name.split(".", 1)[1]: value for name, value in tensors.items() if name.split(".", 1)[0] == str(i)}
    places = {k: entry[k] for k in ("heads", "units", "rows") if entry[k] is not None}
    places |= {k: mine.pop(k) for k in ("heads", "units") if entry[k] == "tensor"}
    at = mine.pop("at", None) if entry["at"] == "tensor" else _at_in(entry["at"])
    if at is not None:
        places["at"] = at
    if kind in ("add", "project_out") or (kind == "clamp" and "vector" in mine):
        direction = Direction(site, mine["vector"], spec.get("source", ""), spec.get("model", ""))
        if kind == "add":
            how = {k: spec[k] for k in ("unit", "keep_norm") if k in spec}
            return add(direction, _strength(mine["scale"], spec), **how, **places)
        if kind == "clamp":
            return clamp(direction, spec["low"], spec["high"], **places)
        names = [f"vector{i}" for i in range(1, len(mine))]
        more = [Direction(site, mine[name], direction.source, direction.model) for name in names]
        return project_out([direction, *more] if more else direction, **places)
    if kind == "norm_preserving_add":
        source, of = spec["source"], spec["model"]
        names = sorted((n for n in mine if n.startswith("vector")), key=lambda n: int(n.removeprefix("vector") or 0))
        several = [Direction(site, mine[n], source, of) for n in names]
        strength = _strength(mine["scale"], spec)
        return norm_preserving_add(several, strength, adaptive=spec["adaptive"], **places)
    if kind == "affine":
        w, b = (v if v.ndim else float(v) for v in (mine["weight"], mine["bias"]))
        return affine(site, w, b, _strength(mine["scale"], spec), **places)
    if kind == "when":
        about = dict(spec["condition"])
        name = f"{i}.{about.pop('vector')}"
        direction = Direction(about.pop("site"), tensors[name], about.pop("source"), about.pop("model"))
        inner = {k: v for k, v in tensors.items() if k != name}
        return when(Condition(direction, **about), _rebuilt(entry | {"spec": spec["edit"]}, i, inner))
    if kind == "clamp":
        return clamp(site, spec["low"], spec["high"], **places)
    if kind == "scale":
        return scale(site, mine["factor"] if mine["factor"].numel() > 1 else float(mine["factor"]), **places)
    if kind == "replace":
        value = mine["value"]
        return replace(site, value if value.ndim else float(value), **places)
    if kind == "patch":
        along: Any = mine.get("along")
        if along is not None and spec.get("along"):
            along = Direction(site, along[:, 0], spec["along"])
        return patch(site, mine["source"], mask=mine.get("mask"), along=along, **places)
    if kind == "ablate":
        return ablate(site, spec["how"], mine.get("source"), seed=spec["seed"], **places)
    if kind == "skip":
        return skip(spec["layer"], **places)
    if kind in ("topk_activation", "random_k"):
        return {"topk_activation": topk_activation, "random_k": random_k}[kind](site, **spec, **places)
    if kind == "threshold_activation":
        return threshold_activation(site, mine["below"] if mine["below"].ndim else float(mine["below"]), **places)
    if kind == "skip_voids":  # where it acts follows from its phases
        return skip_voids(**spec, rows=places.get("rows"))
    if kind == "decide":
        return decide(Controller(**{**spec, **mine, "observe": tuple(spec["observe"])}), **places)
    if kind == "controlled_add":
        direction = Direction(site, mine["vector"], spec.pop("source"), spec.pop("model"))
        return controlled_add(direction, **spec, **places)
    if kind == "erase":
        return erase(site, mine["reads"], mine["writes"], mine["centre"], **spec, **places)
    if kind in ("low_rank_add", "gated_add"):
        return {"low_rank_add": low_rank_add, "gated_add": gated_add}[kind](site, **mine, **spec, **places)
    if kind in ("mask_experts", "force_experts"):
        return {"mask_experts": mask_experts, "force_experts": force_experts}[kind](**spec, **places)
    if kind == "boost_experts":
        return boost_experts(spec["layer"], spec["experts"], _strength(mine["amount"], spec), **places)
    if kind == "scale_experts":
        how = {"renormalise": spec["renormalise"]}
        return scale_experts(spec["layer"], spec["experts"], _strength(mine["factor"], spec), **how, **places)
    if kind == "relate":
        return relate(spec["layer"], mine["groups"], mine["allowed"], **places)
    if kind == "attend":
        spec |= {k: _at_in(spec[k]) for k in ("keys", "to")}
        return attend(**spec, **places)
    raise FileError(f"the file has an edit of kind {kind!r}, which this version does not know.")


def _strength(values: Tensor, spec: dict[str, Any]) -> float | Tensor | Schedule:
    course = spec.get("schedule")
    if course is not None:
        return Schedule(values, course["then"], course["prompt"])
    return values if values.numel() > 1 else float(values)


def _at_out(at: At) -> tuple[Any, Tensor | None]:
    if isinstance(at, Tensor):
        return "tensor", at
    if isinstance(at, slice):
        return {"slice": [at.start, at.stop, at.step]}, None
    if isinstance(at, Span):
        return {"span": [at.text, at.nth, *([True] if at.behind else [])]}, None
    if isinstance(at, Tokens):
        return {"tokens": list(at.ids)}, None
    if isinstance(at, Newest):
        return {"newest": at.n}, None
    return (list(at), None) if isinstance(at, tuple) else (at, None)


def _at_in(at: Any) -> At:
    if isinstance(at, dict):
        if "slice" in at:
            return slice(*at["slice"])
        if "newest" in at:
            return Newest(at["newest"])
        return Span(*at["span"]) if "span" in at else Tokens(tuple(at["tokens"]))
    return tuple(at) if isinstance(at, list) else at
