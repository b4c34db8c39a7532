"""Attributions of the inputs by the methods of Captum, on any opened model: images by pixel, text by embedding.

Captum brings some twenty methods; this makes a model and a metric into the function that they ask for, and gives the
result in the axes of this package. Repeated rows (steps, samples, perturbations) run as rows of one batch.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace as with_changes
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.circuits.attribution.first_order import Attribution, real_only
from inscape.circuits.attribution.objective import Objective
from inscape.core.edits.values import replace
from inscape.core.errors import InputError, ModelError
from inscape.core.extra import package
from inscape.engine.forward import run
from inscape.engine.inputs import Inputs, prepare
from inscape.engine.planning import names_of, point_of
from inscape.engine.whole import rows_of
from inscape.models.model import Model


def input_attribution(
    model: Model,
    inputs: Any,
    metric: Any,
    method: str = "IntegratedGradients",
    *,
    site: str | None = None,
    baselines: Any = None,
    init: dict[str, Any] | None = None,
    **options: Any,
) -> Attribution:
    """How much each input entry adds to a metric, by any of Captum's methods that ask for a function.

    site: where the inputs are varied: the module's own floating-point input (pixels, sound) when it has one, else the
        embeddings ("embed"); any named site will do. method: a class of `captum.attr`: "Saliency", "InputXGradient",
        "IntegratedGradients", "GradientShap", "Occlusion", "FeatureAblation", "ShapleyValueSampling", "KernelShap" ...
    baselines: a tensor in the shape of what is varied, or a number; 0 when left out, as in Captum. init: arguments of
        the class; options: of its `attribute`. For text, options that count entries count embedding coordinates: give
        `feature_mask=` to treat a token as one.
    Choose `integrated_gradients` for the inside of a model (neurons, heads, several layers at once); this for inputs.
    Cost: the method's; each evaluation is one forward of the rows.
    Raises: MissingExtraError without `inscape[attribution]`; InputError for a method that takes a module apart.
    Source: Kokhlikyan et al. 2020, Captum, arXiv:2009.07896.
    """
    made = _method(method)
    prepared = prepare(model, inputs)
    objective = Objective.of(model, prepared, metric)
    name, key = _varied(model, prepared, site)
    if key is None:
        point = point_of(model, name)
        trace = run(model, prepared, read=name, output=False)
        start, axes, mask = trace[name], point.axes, prepared.mask
    else:
        start = prepared.args[key] if isinstance(key, int) else prepared.kwargs[key]
        axes = ("batch", *(("channel", "height", "width") if start.ndim == 4 else ("d",) * (start.ndim - 1)))
        mask = None
    function = _function(objective, name, key)
    extra = {} if baselines is None else {"baselines": baselines}
    if baselines is not None and "baselines" not in inspect.signature(made.attribute).parameters:
        raise InputError(f"{method} has no baseline; leave baselines= out.")
    start = start.detach().clone().requires_grad_()
    found = made(function, **(init or {})).attribute(
        start, additional_forward_args=torch.arange(objective.n_rows, device=start.device), **extra, **options
    )
    found = found[0] if isinstance(found, tuple) else found
    entries = real_only(found.detach().float().expand_as(start), mask, axes)
    with torch.no_grad():
        value = function(start.detach(), torch.arange(objective.n_rows))
    return Attribution({name: entries}, {name: start.detach().float()}, {}, value, {name: axes}, mask)


def _method(name: str) -> Any:
    package("captum", "attribution", "input attributions")
    from captum import attr

    made = getattr(attr, name, None)
    known = sorted(n for n in getattr(attr, "__all__", ()) if _takes_a_function(getattr(attr, n)))
    if made is None or not _takes_a_function(made):
        what = "is no method of Captum" if made is None else "takes a module apart, not a function"
        raise InputError(f"method={name!r} {what}.\n  these take a function: {', '.join(known)}.")
    return made


def _takes_a_function(made: Any) -> bool:
    if not inspect.isclass(made) or not hasattr(made, "attribute"):
        return False
    first = [p for p in inspect.signature(made.__init__).parameters if p != "self"][:1]
    return first == ["forward_func"]


def _varied(model: Model, prepared: Inputs, site: str | None) -> tuple[str, str | int | None]:
    """(name, where the module's own arguments hold it: a keyword or a place; None for a site)."""
    if site is not None:
        (name,) = names_of(model, site)
        return name, None
    for i, value in enumerate(prepared.args):
        if isinstance(value, Tensor) and value.is_floating_point():
            return f"argument {i}", i
    for key, value in prepared.kwargs.items():
        if isinstance(value, Tensor) and value.is_floating_point() and "mask" not in key:
            return key, key
    name = next((n for n in model.points if n == "embed" or n.endswith(".embed")), None)
    if name is None:
        raise ModelError(f"{type(model.module).__name__} shows no embeddings; say where with site=.")
    return name, None


def _function(
    objective: Objective, name: str, key: str | int | None
) -> Callable[[Tensor, Int[Tensor, " n"]], Float[Tensor, " n"]]:
    """The metric as a function of what is varied and of which rows it belongs to."""

    def of(x: Tensor, rows: Tensor) -> Tensor:
        which = rows.tolist()
        if key is None:
            return objective.forward((), which, [replace(name, x)], grad=torch.is_grad_enabled()).metric
        inputs = rows_of(objective.inputs, which, objective.n_rows)
        if isinstance(key, int):
            inputs = with_changes(inputs, args=(*inputs.args[:key], x, *inputs.args[key + 1 :]))
        else:
            inputs = with_changes(inputs, kwargs={**inputs.kwargs, key: x})
        return objective.on(inputs, which, grad=torch.is_grad_enabled()).metric

    return of
