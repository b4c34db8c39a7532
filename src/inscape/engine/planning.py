"""From names to tasks: which points a run visits, with which edits, in forward order."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.directions import Directions
from inscape.core.edit import ELSEWHERE, Edit, at_site, models_of, needed_site
from inscape.core.edits.contradictions import refuse_contradictions
from inscape.core.errors import EditError, ModelError, SiteError, TokenError
from inscape.core.positions import Span
from inscape.core.site import Site
from inscape.engine.inputs import Inputs
from inscape.engine.reducing import reducer
from inscape.engine.session import Task
from inscape.models.model import Model
from inscape.models.points import Point

Read = str | Site | Sequence[str | Site] | Mapping[str, Any] | None


def point_of(model: Model, name: str) -> Point:
    """The point of a site name, or of a module path written with a leading @."""
    if not name.startswith("@"):
        points = model.points
        if name not in points:
            if name in model.status:
                raise SiteError(f"{name} is withdrawn on this model: {model.status[name][1]}.")
            raise model.sites.unknown(name)
        return points[name]
    path, _, side = name[1:].partition(":")
    path = path.removeprefix("model.") if path.startswith("model.") and not _has(model, path) else path
    if side not in ("", "in", "out") or not _has(model, path):
        from difflib import get_close_matches

        near = get_close_matches(path, [n for n, _ in model.module.named_modules()], n=3)
        nearest = f"; the nearest are {', '.join('@' + n for n in near)}" if near else ""
        raise SiteError(
            f"no module {path!r} in this model{nearest}.\n"
            "  '@its.own.path' is a module's output, '@its.own.path:in' what it receives."
        )
    module = model.module.get_submodule(path)
    prefix = next((s.prefix for s, _ in model.resolved.stacks if s.prefix and path.startswith(s.blocks)), "")
    return Point(name, "module", module, path, ("batch", "pos", "d"), "a module by its own path", prefix, side or "out")


def _has(model: Model, path: str) -> bool:
    try:
        model.module.get_submodule(path)
    except AttributeError:
        return False
    return True


def names_of(model: Model, patterns: Any) -> list[str]:
    """Concrete site names for a pattern, a site or a list of them, in forward order."""
    if isinstance(patterns, (str, Site)):
        patterns = [patterns]
    patterns = [str(p) for p in patterns]
    paths = [p for p in patterns if p.startswith("@")]
    for path in paths:
        point_of(model, path)
    from inscape.models.names import canonical

    plain = [canonical(p, model) for p in patterns if not p.startswith("@")]
    return (_matched(model, plain) if plain else []) + paths


def _matched(model: Model, patterns: list[str]) -> list[str]:
    try:
        return model.sites.match(*patterns)
    except SiteError:
        for p in patterns:
            if p in model.status and model.status[p][0] == "withdrawn":
                raise SiteError(f"{p} is withdrawn on this model: {model.status[p][1]}.") from None
            family = model.family
            note = next((text for key, text in family.notes.items() if key and (p.endswith(key) or key in p)), None)
            if note and p not in model.sites:
                raise SiteError(
                    f"no site matches {p!r} on {family.name}: {note}.\n  print what there is with model.sites."
                ) from None
        raise


def reads_of(model: Model, read: Read, reduce: Any) -> dict[str, tuple[str, Callable | None]]:
    """What to record: result name -> (site, reducer)."""
    if read is None:
        return {}
    if isinstance(read, Mapping):
        out: dict[str, tuple[str, Callable | None]] = {}
        for label, wanted in read.items():
            site, how = wanted if isinstance(wanted, tuple) else (wanted, reduce)
            found = names_of(model, site)
            if len(found) != 1:
                raise SiteError(f"read={{{label!r}: ...}} names {len(found)} sites; one result holds one site.")
            out[str(label)] = (found[0], reducer(how))
        return out
    keep = reducer(reduce)
    return {name: (name, keep) for name in names_of(model, read)}


def tasks_of(
    model: Model,
    reads: Mapping[str, tuple[str, Callable | None]],
    edits: Sequence[Edit],
    inputs: Inputs | None,
    watched: Mapping[str, Callable] | None = None,
) -> list[Task]:
    """One task a site, in forward order; edits in the order given. watched: site -> who is shown its value."""
    tasks: dict[str, Task] = {}

    def task(name: str) -> Task:
        if name not in tasks:
            tasks[name] = Task(point_of(model, name))
        return tasks[name]

    for label, (name, keep) in reads.items():
        it = task(name)
        it.read = True
        it.keeps[label] = keep
    for edit in edits:
        if not isinstance(edit, Edit):
            raise no_edit(edit)
        for fingerprint in models_of(edit):
            model.check_meant(fingerprint, f"the direction of {edit!r} is")
        names = names_of(model, edit.site)
        for name in names:
            concrete = _with_span(at_site(edit, name, tuple(names)), model, inputs)
            if edit.needs:
                concrete = _with_needs(concrete, model)
            _check_axes(concrete, point_of(model, name))
            _check_place(point_of(model, name), model)
            task(name).edits.append(concrete)
            for needed in concrete.needs:
                it = task(needed_site(name, needed))
                it.hold, it.copies = True, it.copies or needed.startswith(ELSEWHERE)
    for name, look in (watched or {}).items():
        task(name).watch = look
    for it in tasks.values():
        if len(it.edits) > 1:
            refuse_contradictions(it.edits, it.point.name)
    order = {name: i for i, name in enumerate(model.points)}
    return sorted(tasks.values(), key=lambda t: order.get(t.point.name, len(order)))


def no_edit(given: Any) -> EditError:
    unpack = "\n  give edits in one list, or in lists in it: these are deeper." if isinstance(given, list) else ""
    if isinstance(given, Direction | Directions):
        unpack = "\n  a direction says where to go, not how far: ins.add(direction, scale)."
    return EditError(f"edits= takes edits such as ins.add(direction); got {type(given).__name__}.{unpack}")


def _with_needs(edit: Edit, model: Model) -> Edit:
    """Its needs by the model's own names, but the edit's own site; refused where they come later."""
    needs = []
    for name in edit.needs:
        if not name.startswith(ELSEWHERE):
            needs.append(name)
            continue
        (site,) = names_of(model, name.removeprefix(ELSEWHERE))
        if site != name.removeprefix(ELSEWHERE):
            raise SiteError(f"the edit {edit!r} looks at {name.removeprefix(ELSEWHERE)!r}: write {site!r}.")
        order = list(model.points)
        if site in order and edit.site in order and order.index(site) > order.index(edit.site):
            raise EditError(
                f"the edit {edit!r} at {edit.site} looks at {site}, which comes later in a forward pass.\n"
                "  an edit can look at sites up to its own; move it, or what it looks at."
            )
        if site != edit.site:
            needs.append(name)
    return replace(edit, needs=tuple(needs))


def _check_axes(edit: Edit, point: Point) -> None:
    """Refuse a place the site has no axis for before anything runs."""
    from inscape.core.edit import _axis

    if edit.at is not None:
        _axis(edit, point.axes, ("pos", "query"), "at")
    if edit.heads is not None:
        _axis(edit, point.axes, ("head", "kv_head"), "heads")
    if edit.calls and (point.kind != "module" or point.side != "out"):
        raise EditError(
            f"the edit {edit!r} looks at how a module was called; {point.name} is not what a module returns."
        )
    if point.name.endswith(("router.experts",)) and not edit.contextual and edit.spec is not None:
        raise EditError(
            f"{point.name} holds expert indices, not numbers to add to; use router.logits, or ins.replace with indices."
        )


def _check_place(point: Point, model: Model) -> None:
    """Refuse an edit of what is computed beside the model."""
    if point.kind != "state":
        return
    layer = point.name.removesuffix("state")
    written = [n for n in ("in", "dt", "B", "k", "v") if layer + n in model.points]
    read = [n for n in ("C", "scan", "y") if layer + n in model.points]
    raise EditError(
        f"{point.name} is for reading: it is replayed beside the model, which takes no changed state back.\n"
        f"  edit what writes it ({', '.join('ssm.' + n for n in written)}), "
        f"or what is made of it ({', '.join('ssm.' + n for n in read)})."
    )


def _with_span(edit: Edit, model: Model, inputs: Inputs | None) -> Edit:
    """Spans become masks over the prompt's columns."""
    if not isinstance(edit.at, Span):
        return edit
    return replace(edit, at=span_mask(edit.at, model, inputs))


def span_mask(wanted: Span, model: Model, inputs: Inputs | None) -> Tensor:
    """Columns of the prompt that the tokens of a stretch of text cover, or of those behind it, bool [batch, pos]."""
    import torch

    if inputs is None or inputs.texts is None or inputs.offsets is None:
        raise TokenError(
            f"at=ins.span({wanted.text!r}) needs text inputs and a fast tokenizer; give positions or token ids instead."
        )
    mask = torch.zeros(len(inputs.texts), len(inputs.offsets[0]), dtype=torch.bool)
    for row, (text, offsets) in enumerate(zip(inputs.texts, inputs.offsets, strict=True)):
        start = -1
        for _ in range(wanted.nth + 1):
            start = text.find(wanted.text, start + 1)
            if start < 0:
                raise TokenError(
                    f"the span {wanted.text!r} (occurrence {wanted.nth}) is not in prompt {row}: {text[:80]!r}."
                )
        stop = start + len(wanted.text)
        for column, (a, b) in enumerate(offsets):
            inside = a >= stop if wanted.behind else a < stop and b > start
            mask[row, column] = inside and b > a
    return mask


def no_generate(model: Model) -> ModelError:
    return ModelError(
        f"{type(model.module).__name__} cannot generate: it is no decoder with a head.\n"
        "  use ins.run to read or edit it."
    )
