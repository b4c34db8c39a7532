"""The recurrences as formulas: the state after every token, and what the mixer reads out of it.

Everything here runs in float32, token by token, from what a mixer's modules showed (`Seen`); where the model itself
goes on differently in a one-token cached step than over a whole sequence, so does the replay.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(eq=False)
class Seen:
    """What one call of a mixer showed.

    mixer: the module that holds the recurrence. shown: tensors by tap ("in_proj", "x_proj:in"). mask: real columns of
    this call as the mixer received them. start, conv: the cache's recurrent and convolution state before the call.
    """

    mixer: Any
    shown: dict[str, Tensor]
    mask: Tensor | None = None
    start: Tensor | None = None
    conv: Tensor | None = None


@dataclass(frozen=True)
class Recurrence:
    """One kind of recurrence.

    shows: taps, relative to the mixer, of what the states are made of; those the mixer lacks are left out. gates:
    further taps that the readout needs. states: the state after every token, [batch, pos, ...]. reads: what the
    output projection receives, from given states. kept: where a cache keeps the state of this mixer. convolves: the
    states are made of a convolution that has to be replayed too.
    """

    shows: tuple[str, ...]
    gates: tuple[str, ...]
    states: Callable[[Seen], Tensor]
    reads: Callable[[Seen, Tensor], Tensor]
    kept: Callable[[Any, Any], Tensor | None]
    convolves: bool = False


def shown_by(mixer: nn.Module, taps: tuple[str, ...]) -> dict[str, tuple[nn.Module, bool]]:
    """The taps this mixer has: module, and whether its input is meant."""
    found = {tap: getattr(mixer, tap.removesuffix(":in"), None) for tap in taps}
    return {tap: (m, tap.endswith(":in")) for tap, m in found.items() if isinstance(m, nn.Module)}


def _after_each(columns: int, state: Tensor, step: Callable[[Tensor, int], Tensor]) -> Tensor:
    states = []
    for t in range(columns):
        state = step(state, t)
        states.append(state)
    return torch.stack(states, 1)


def _cached(mixer: Any, cache: Any) -> Tensor | None:
    return cache.get_recurrent_state(mixer.layer_idx)


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else (x * mask[:, :, None]).to(x.dtype)


def _convolved(seen: Seen, x: Tensor) -> Tensor:
    """The mixer's short causal convolution and its activation, [batch, pos, channel]."""
    from transformers.activations import ACT2FN

    weight, columns = seen.mixer.conv1d.weight, x.shape[1]
    wide = x.transpose(1, 2)
    wide = wide if seen.conv is None else torch.cat([seen.conv.to(wide), wide], -1)
    wide = F.pad(wide.to(weight.dtype), (weight.shape[-1] - 1, 0))
    y = F.conv1d(wide, weight, seen.mixer.conv1d.bias, groups=weight.shape[0])[..., -columns:]
    return ACT2FN[seen.mixer.activation](y).to(x.dtype).transpose(1, 2)


# -- Mamba: h = exp(dt A) h + dt B x, one state of size d_state a channel --------------------------------------------


def _mamba_parts(seen: Seen) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x and dt [batch, pos, d_inner], B and C [batch, pos, d_state]."""
    mixer, shown = seen.mixer, seen.shown
    rank, size = mixer.time_step_rank, mixer.ssm_state_size
    low, b, c = shown["x_proj"].split([rank, size, size], -1)
    low, b, c = (
        shown.get(norm, x) for norm, x in (("dt_layernorm", low), ("b_layernorm", b), ("c_layernorm", c))
    )  # Falcon-Mamba and Jamba
    weight, bias = mixer.dt_proj.weight, mixer.dt_proj.bias
    if weight.dtype == low.dtype:
        dt = F.linear(low, weight)
    else:  # packed weights of a quantised model: only the module can multiply them
        dt = mixer.dt_proj.forward(low) - (0 if bias is None else bias)
    dt = F.softplus(dt.float() if bias is None else dt + bias.float())
    return shown["x_proj:in"].float(), dt.float(), b.float(), c.float()


def _mamba_states(seen: Seen) -> Tensor:
    x, dt, b, _ = _mamba_parts(seen)
    rates = -torch.exp(seen.mixer.A_log.float())
    start = seen.start if x.shape[1] == 1 else None  # over several tokens the model begins anew, whatever is cached
    start = x.new_zeros(x.shape[0], *rates.shape) if start is None else start.float()

    def step(h: Tensor, t: int) -> Tensor:
        return torch.exp(dt[:, t, :, None] * rates) * h + (dt[:, t] * x[:, t])[..., None] * b[:, t, None]

    return _after_each(x.shape[1], start, step)


def _mamba_reads(seen: Seen, states: Tensor) -> Tensor:
    x, _, _, c = _mamba_parts(seen)
    gate = seen.shown["in_proj"].chunk(2, -1)[1]
    return (torch.einsum("btdn,btn->btd", states, c) + x * seen.mixer.D.float()) * F.silu(gate.float())


# -- Mamba 2: h = exp(dt A) h + dt x B', one state of size d_head by d_state a head ----------------------------------


def _mamba2_parts(seen: Seen) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x [batch, pos, head, d_head], dt [batch, pos, head], B and C [batch, pos, head, d_state], gate [.., d_inner]."""
    mixer, projected = seen.mixer, seen.shown["in_proj"]
    if (scales := getattr(mixer, "mup_vector", None)) is not None:  # Falcon-H1
        projected = projected * scales
    inner, heads = mixer.intermediate_size, mixer.num_heads
    gate, mixed, dt = projected.split([inner, mixer.conv_dim, heads], -1)
    both = (mixer.conv_dim - inner) // 2
    x, b, c = _masked(_convolved(seen, mixed), seen.mask).split([inner, both, both], -1)
    dt = F.softplus(dt + mixer.dt_bias)
    if seen.start is None or dt.shape[1] > 1:  # the one-token step of the model does not limit them
        dt = dt.clamp(*mixer.time_step_limit)
    b, c = (m.float().unflatten(-1, (mixer.n_groups, -1)).repeat_interleave(heads // mixer.n_groups, 2) for m in (b, c))
    return x.float().unflatten(-1, (heads, -1)), dt.float(), b, c, gate


def _mamba2_states(seen: Seen) -> Tensor:
    x, dt, b, _, _ = _mamba2_parts(seen)
    kept = torch.exp(-torch.exp(seen.mixer.A_log.float()) * dt)[..., None, None]
    start = x.new_zeros(*x[:, 0].shape, b.shape[-1]) if seen.start is None else seen.start.float()

    def step(h: Tensor, t: int) -> Tensor:
        return kept[:, t] * h + (dt[:, t, :, None] * x[:, t])[..., None] * b[:, t, :, None]

    return _after_each(x.shape[1], start, step)


def _mamba2_reads(seen: Seen, states: Tensor) -> Tensor:
    x, _, _, c, gate = _mamba2_parts(seen)
    y = torch.einsum("bthpn,bthn->bthp", states, c) + x * seen.mixer.D.float()[:, None]
    y = y.flatten(2)
    if not getattr(seen.mixer, "mamba_rms_norm", True):  # Falcon-H1 without its norm
        return y * F.silu(gate.float())
    return seen.mixer.norm(y, gate)


# -- gated delta rule: S = exp(g) S, then S + k (beta (v - k' S))', one d_k by d_v matrix a head -----------------------


def _delta_parts(seen: Seen) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """q, k [batch, pos, head, d_k], v [batch, pos, head, d_v], g, beta [batch, pos, head], gate as v."""
    mixer, shown = seen.mixer, seen.shown
    q, k, v, gate, b, a = mixer.fix_query_key_value_ordering(shown["in_proj_qkvz"], shown["in_proj_ba"])
    mixed = _convolved(seen, torch.cat([x.flatten(2) for x in (q, k, v)], -1))
    q, k, v = mixed.float().split([mixer.key_dim, mixer.key_dim, mixer.value_dim], -1)
    q, k = (x.unflatten(-1, (mixer.num_k_heads, -1)) for x in (q, k))
    q, k = (x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6) for x in (q, k))
    q, k = (x.repeat_interleave(mixer.num_v_heads // mixer.num_k_heads, 2) for x in (q, k))
    g = -mixer.A_log.float().exp() * F.softplus(a.float() + mixer.dt_bias)
    v = v.unflatten(-1, (mixer.num_v_heads, -1))
    return q * q.shape[-1] ** -0.5, k, v, g.float(), b.sigmoid().float(), gate


def _delta_states(seen: Seen) -> Tensor:
    _, k, v, g, beta, _ = _delta_parts(seen)
    start = k.new_zeros(*k[:, 0].shape, v.shape[-1]) if seen.start is None else seen.start.float()

    def step(s: Tensor, t: int) -> Tensor:
        s = s * g[:, t].exp()[..., None, None]
        new = beta[:, t, :, None] * (v[:, t] - torch.einsum("bhkv,bhk->bhv", s, k[:, t]))
        return s + k[:, t, ..., None] * new[..., None, :]

    return _after_each(k.shape[1], start, step)


def _delta_reads(seen: Seen, states: Tensor) -> Tensor:
    q, *_, gate = _delta_parts(seen)
    y = torch.einsum("bthkv,bthk->bthv", states, q)
    return seen.mixer.norm(y.flatten(0, 2), gate.flatten(0, 2)).reshape(*y.shape[:2], -1)


# -- RG-LRU: h = a h + sqrt(1 - a^2) (i x), one number a channel, which is what the module returns -------------------


def _lru_states(seen: Seen) -> Tensor:
    return seen.shown["rg_lru"].float()


def _lru_reads(seen: Seen, states: Tensor) -> Tensor:
    return states * seen.mixer.act_fn(seen.shown["linear_y"]).float()


# -- RWKV 4: numerator and denominator of a decaying average of values, both divided by exp(scale) --------------------


def _wkv_states(seen: Seen) -> Tensor:
    k, v = seen.shown["key"].float(), seen.shown["value"].float()
    decay = -torch.exp(seen.mixer.time_decay.float())
    start = _wkv_start(k) if seen.start is None else seen.start.float()

    def step(state: Tensor, t: int) -> Tensor:
        above, below, scale = state.unbind(-1)
        top = torch.maximum(scale + decay, k[:, t])
        old, new = torch.exp(scale + decay - top), torch.exp(k[:, t] - top)
        return torch.stack([old * above + new * v[:, t], old * below + new, top], -1)

    return _after_each(k.shape[1], start, step)


def _wkv_start(k: Tensor) -> Tensor:
    zero = torch.zeros_like(k[:, 0])
    return torch.stack([zero, zero, zero - 1e38], -1)


def _wkv_reads(seen: Seen, states: Tensor) -> Tensor:
    """The output of a token comes from the state before it, with a weight of its own for the token itself."""
    k, v = seen.shown["key"].float(), seen.shown["value"].float()
    first = _wkv_start(k) if seen.start is None else seen.start.float()
    above, below, scale = torch.cat([first[:, None], states[:, :-1]], 1).unbind(-1)
    own = k + seen.mixer.time_first.float()
    top = torch.maximum(scale, own)
    old, new = torch.exp(scale - top), torch.exp(own - top)
    return torch.sigmoid(seen.shown["receptance"].float()) * (old * above + new * v) / (old * below + new)


def _wkv_kept(mixer: Any, state: Any) -> Tensor | None:
    return torch.stack([part[:, :, mixer.layer_id] for part in state[2:5]], -1)


RECURRENCES = {
    "mamba": Recurrence(
        ("x_proj:in", "x_proj", "dt_layernorm", "b_layernorm", "c_layernorm"),
        ("in_proj",), _mamba_states, _mamba_reads, _cached,
    ),
    "mamba2": Recurrence(("in_proj",), (), _mamba2_states, _mamba2_reads, _cached, convolves=True),
    "delta": Recurrence(("in_proj_qkvz", "in_proj_ba"), (), _delta_states, _delta_reads, _cached, convolves=True),
    "rg_lru": Recurrence(("rg_lru",), ("linear_y",), _lru_states, _lru_reads, lambda mixer, cache: None),
    "wkv": Recurrence(("key", "value"), ("receptance",), _wkv_states, _wkv_reads, _wkv_kept),
}  # fmt: skip
