"""The model's own `generate`, with edits in force and sites read on the way."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inscape.core.edit import Edits, listed
from inscape.core.errors import InputError
from inscape.core.trace import Trace
from inscape.core.watch import Watch
from inscape.engine.columns import CACHES, Columns
from inscape.engine.forward import eager
from inscape.engine.inputs import Inputs, prepare
from inscape.engine.planning import Read, no_generate, reads_of, tasks_of
from inscape.engine.session import Session, Task
from inscape.engine.watching import Watching, watches_of
from inscape.models.model import Model


@dataclass(frozen=True, eq=False)
class Generation:
    """What was generated. text: one string a row, new tokens only; tokens: new tokens [batch, new].

    trace: one tensor a site, [batch, prompt + new, ...], from the same run; prompts are padded on the left.
    """

    text: list[str]
    tokens: Tensor
    trace: Trace
    output: Any = None


def generate(
    model: Model,
    prompts: Any,
    edits: Edits = (),
    read: Read = None,
    *,
    watch: Watch | Sequence[Watch] = (),
    max_new_tokens: int = 40,
    reduce: Any = None,
    device: str | torch.device | None = None,
    allow_nan: bool = False,
    **generate_kwargs: Any,
) -> Generation:
    """Generate with the model's own `generate`, KV cache on: greedy, sampling or beams, whatever it takes.

    Edits act in the prompt's forward and in every cached step at the right absolute positions; a step by step forward
    without cache gives the same tokens. Greedy unless do_sample=True is passed. The last new token has been chosen but
    not fed by `generate`; when sites are read it is fed once, so that the trace covers every token.
    Under beams rows change places between steps, so the sites are read while the chosen sequences are fed once more,
    token by token, with the same edits.
    watch: those who look on (`core.watch.Watch`): they see every forward of the generation, new columns only, keep what
    they choose, and cost no step more; the last new token is chosen and not fed, so they do not see it.
    Cost: the generation, about 0.05 ms a step, plus one step when sites are read; beams with reads: plus one plain
    generation of the chosen rows.
    Raises: ModelError for a model that cannot generate; else as `run`.
    """
    model.check_ready()
    module: Any = model.module
    can = getattr(module, "can_generate", None)
    if not hasattr(module, "generate") or not callable(can) or not can():
        raise no_generate(model)
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens={max_new_tokens}: at least one token has to be generated.")
    edits = listed(edits)
    prepared = prepare(model, prompts, side="left")
    _check_left(prepared)
    reads = reads_of(model, read, reduce)
    watching = Watching(model, watches_of(watch))
    tasks = tasks_of(model, reads, edits, prepared, watching.callbacks)
    arguments = _arguments(model, prepared, generate_kwargs, max_new_tokens)
    beams = arguments.get("num_beams") or getattr(module.generation_config, "num_beams", 1) or 1
    to = torch.device(device) if device is not None else None
    searching = beams > 1 and bool(reads or watching.sites)
    during = tasks_of(model, {}, edits, prepared) if searching else tasks
    result, new, session = _generated(
        model,
        prepared,
        during,
        arguments,
        to,
        allow_nan,
        bool(reads) and not searching,
        None if searching else watching,
    )
    sequences = result if isinstance(result, Tensor) else result.sequences
    if searching and new.shape[1]:
        again = _forced(prepared, arguments, new)
        _, _, session = _generated(model, prepared, tasks, again, to, allow_nan, bool(reads), watching)
    text = [model.tokenizer.decode(row, skip_special_tokens=True) for row in new] if model.tokenizer is not None else []
    return Generation(
        text,
        new,
        _trace(session, reads, prepared, sequences, new, module),
        None if isinstance(result, Tensor) else result,
    )


def _generated(
    model: Model, prepared: Inputs, tasks: list[Task], arguments: dict[str, Any], device: torch.device | None,
    allow_nan: bool, feed_last: bool, watching: Watching | None,
) -> tuple[Any, Tensor, Session]:  # fmt: skip
    """The module's own generation with a session in force: its result, the new tokens, the session."""
    module: Any = model.module
    is_seq2seq = bool(getattr(module.config, "is_encoder_decoder", False))
    beams = arguments.get("num_beams") or getattr(module.generation_config, "num_beams", 1) or 1
    columns = Columns(prepared.mask, prepared.tokens, None, model.main_prefixes, remembers=beams == 1)
    if is_seq2seq:
        columns.step = None
    last: dict[str, Any] = {}
    if watching is not None:
        watching.begin(columns)

    def before(session: Session, args: tuple, kwargs: dict) -> None:
        columns.follow(session, args, kwargs)
        last["kwargs"] = kwargs

    session = Session(module, tasks, columns, device, allow_nan, many=True, before=before if tasks else None)
    with torch.no_grad(), eager(model, bool(tasks)), session:
        result = module.generate(**arguments)
        sequences = result if isinstance(result, Tensor) else result.sequences
        is_embedded = "inputs_embeds" in prepared.kwargs and prepared.tokens is None
        start = 1 if is_seq2seq else 0 if is_embedded or prepared.tokens is None else prepared.tokens.shape[1]
        new = sequences[:, start:]
        if watching is not None:
            watching.end()
        if feed_last and new.shape[1]:
            _feed_last(module, last, new[:, -1:])
    if new.shape[1]:
        session.finish()
    return result, new, session


SEARCH = ("num_beams", "num_return_sequences", "early_stopping", "length_penalty", "num_beam_groups",
          "diversity_penalty", "temperature", "top_k", "top_p", "min_p", "typical_p", "stopping_criteria",
          "output_scores", "output_logits", "return_dict_in_generate", "min_new_tokens", "min_length")  # fmt: skip


def _forced(prepared: Inputs, arguments: dict[str, Any], new: Tensor) -> dict[str, Any]:
    """Arguments that make one plain cached generation emit `new`: beams change rows between steps, this does not."""
    rows = next(v.shape[0] for v in prepared.kwargs.values() if isinstance(v, Tensor))
    times = new.shape[0] // rows
    kept = {k: v for k, v in arguments.items() if k not in SEARCH}
    if times > 1:
        kept = {
            k: v.repeat_interleave(times, 0) if isinstance(v, Tensor) and v.ndim and v.shape[0] == rows else v
            for k, v in kept.items()
        }
    step = iter(range(new.shape[1]))

    def emit(ids: Tensor, scores: Tensor) -> Tensor:
        only = torch.full_like(scores, -torch.inf)
        return only.scatter(1, new[:, next(step)].to(scores.device)[:, None], 0.0)

    return kept | {"num_beams": 1, "do_sample": False, "logits_processor": [emit], "max_new_tokens": new.shape[1]}


def _check_left(prepared: Inputs) -> None:
    mask = prepared.mask
    if mask is not None and not bool(mask[:, -1].all()):
        raise InputError(
            "the prompts are padded on the right: the model would go on from padding.\n"
            "  pass texts or lists of ids, which are padded on the left here, or pad the tensors on the left."
        )


def _arguments(model: Model, prepared: Inputs, extra: dict[str, Any], max_new_tokens: int) -> dict[str, Any]:
    arguments = {**prepared.kwargs, "max_new_tokens": max_new_tokens, "do_sample": False, **extra}
    arguments.pop("position_ids", None)  # generate makes them for every step
    if prepared.tokens is not None and "attention_mask" not in arguments:
        arguments["attention_mask"] = prepared.mask.long().to(model.device)  # type: ignore[union-attr]
    config = model.module.generation_config
    if config.pad_token_id is None and "pad_token_id" not in arguments:
        ids = [getattr(model.tokenizer, "pad_token_id", None), config.eos_token_id, 0]
        pad = next(i for i in ids if i is not None)
        arguments["pad_token_id"] = pad[0] if isinstance(pad, (list, tuple)) else pad
    return arguments


def _feed_last(module: Any, last: dict[str, Any], tokens: Tensor) -> None:
    """Feed the last chosen token once, with the arguments of the last step moved on by one column."""
    kwargs = dict(last["kwargs"])
    name = "decoder_input_ids" if "decoder_input_ids" in kwargs else "input_ids"
    had_cache = any(kwargs.get(n) is not None for n in CACHES)
    fed = kwargs.get(name)
    if not had_cache and isinstance(fed, Tensor):
        kwargs[name] = torch.cat([fed, tokens], 1)
    else:
        kwargs[name] = tokens
    kwargs.pop("inputs_embeds", None) if name == "input_ids" else None
    for mask in ("attention_mask", "decoder_attention_mask"):
        m = kwargs.get(mask)
        if isinstance(m, Tensor) and m.ndim == 2 and not (mask == "attention_mask" and name == "decoder_input_ids"):
            kwargs[mask] = torch.cat([m, m.new_ones(m.shape[0], 1)], 1)
    for ids in ("position_ids", "cache_position"):
        p = kwargs.get(ids)
        if isinstance(p, Tensor):
            nxt = p[..., -1:] + 1
            kwargs[ids] = nxt if had_cache else torch.cat([p, nxt], -1)
    for image in ("pixel_values", "pixel_values_videos", "image_grid_thw"):
        if had_cache:
            kwargs.pop(image, None)
    module(**kwargs)


def _trace(session: Session, reads: dict, prepared: Inputs, sequences: Tensor, new: Tensor, module: Any) -> Trace:
    values = {}
    for label, (site, keep) in reads.items():
        parts = session.values.get(label, [])
        values[label] = (
            _joined(parts, session, site)
            if keep is None
            else parts
            if len({p.shape for p in parts}) > 1
            else torch.stack(parts, 1)
        )
    mask = None
    if (
        prepared.mask is not None
        and prepared.tokens is not None
        and not getattr(module.config, "is_encoder_decoder", False)
    ):
        repeats = sequences.shape[0] // prepared.mask.shape[0]
        eos = module.generation_config.eos_token_id
        ended = (
            torch.isin(new, torch.tensor(eos, device=new.device))
            if eos is not None
            else torch.zeros_like(new, dtype=torch.bool)
        )
        after = ended.long().cumsum(1) - ended.long() > 0
        mask = torch.cat([prepared.mask.repeat_interleave(repeats, 0).to(new.device), ~after], 1)
    trace = Trace(values, sequences, mask, dict(session.fired))
    for task in session.tasks:
        for edit in task.edits:
            label = f"{edit.label or 'edit'} @ {edit.site}"
            trace.fired[label] = trace.fired.get(label, 0) + session.edit_fired.get(id(edit), 0)
    return trace


def _joined(parts: list[Tensor], session: Session, site: str) -> Tensor:
    """One tensor over all columns; maps over keys are padded with zeros to the last step's keys."""
    axes = next(t.point.axes for t in session.tasks if t.point.name == site)
    if len(parts) == 1:
        return parts[0]
    along = axes.index("query") if "query" in axes else 1
    if "key" in axes:
        keys = max(p.shape[-1] for p in parts)
        fill = float("-inf") if site.endswith("scores") else 0.0
        parts = [torch.nn.functional.pad(p, (0, keys - p.shape[-1]), value=fill) for p in parts]
    if (
        len(parts) > 1
        and parts[-1].shape[along] > 1
        and parts[-1].shape[along] == sum(p.shape[along] for p in parts[:1]) + len(parts) - 1
    ):
        with contextlib.suppress(IndexError):
            return parts[-1]  # without a cache every call covers the whole sequence
    return torch.cat(parts, along)
