"""The one forward pass: reads sites, applies edits, stops when nobody wants more."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from inscape.core.edit import Edit, Edits, listed
from inscape.core.errors import InputError, ModelError
from inscape.core.trace import Trace
from inscape.engine.columns import Columns
from inscape.engine.inputs import Inputs, accepts, prepare
from inscape.engine.planning import Read, reads_of, tasks_of
from inscape.engine.session import Session, Stop, Task
from inscape.models.model import Model


def run(
    model: Model,
    inputs: Any,
    read: Read = None,
    edits: Edits = (),
    output: bool | str | None = None,
    *,
    grad: bool = False,
    metric: Callable[[Any], Tensor] | None = None,
    reduce: Any = None,
    device: str | torch.device | None = None,
    allow_nan: bool = False,
    padding_side: str | None = None,
    **model_kwargs: Any,
) -> Trace:
    """Run the model once; read sites, apply edits, and compute no more than was asked for.

    read: a pattern, patterns, sites, or {name: (site, reduce)}. Values are copies, taken after the edits of the site.
    edits: applied in order. Positions (at=) count real tokens, on either padding side.
    output: True, the module's own output object; "last", the same with the logits of each row's last real token only;
        False, none: the run stops after the last site it needs and computes no unembedding. Default: True without
        `read`; with it only when `read` names the logits or a metric needs them.
    grad: keep the graph: values are part of it, and so are the trainable tensors of edits. With `metric`, a function of
        the module's output that returns one number, trace.grads holds its gradient at every read site instead.
    reduce: what to keep of each value: "last", "mean", "norm", positions or a function. device: where values go.
    padding_side: for texts and lists of ids; the tokenizer's own when left out. Further keywords go to the module.
    Cost: the blocks up to the last site needed, about 0.01 ms a site, and a copy of what is kept.
    Raises: SiteError, ShapeError, EditError, TokenError, InputError, NotFiredError, NotFiniteError.
    """
    model.check_ready()
    edits = listed(edits)
    if output not in (None, True, False, "last"):
        raise InputError(f"output={output!r}: it can be True, False or 'last'.")
    reads, tasks, prepared = _planned(model, inputs, read, edits, reduce, padding_side)
    if output is None:
        output = not reads or metric is not None or any(site == "logits" for site, _ in reads.values())
    prepared.kwargs.update(model_kwargs)
    if grad and metric is not None:
        _check_on_the_way(tasks)
    columns = one_call(model, prepared)
    session = Session(
        model.module, tasks, columns, torch.device(device) if device is not None else None, allow_nan,
        may_stop=output is False and bool(tasks) and all(t.point.name[0] != "@" for t in tasks), grad=grad,
    )  # fmt: skip
    kept: Any = Trace.__dataclass_fields__["output_"].default
    with _grad_mode(grad or metric is not None), eager(model, bool(tasks)):
        only_last = last_logits(model, prepared) if output == "last" else contextlib.nullcontext()
        with session, only_last, contextlib.suppress(Stop):
            out = model.module(*prepared.args, **prepared.kwargs)
            if output is not False:
                kept = out
        session.finish()
        trace = _trace(session, reads, prepared, kept)
        if metric is not None:
            _gradients(trace, session, reads, metric, kept, grad)
    return trace


def _planned(
    model: Model, inputs: Any, read: Read, edits: Sequence[Edit], reduce: Any, side: str | None
) -> tuple[dict, list[Task], Inputs]:
    prepared = prepare(model, inputs, side=side)
    key = _key(read, reduce) if not edits else None
    if key is None or key not in model.plans:
        reads = reads_of(model, read, reduce)
        tasks = tasks_of(model, reads, edits, prepared)
        if key is not None:
            model.plans[key] = (reads, tasks)
        return reads, tasks, prepared
    reads, tasks = model.plans[key]
    return reads, tasks, prepared


def _key(read: Read, reduce: Any) -> Any:
    """Plans without edits are remembered by what was asked for."""
    if not (reduce is None or isinstance(reduce, str)):
        return None
    if read is None or isinstance(read, str):
        return (read, reduce)
    if isinstance(read, (list, tuple)) and all(isinstance(r, str) for r in read):
        return (tuple(read), reduce)
    return None


def one_call(model: Model, prepared: Inputs) -> Columns:
    """The columns of a single forward of the whole module, which then needs no cache unless one was asked for."""
    if "use_cache" not in prepared.kwargs and can_cache(model.module):
        prepared.kwargs["use_cache"] = False
    width = prepared.prompt or (prepared.mask.shape[1] if prepared.mask is not None else None)
    columns = Columns(prepared.mask, prepared.tokens, width, model.main_prefixes)
    if model.is_encoder_decoder:
        _decoder_columns(columns, prepared)
    elif prepared.mask is None:
        columns.step = None
    return columns


def _decoder_columns(columns: Columns, prepared: Inputs) -> None:
    """In an encoder-decoder the main columns are the decoder's; the encoder's are the inputs'."""
    ids = prepared.kwargs.get("decoder_input_ids")
    mask = prepared.kwargs.get("decoder_attention_mask")
    if isinstance(mask, Tensor) or isinstance(ids, Tensor):
        from inscape.core.step import Step

        mask = mask if isinstance(mask, Tensor) else torch.ones_like(ids)  # type: ignore[arg-type]
        columns.step = Step.of_mask(mask, 0, ids)
    else:
        columns.step = None


def can_cache(module: nn.Module) -> bool:
    config = getattr(module, "config", None)
    return hasattr(config, "use_cache") and accepts(module, "use_cache")


@contextlib.contextmanager
def _grad_mode(wanted: bool) -> Iterator[None]:
    if wanted:
        with torch.enable_grad():
            yield
    else:
        with torch.no_grad():
            yield


def eager(model: Model, wanted: bool, *, anywhere: bool = False) -> contextlib.AbstractContextManager[Any]:
    """Compiled code does not see hooks added later, so what looks inside a compiled model runs eagerly.

    Looks at the model and its blocks, where people compile. anywhere: the caller may hold a compiled wrapper of this
    model that cannot be seen from here, so anything compiled in this process counts.
    """
    if not wanted or "torch._dynamo" not in sys.modules:
        return contextlib.nullcontext()
    places = model.compile_places
    if anywhere or any(m._compiled_call_impl is not None or "_orig_mod" in m._modules for m in places):
        return torch.compiler.set_stance("force_eager")
    return contextlib.nullcontext()


@contextlib.contextmanager
def last_logits(model: Model, prepared: Inputs) -> Iterator[None]:
    """Only the stream at each row's last real token reaches the head: its other rows are never computed."""
    point = model.points.get("logits")
    if point is None:
        raise ModelError("output='last' needs a model with a language head; this one has no 'logits' site.")
    mask = prepared.mask

    def cut(module: nn.Module, args: Any) -> Any:
        hidden = args[0]
        if hidden.ndim != 3:
            return None
        if mask is None or hidden.shape[1] != mask.shape[1]:
            return (hidden[:, -1:], *args[1:])
        last = (mask.long().cumsum(1).argmax(1)).to(hidden.device)
        if bool((last == last[0]).all()):
            return (hidden[:, int(last[0]) : int(last[0]) + 1], *args[1:])
        return (hidden[torch.arange(len(last), device=hidden.device), last][:, None], *args[1:])

    handle = point.module.register_forward_pre_hook(cut, prepend=True)
    try:
        yield
    finally:
        handle.remove()


def _trace(session: Session, reads: dict, prepared: Inputs, kept: Any) -> Trace:
    source = session.values
    values = {label: source[label] for label in reads}
    trace = Trace(values, prepared.tokens, prepared.mask, dict(session.fired), output_=kept)
    for task in session.tasks:
        for edit in task.edits:
            label = f"{edit.label or 'edit'} @ {edit.site}"
            trace.fired[label] = trace.fired.get(label, 0) + session.edit_fired.get(id(edit), 0)
    return trace


def _check_on_the_way(tasks: list[Task]) -> None:
    """Refuse a gradient that would read 0 because no output is made of the value."""
    beside = next((t.point.name for t in tasks if t.read and t.point.kind == "state"), None)
    if beside is not None:
        raise InputError(
            f"{beside} has no gradient: it is replayed beside the model, and the metric is not made of it.\n"
            "  leave it out of read=, or take the gradient at ssm.y of the same layer."
        )


def _gradients(
    trace: Trace, session: Session, reads: dict, metric: Callable[[Any], Tensor], out: Any, wanted: bool
) -> None:
    value = metric(out)
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"the metric returned {shape}; it must return one number as a tensor, for instance by .sum().")
    trace.metric = value
    if not wanted or not reads:
        trace.metric = value.detach()
        return
    sites = {label: session.graph[site] for label, (site, _) in reads.items()}
    grads = torch.autograd.grad(value.reshape(()), list(sites.values()), allow_unused=True)
    for (label, x), g in zip(sites.items(), grads, strict=True):
        trace.grads[label] = g if g is not None else torch.zeros_like(x)
    trace.values_ = {label: v.detach().clone() for label, v in trace.values_.items()}
    trace.metric = value.detach()
