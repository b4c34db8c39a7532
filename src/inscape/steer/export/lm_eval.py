"""Edits as the `.pt` file of lm-evaluation-harness's model type `steered`, and back.

    lm_eval --model steered --model_args pretrained=NAME,steer_path=FILE.pt --tasks hellaswag

The file is a dict: by module path below the model's `base_model` (what the class with a head wraps: "layers.3", "h.3")

    steering_vector       tensor [features of the module's output]
    steering_coefficient  a number
    action                "add": acts + coefficient * vector, at every token
                          "clamp": acts - b, its projection on vector/|vector| set to the coefficient, + b
    bias                  b for "clamp", or None; "add" refuses one
    head_index            None, or the head where the module gives [batch, pos, head, features]

as `lm_eval/models/hf_steered.py` of 0.4.13 reads it. One entry a module; a module's first tensor is what is changed,
so a block's path is its `resid_post`. lm-eval opens such files with `weights_only=False`, which runs code that is in
them; they are read here with `weights_only=True`, which does not.

Edits that have no form there are evaluated without a file, by lm-eval in the same process. It pads on the right and
gives the model no mask, so that an edit or condition at "last" would be at padding; "all" and "each" are not.

    with ins.editing(model, edits):
        lm_eval.simple_evaluate(HFLM(pretrained=model.module, tokenizer=model.tokenizer), tasks=["hellaswag"])
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inscape.core.direction import Direction
from inscape.core.durable import disk_errors, written
from inscape.core.edit import Edit, at_site
from inscape.core.edits.add import add
from inscape.core.edits.directions import clamp
from inscape.core.errors import EditError, FileError, InputError, ModelError
from inscape.core.pt_file import read_pt
from inscape.engine.planning import names_of, point_of
from inscape.models.model import Model
from inscape.models.points import Point
from inscape.steer.affine_form import affine_form

SUFFIXES = (".pt", ".pth")
KEYS = ("steering_vector", "steering_coefficient", "action", "bias", "head_index")


def save_lm_eval(path: str | Path, model: Model, edits: Edit | Sequence[Edit]) -> None:
    """Write edits for `lm_eval --model steered`: vectors added, projections set or removed, at what a module gives.

    What can be said there: `ins.add` of one vector and strength for every token, `ins.clamp(d, value, value)`, and
    `ins.project_out(d)` (the projection set to 0); at `resid_post`, `resid_pre` from the second block on, `mlp_out`,
    `attn_out` and other sites whose value is a module's output as it leaves it, `@module.path` included. Several
    vectors added at one site become their sum.

    Raises: EditError for any other edit, at other sites, or two at one module that are not sums; FileError where it
    cannot be written; InputError for another suffix, by which lm-eval tells its two kinds of files apart.
    """
    if Path(path).suffix not in SUFFIXES:
        raise InputError(f"{str(path)!r}: lm-eval knows a file of vectors by its suffix, {' or '.join(SUFFIXES)}.")
    edits = (edits,) if isinstance(edits, Edit) else tuple(edits)
    if not edits:
        raise InputError("save_lm_eval takes edits; the list is empty.")
    entries: dict[str, dict[str, Any]] = {}
    for edit in edits:
        for site in names_of(model, edit.site):
            hook = _hookpoint(model, site, edit)
            entry = _entry(at_site(edit, site), point_of(model, site))
            before = entries.get(hook)
            if before is not None and (before["action"], entry["action"]) != ("add", "add"):
                raise EditError(
                    f"{edit!r}: {hook} has an edit already, and lm-eval does one a module; only sums go together."
                )
            if before is not None:
                entry["steering_vector"] = entry["steering_vector"] + before["steering_vector"]
            entries[hook] = entry
    with (
        disk_errors(str(path), lambda: "choose a folder that is there and has room."),
        written(Path(path), replace=True) as file,
    ):
        torch.save(entries, file)


def load_lm_eval(path: str | Path, model: Model) -> list[Edit]:
    """Edits of a file for `lm_eval --model steered`, in its order. No code in the file is run.

    Raises: FileError for what is damaged, holds more than tensors and numbers, or is no steering file; ModelError for
    module paths or widths that are another model's.
    """
    edits = []
    for hook, entry in _read(path).items():
        full = _full_path(model, hook)
        site = _site_of(model, full)
        where = f"{str(path)!r}: {hook}"
        if not isinstance(entry, Mapping) or not set(entry) <= set(KEYS) or "steering_vector" not in entry:
            raise FileError(f"{where} is no entry of a steering file; it has {', '.join(KEYS)}.")
        vector, bias = entry["steering_vector"], entry.get("bias")
        number, head = entry.get("steering_coefficient", 1.0), entry.get("head_index")
        if not _is_vector(vector) or not (bias is None or (_is_vector(bias) and bias.shape == vector.shape)):
            raise FileError(f"{where} holds no finite vector, or a bias of another width.")
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
            raise FileError(f"{where} has the coefficient {number!r}, which is no number.")
        width = _width(model.module.get_submodule(full), model, site)
        if width is not None and width != len(vector):
            raise ModelError(f"{where} has a vector of {len(vector)} entries; {site} has {width} here.")
        places: dict[str, Any] = {} if head is None else {"heads": _head(head, point_of(model, site), where)}
        d = Direction(site, vector.float(), f"{Path(path).name} {hook}")
        if entry.get("action") == "add":
            if bias is not None:
                raise FileError(f"{where} adds with a bias, which lm-eval refuses too.")
            edits.append(add(d, float(number), **places))
        elif entry.get("action") == "clamp":
            value = float(number) + (float(bias.double() @ d.unit.double()) if bias is not None else 0.0)
            edits.append(clamp(d, value, value, **places))
        else:
            raise FileError(f"{where} asks for {entry.get('action')!r}; lm-eval knows add and clamp.")
    return edits


def _entry(edit: Edit, point: Point) -> dict[str, Any]:
    """What lm-eval is told of an edit that is one map for every token."""
    tensors, kind = edit.tensors, (edit.spec or {}).get("kind")
    vector = tensors.get("vector")
    if edit.heads is not None or edit.units is not None:
        raise EditError(f"{edit!r} acts at some heads or units only; lm-eval changes all that a module gives.")
    if kind not in ("add", "clamp", "project_out") or vector is None or vector.ndim != 1 or "vector1" in tensors:
        raise EditError(f"{edit!r} has no form there; lm-eval adds a vector or sets the projection on one.")
    form = affine_form(edit, point, tuple(vector.shape))  # refuses places, schedules, conditions, bounds
    vector = vector.detach().float().cpu()
    if kind == "add":
        return _made(form.constant.float(), 1.0, "add")
    return _made(vector, float(form.constant @ (vector.double() / vector.double().norm())), "clamp")


def _made(vector: Tensor, number: float, action: str) -> dict[str, Any]:
    return dict(zip(KEYS, (vector.contiguous().clone(), number, action, None, None), strict=True))


def _base(model: Model) -> nn.Module:
    found = getattr(model.module, "base_model", None)
    return found if isinstance(found, nn.Module) else model.module


def _hookpoint(model: Model, site: str, edit: Edit) -> str:
    """Path below `base_model` of the module whose output a site is."""
    point = point_of(model, site)
    short = site.rpartition(".")[2]
    if short == "resid_pre" and (layer := model.layer_of(site)):
        return _hookpoint(model, f"{model.blocks[layer - 1].name}.resid_post", edit)
    changed = point.index or point.part or point.span or point.rules or point.scale not in (None, 1.0)
    if point.kind != "module" or point.side != "out" or changed:
        raise EditError(
            f"{edit!r}: lm-eval changes what a module gives; {site} is none as it leaves it.\n"
            "  sites that are: layers.*.resid_post, and mostly mlp_out and attn_out; see model.sites."
        )
    name = next((n for n, m in _base(model).named_modules() if m is point.module and n), None)
    if name is None:
        raise EditError(
            f"{edit!r}: {site} is given by {point.path}, which is outside the base model that lm-eval changes."
        )
    return name


def _full_path(model: Model, hook: Any) -> str:
    try:
        module = _base(model).get_submodule(hook) if isinstance(hook, str) and hook else None
    except AttributeError:
        module = None
    if module is None:
        raise ModelError(
            f"the file steers {hook!r}, and this model has no such module below {type(_base(model)).__name__}.\n"
            "  it is for another model; paths are those of model.module.base_model.named_modules()."
        )
    return next(name for name, m in model.module.named_modules() if m is module)


def _site_of(model: Model, full: str) -> str:
    module = model.module.get_submodule(full)
    for point in model.points.values():
        changed = point.index or point.part or point.span or point.rules or point.scale not in (None, 1.0)
        if point.module is module and point.kind == "module" and point.side == "out" and not changed:
            return point.name
    return f"@{full}"


def _width(module: nn.Module, model: Model, site: str) -> int | None:
    """Entries of the last axis of what the module gives, where it is known without running it."""
    if isinstance(module, nn.Linear):
        return module.out_features
    if site.rpartition(".")[2] in (
        "resid_pre",
        "resid_mid",
        "resid_post",
        "mlp_out",
        "attn_out",
        "embed",
        "final_norm",
    ):
        config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
        return getattr(config, "hidden_size", None)
    return None


def _head(head: Any, point: Point, where: str) -> list[int]:
    if isinstance(head, bool) or not isinstance(head, int) or head < 0:
        raise FileError(f"{where} has the head {head!r}, which is no number of one.")
    if not {"head", "kv_head"} & set(point.axes):
        raise ModelError(f"{where} is for head {head}; what this module gives has the axes {' '.join(point.axes)}.")
    return [head]


def _is_vector(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.ndim == 1
        and bool(len(value))
        and value.is_floating_point()
        and bool(torch.isfinite(value).all())
    )


def _read(path: str | Path) -> Mapping[Any, Any]:
    found = read_pt(path)
    if not isinstance(found, Mapping) or not found:
        raise FileError(f"{str(path)!r} is no steering file: it holds {type(found).__name__}, not entries by module.")
    return found
