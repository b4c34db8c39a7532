"""Edits of who attends to whom, before or after the softmax."""

from typing import Any

import torch
from torch import Tensor

from inscape.core.edit import Edit, make_edit
from inscape.core.errors import EditError, TokenError
from inscape.core.positions import At, check_at, select
from inscape.core.step import Step

HOW = ("forbid", "only", "cut", "set", "redirect")


def attend(
    layer: str, how: str, *, keys: At = None, to: At = None, value: float | int | None = None, at: At = None,
    heads: Any = None, rows: Any = None, renormalise: bool = False, own: bool = False, first: bool = False,
) -> Edit:  # fmt: skip
    """Change which keys the queries of an attention block look at.

    layer: "layers.5", "layers.*", or an attention block such as "decoder.layers.5.cross".
    how: "forbid", before the softmax: the keys are masked, the rest shares all of the attention;
         "only", before the softmax: all keys but these are masked; what the model hides itself stays hidden, and a
         query that is left with no key gets nothing;
         "cut", after it: their weight becomes zero, and nobody gets it (knock-out);
         "set": their weight becomes `value`; "redirect": their weight moves to the keys `to`, in equal parts.
    at: the queries. keys, to: positions like at=, counted among real tokens of the sequence so far; in
        cross-attention they count the encoder's columns. keys=() is none.
    own, first: under "only", each query's own position and the first real token, where sinks are, stay open too.
    renormalise: after "cut" or "set", scale each row back to the sum it had.
    """
    if how not in HOW:
        raise EditError(f"attend: {how!r} is unknown; it can be {', '.join(HOW)}.")
    if how == "set" and value is None:
        raise EditError("attend(..., 'set') needs value=, the attention weight to give to the keys.")
    if how == "redirect" and to is None:
        raise EditError("attend(..., 'redirect') needs to=, the keys that receive the attention.")
    if renormalise and how in ("forbid", "redirect"):
        raise EditError(f"attend(..., {how!r}) keeps every row's sum already; renormalise= is for 'cut' and 'set'.")
    if (own or first) and how != "only":
        raise EditError(f"attend(..., {how!r}) has no own= or first=; they keep keys open under 'only'.")
    keys = keys if isinstance(keys, tuple) and not keys else check_at(keys)
    to = check_at(to)
    block = layer if layer.endswith((".attn", ".cross")) else f"{layer}.attn"
    site = f"{block}.scores" if how in ("forbid", "only") else f"{block}.pattern"

    def fn(x: Tensor, step: Step) -> Tensor:
        marked = _keys(keys, x, step)
        if how == "forbid":
            return x.masked_fill(marked, -torch.inf)
        if how == "only":
            marked = marked | _keys(0, x, step) if first else marked
            marked = marked | _own(x, step) if own else marked
            return x.masked_fill(~marked, -torch.inf)
        if how == "redirect":
            moved = (x * marked).sum(-1, keepdim=True)
            target = _keys(to, x, step) & ~_future(x, step)
            count = target.sum(-1, keepdim=True)
            share = torch.where(target, moved / count.clamp(min=1), torch.zeros_like(x))
            return torch.where(count > 0, x.masked_fill(marked, 0.0) + share, x)
        y = torch.where(marked, torch.full_like(x, 0.0 if how == "cut" or value is None else value), x)
        if renormalise:
            total = y.sum(-1, keepdim=True)
            y = torch.where(total > 0, y * (x.sum(-1, keepdim=True) / total.clamp(min=1e-30)), y)
        return y

    spec = {
        "kind": "attend",
        "layer": layer,
        "how": how,
        "value": value,
        "renormalise": renormalise,
        "keys": keys,
        "to": to,
    }
    if own or first:
        spec |= {"own": own, "first": first}
    if any(isinstance(p, Tensor) for p in (keys, to)):
        spec = None
    return make_edit(site, fn, f"{how} attention at {layer}", contextual=True, at=at, heads=heads, rows=rows, spec=spec)


def _keys(keys: At, x: Tensor, step: Step) -> Tensor:
    """Marked keys, bool, broadcasting to [batch, head, query, key]; the newest key is the last column."""
    if keys is None or keys == ():
        return torch.full((1, 1, 1, x.shape[-1]), keys is None, device=x.device)
    if ".cross." in step.site:  # the keys are the encoder's columns; this call knows nothing of their padding
        marked = select(keys, Step.plain(x.shape[0], x.shape[-1]))
        assert marked is not None
        return marked[:, None, None, :].to(x.device)
    whole = Step(0, step.stop, step.real, None, step.prompt, n_repeats=step.n_repeats)
    if step.tokens is not None and step.tokens.shape[1] == step.stop:
        whole.tokens = step.tokens
    if isinstance(keys, Tensor) and keys.ndim == 1 and keys.dtype != torch.bool:
        raise TokenError("keys= takes positions as a list, a slice, a word, a mask or a table [batch, k].")
    chosen = select(keys, whole)
    assert chosen is not None  # None means all, which was answered above
    marked = chosen[:, -x.shape[-1] :]
    if marked.shape[1] < x.shape[-1]:  # a cache may hold more columns than have been filled
        marked = torch.nn.functional.pad(marked, (0, x.shape[-1] - marked.shape[1]))
    return marked[:, None, None, :].to(x.device)


def columns(x: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """The columns of the sequence that the queries and keys of a map stand for: [query, 1] and [1, key]."""
    offset = max(step.stop - x.shape[-1], 0)  # a cache may hold fewer columns, or more than have been filled
    key = torch.arange(x.shape[-1], device=x.device) + offset
    query = torch.arange(step.start, step.start + x.shape[-2], device=x.device)
    return query[:, None], key[None]


def _own(x: Tensor, step: Step) -> Tensor:
    """Each query's own position among the keys, bool [1, 1, query, key]."""
    query, key = columns(x, step)
    return (key == query)[None, None]


def _future(x: Tensor, step: Step) -> Tensor:
    """Keys after each query, bool [1, 1, query, key]: attention must not be sent there."""
    query, key = columns(x, step)
    return (key > query)[None, None]
