"""What lenses need of the scores over a whole vocabulary, taken without ever holding them.

1. The head's matrix is cut into slabs of tokens; a slab's scores of some hundred states fit the cache.
2. Over the slabs run, for every state: the largest score m, s = sum exp(x - m), sum exp(x - m) (x - m) and
   sum exp(x - m) (x - m - log q) against a reference q; all are rescaled when m grows.
3. In the same pass: how many scores are above that of an asked token, and the k best, looked for in a slab only where
   its largest score is above the k-th so far.
Then log Z = m + log s, entropy = log s - (2nd sum) / s, KL(p | q) = (3rd sum) / s - log s.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.progress import Progress, tell
from inscape.engine.unembed import BUDGET, Unembedding

CACHE = {"cpu": 4 << 20}  # bytes of a slab's scores: of the cache where there is a large one
WIDE = 256 << 20
TINY = -80.0
STATES = 1024  # rows of a product, enough for the matrix to be read from memory once for many


@dataclass(frozen=True, eq=False)
class Scores:
    """What was asked of the scores of every state.

    log_z: log of the sum of exp(score). entropy, kl: in nats. asked: log probability of the asked tokens; rank: theirs,
    1 is the top. top, top_log: the k best tokens and their log probability.
    """

    log_z: Float[Tensor, "layer row"]
    entropy: Float[Tensor, "layer row"]
    kl: Float[Tensor, "layer row"] | None
    asked: Float[Tensor, "layer row t"]
    rank: Int[Tensor, "layer row t"]
    top: Int[Tensor, "layer row k"]
    top_log: Float[Tensor, "layer row k"]


def read_vocabulary(
    unembed: Unembedding,
    states: Float[Tensor, "layer row d_model"],
    *,
    k: int = 0,
    tokens: Int[Tensor, "*where t"] | None = None,
    reference: Float[Tensor, "row d_model"] | None = None,
    reference_log_z: Float[Tensor, " row"] | None = None,
    budget: int | None = None,
    progress: Progress = None,
) -> Scores:
    """Statistics of the scores of all states, on the CPU.

    k: best tokens to keep. tokens: whose log probability and rank are wanted, [row, t] or [layer, row, t].
    reference: states whose distribution q the others are compared with by KL(p | q); reference_log_z: theirs, if known.
    budget: bytes of scores alive at once; 4 MiB on a CPU without it, so that they stay in its cache.
    Cost: the products with the head, once a state (the reference counts as one), and some passes over the cache; about
    1.5 times the products alone. A head that is no single matrix gives its scores whole, `budget` bytes at a time.
    """
    n_layers, n_rows = states.shape[:2]
    k = min(k, unembed.n_vocab)
    n_asked = 0 if tokens is None else tokens.shape[-1]
    step, width = sizes(unembed, n_layers + (reference is not None), states.device, budget)
    out = Scores(
        torch.zeros(n_layers, n_rows),
        torch.zeros(n_layers, n_rows),
        None if reference is None else torch.zeros(n_layers, n_rows),
        torch.zeros(n_layers, n_rows, n_asked),
        torch.zeros(n_layers, n_rows, n_asked, dtype=torch.long),
        torch.zeros(n_layers, n_rows, k, dtype=torch.long),
        torch.zeros(n_layers, n_rows, k),
    )
    for start in range(0, n_rows, step):
        here = slice(start, min(start + step, n_rows))
        tell(progress, "reading states through the head", start / n_rows)
        asked = None if tokens is None else tokens[..., here, :].expand(n_layers, -1, -1)
        against = None
        if reference is not None:
            ready = unembed.ready(reference[here])
            log_q = log_z(unembed, ready, width) if reference_log_z is None else reference_log_z[here].to(ready.device)
            against = ready, log_q
        _read(unembed, states[:, here], asked, against, width, out, here)
    return out


def sizes(unembed: Unembedding, n_layers: int, device: torch.device, budget: int | None) -> tuple[int, int]:
    """Rows (with all their layers) and tokens that are in work at once."""
    if unembed.matrix is None:  # whole scores; the statistics make two more of them
        return max(1, (budget or BUDGET) // (4 * unembed.n_vocab) // n_layers), unembed.n_vocab
    cache = min(CACHE.get(device.type, WIDE), budget or BUDGET)
    rows = max(1, min(STATES, cache // (4 * 256)) // n_layers)
    return rows, max(16, cache // (4 * rows * n_layers))


def _read(
    unembed: Unembedding,
    states: Tensor,
    tokens: Tensor | None,
    reference: tuple[Tensor, Tensor] | None,
    width: int,
    out: Scores,
    here: slice,
) -> None:
    layers, rows = states.shape[:2]
    n = layers * rows
    ready = unembed.ready(states.flatten(0, 1))
    ids = None if tokens is None else tokens.reshape(n, -1).to(ready.device)
    asked = None if ids is None else unembed.columns(ready, ids, normed=True)
    above = None if ids is None else torch.zeros(ids.shape, dtype=torch.long, device=ready.device)
    together = ready if reference is None else torch.cat([ready, reference[0]])
    best = torch.full((n, out.top.shape[-1]), -torch.inf, device=ready.device)
    which = torch.zeros(best.shape, dtype=torch.long, device=ready.device)
    high = torch.full((n,), -torch.inf, device=ready.device)
    total, moment, apart = (torch.zeros(n, device=ready.device) for _ in range(3))
    room = torch.empty(n, min(width, unembed.n_vocab), device=ready.device)
    for first, scores in unembed.slabs(together, width):
        x = scores[:n]
        if ids is not None and asked is not None and above is not None:
            _count_above(x, asked, ids, first, above)
        largest = x.amax(1)
        if best.shape[1]:
            _keep_best(x, largest, first, best, which)
        now = torch.maximum(high, largest).clamp(min=-1e30)
        shrink = (high - now).exp()
        shift = torch.where(total > 0, total * (high - now), 0)  # of the sums of (x - m), as m grows by now - high
        moment, apart = (moment + shift) * shrink, (apart + shift) * shrink
        x.sub_(now[:, None])
        weight = exp_of(x, room[:, : x.shape[1]])
        total = total * shrink + weight.sum(1)
        moment = moment + _dot(weight, x)
        if reference is not None:
            log_q = (scores[n:] - reference[1][:, None]).clamp_(min=-1e30)
            apart = apart + _dot(weight, x.unflatten(0, (layers, rows)).sub_(log_q).flatten(0, 1))
        high = now
    log_s = total.log()
    log_z = high + log_s
    out.log_z[:, here] = log_z.view(layers, rows).cpu()
    out.entropy[:, here] = (log_s - moment / total).clamp(min=0).view(layers, rows).cpu()
    if out.kl is not None:
        out.kl[:, here] = (apart / total - log_s).clamp(min=0).view(layers, rows).cpu()
    if asked is not None and above is not None:
        out.asked[:, here] = (asked - log_z[:, None]).view(layers, rows, -1).cpu()
        out.rank[:, here] = above.add_(1).view(layers, rows, -1).cpu()
    out.top[:, here] = which.view(layers, rows, -1).cpu()
    out.top_log[:, here] = (best - log_z[:, None]).view(layers, rows, -1).cpu()


def exp_of(x: Tensor, out: Tensor | None = None) -> Tensor:
    """exp(x), into `out` where there is one, with 0 below e^-80: float32 becomes many times slower below e^-87.

    x is measured from its largest value, so that such terms add nothing to any sum here.
    """
    kept = torch.threshold(x, TINY, -torch.inf) if out is None else torch.threshold(x, TINY, -torch.inf, out=out)
    return kept.exp_()


def _dot(weight: Tensor, x: Tensor) -> Tensor:
    """sum w x, where w = 0 with x = -inf counts nothing."""
    found = torch.linalg.vecdot(weight, x)
    if bool(found.isnan().any()):
        found = torch.linalg.vecdot(weight, x.clamp(-1e30, 1e30))
    return found


def _count_above(x: Tensor, asked: Tensor, ids: Tensor, first: int, above: Tensor) -> None:
    """Add how many of these scores are higher than those asked for; a token is never above itself."""
    for t in range(ids.shape[1]):
        above[:, t] += (x > asked[:, t, None]).sum(1)
    inside = (ids >= first) & (ids < first + x.shape[1])
    own = x.gather(1, (ids - first).clamp(0, x.shape[1] - 1))
    above -= (inside & (own > asked)).long()  # the same score from a product of another shape may differ in rounding


def _keep_best(x: Tensor, largest: Tensor, first: int, best: Tensor, which: Tensor) -> None:
    """Merge the best of these scores into the best so far, in the rows that have any."""
    rows = (largest > best[:, -1]).nonzero()[:, 0]
    if not len(rows):
        return
    k = best.shape[1]
    here = x[rows].topk(min(k, x.shape[1]), 1)
    values = torch.cat([best[rows], here.values], 1)
    order = values.topk(k, 1)
    best[rows] = order.values
    which[rows] = torch.cat([which[rows], here.indices + first], 1).gather(1, order.indices)


def log_z(unembed: Unembedding, ready: Tensor, width: int, dtype: torch.dtype | None = None) -> Tensor:
    """log of the sum of exp(score) of each state, for states that `Unembedding.ready` gave."""
    found = torch.full((len(ready),), -torch.inf, device=ready.device)
    for _, scores in unembed.slabs(ready, width, dtype=dtype):
        found = torch.logaddexp(found, scores.logsumexp(1))
    return found
