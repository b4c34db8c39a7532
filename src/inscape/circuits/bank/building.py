"""Building an ablation bank in one pass over rows, from runs of a model or from a store.

1. Rows come in sample order: activations of the sites, with sample, position and token, a unit at a time.
2. Each row gets its key's number; sums by key and by position, and lengths, are added up in float64.
3. Every row draws a number; the rows with the smallest `pool` of them are kept (a uniform sample of all rows).
4. Means, counts and the kept rows become the bank.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from inscape.circuits.bank.bank import Bank
from inscape.circuits.bank.keys import Key, Keys
from inscape.core.errors import InputError, ShapeError
from inscape.core.progress import Progress, tell
from inscape.engine.planning import names_of
from inscape.models.model import Model
from inscape.store.data import data_of
from inscape.store.harvest import Harvest
from inscape.store.replay import check_model
from inscape.store.store import Store

RARE = ("refuse", "position")
Columns = dict[str, Tensor]


def ablation_bank(
    model: Model, data: Any, sites: Any, *, key: Key = "position+token", k_min: int = 1, rare: str = "refuse",
    pool: int = 512, batch_tokens: int = 4096, budget_bytes: int = 2 << 30, field: str | None = None, seed: int = 0,
    progress: Progress = None,
) -> Bank:  # fmt: skip
    """What sites say on average over data: over everything, by position, and by a key of the position.

    mean_k = sum of h over the rows with key k, over their number. Under the default key that is what a position knows
    from its own token alone: averaged over whatever else stood in the text, it has forgotten the other positions.

    data: texts, lists of token ids, a file or dataset as `ins.record` takes them, or an `ins.Store` that was recorded
        with this model (every position, sites whole), which is read in one pass.
    key: see `circuits.bank.keys`. k_min: fewest rows of a key. rare: "refuse" a bank with rarer keys, or treat them as
        unseen, so that they fall back to the mean of their "position".
    pool: rows kept for resampling, drawn uniformly by `seed`. budget_bytes: of sums that may be held.
    Cost: one forward a batch up to the last site, or one read of the store; 8 bytes a unit and key for every site.
    Raises: InputError for a key with fewer than k_min rows, sums over the budget, data without tokens; ShapeError for
    sites that have no position of their own; ModelError for a store of another model.
    """
    if k_min < 1 or rare not in RARE:
        raise InputError(f"k_min={k_min}, rare={rare!r}: k_min is at least 1, rare is 'refuse' or 'position'.")
    names = names_of(model, sites)
    sums = _Sums(names, Keys(key), pool, budget_bytes, seed)
    if isinstance(data, Store):
        check_model(data, model)
        parts = _of_store(data, names, budget_bytes, progress)
    else:
        _check_sites(model, names)
        parts = _of_runs(model, data_of(data, field), names, batch_tokens, progress)
    for part in parts:
        sums.add(part)
    return sums.bank(model.fingerprint, k_min, rare)


def _check_sites(model: Model, names: Sequence[str]) -> None:
    for name in names:
        axes = model.points[name].axes if name in model.points else ("batch", "pos", "d")
        if axes[:2] != ("batch", "pos"):
            raise ShapeError(
                f"a bank holds one value a position; {name} has the axes {' '.join(axes)}.\n"
                "  take a site of the stream, of an MLP or of heads (attn.z)."
            )


def _of_runs(model: Model, data: Any, names: Sequence[str], batch_tokens: int, progress: Progress) -> Iterator[Columns]:
    harvest = Harvest(model, {name: (name, None) for name in names}, batch_tokens=batch_tokens)
    harvest.check()
    for start in range(0, data.n, 256):
        found = [sample for sample, _ in data.get(start, min(start + 256, data.n))]
        yield harvest.unit(start, found)[0]
        tell(progress, f"ablation bank: {min(start + 256, data.n):,} of {data.n:,} samples", (start + 256) / data.n)


def _of_store(store: Store, names: Sequence[str], budget_bytes: int, progress: Progress) -> Iterator[Columns]:
    for name in names:
        about = store[name].about
        if about.keep or about.site != name:
            raise InputError(
                f"{store.path} holds less than the site's value in {name} ({about.keep or 'no site'}).\n"
                "  record the site whole, without top_k, project or 'norm'."
            )
    row = sum(8 * store[name].about.row_bytes // store[name].stored.itemsize for name in names)
    step = max(1, min(1 << 15, budget_bytes // 8 // max(1, row)))
    start = 0
    while start < len(store):
        stop = min(start + step, len(store))
        sample = store["sample"][start:stop]
        if stop < len(store):  # a sample is never cut, since a key may read all of its tokens
            first = int((sample == sample[-1]).nonzero()[0])
            stop = start + first if first else store.rows_of(int(sample[-1])).stop
        part = {name: store[name][start:stop] for name in ("sample", "pos", "token", *names)}
        if bool((part["pos"] < 0).any()):
            raise InputError(f"{store.path} has one row a sample and no positions; record with reduce=None.")
        yield part
        start = stop
        tell(progress, f"ablation bank: {stop:,} of {len(store):,} rows", stop / len(store))


class _Sums:
    """Sums by key and by position, of every site."""

    def __init__(self, names: Sequence[str], keys: Keys, pool: int, budget_bytes: int, seed: int) -> None:
        self.names, self.keys, self.n_pool, self.budget_bytes = list(names), keys, pool, budget_bytes
        self.generator = torch.Generator().manual_seed(seed)
        self.counts, self.position_counts = torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
        self.key_pos = torch.zeros(0, dtype=torch.long)
        self.by_key: dict[str, Tensor] = {}
        self.by_position: dict[str, Tensor] = {}
        self.lengths = dict.fromkeys(names, 0.0)
        self.pool: dict[str, Tensor] = {}
        self.pool_pos, self.pool_key = torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
        self.pool_draw = torch.zeros(0, dtype=torch.float64)

    def add(self, part: Columns) -> None:
        pos, tokens = part["pos"].long(), part["token"].long()
        if self.keys.key != "position" and bool((tokens < 0).any()):
            raise InputError("the data have no token ids, so no key of tokens; use key='position'.")
        number = self.keys.find(part["sample"].long(), pos, tokens, add=True)
        n_keys, n_pos = len(self.keys.values), max(len(self.position_counts), int(pos.max()) + 1)
        self._check_budget(part, n_keys)
        self.counts = _counted(self.counts, number, n_keys)
        self.position_counts = _counted(self.position_counts, pos, n_pos)
        self.key_pos = _positions(self.key_pos, number, pos, n_keys)
        for name in self.names:
            x = part[name].double()
            self.by_key[name] = _added(self.by_key.get(name), number, x, n_keys)
            self.by_position[name] = _added(self.by_position.get(name), pos, x, n_pos)
            self.lengths[name] += float(x.flatten(1).norm(dim=1).sum())
        self._keep(part, pos, number)

    def _keep(self, part: Columns, pos: Tensor, number: Tensor) -> None:
        draw = torch.rand(len(pos), generator=self.generator, dtype=torch.float64)
        both = torch.cat([self.pool_draw, draw])
        chosen = both.topk(min(self.n_pool, len(both)), largest=False, sorted=False).indices.sort().values
        old, new = chosen[chosen < len(self.pool_draw)], chosen[chosen >= len(self.pool_draw)] - len(self.pool_draw)
        for name in self.names:
            x = part[name]
            before = self.pool.get(name, x[:0])
            self.pool[name] = torch.cat([before[old], x[new]])
        self.pool_pos = torch.cat([self.pool_pos[old], pos[new]])
        self.pool_key = torch.cat([self.pool_key[old], number[new]])
        self.pool_draw = both[chosen]

    def _check_budget(self, part: Columns, n_keys: int) -> None:
        needed = sum(8 * n_keys * part[name][0].numel() for name in self.names)
        if needed > self.budget_bytes:
            raise InputError(
                f"{n_keys:,} keys of {len(self.names)} sites need {needed / 1e9:.1f} GB of sums, over "
                f"budget_bytes={self.budget_bytes:,}.\n"
                "  use a coarser key ('token', 'position', a function), fewer sites, or a larger budget."
            )

    def bank(self, model: str, k_min: int, rare: str) -> Bank:
        few = self.counts < k_min
        if bool(few.any()) and rare == "refuse":
            worst = int(self.counts.argmin())
            raise InputError(
                f"{int(few.sum()):,} of {len(few):,} keys have fewer than k_min={k_min} rows; "
                f"{self.keys.shown(self.keys.values[worst])} has {int(self.counts[worst])}.\n"
                "  give more data, a coarser key, or rare='position' to let these fall back to their position's mean."
            )
        enough = (~few).nonzero()[:, 0]
        if isinstance(self.keys.key, str):  # in an order that does not depend on how the rows were cut
            enough = enough[torch.tensor(self.keys.values, dtype=torch.long)[enough].argsort()]
        kept = Keys(self.keys.key, [self.keys.values[i] for i in enough.tolist()])
        moved = torch.full((len(few),), -1).index_put((enough,), torch.arange(len(enough)))
        n = int(self.position_counts.sum())
        means, at, whole, ratio = {}, {}, {}, {}
        for name in self.names:
            sums, total = self.by_key[name], self.by_position[name][: len(self.position_counts)]
            means[name] = (sums[enough] / _along(self.counts[enough], sums)).float()
            at[name] = (total / _along(self.position_counts.clamp(min=1), total)).float()
            whole[name] = (total.sum(0) / n).float()
            by = {"key": sums[enough], "position": total, "mean": total.sum(0, keepdim=True)}
            share = {"key": float(self.counts[enough].sum()) / n}
            ratio[name] = {
                how: float(s.flatten(1).norm(dim=1).sum()) / max(self.lengths[name] * share.get(how, 1.0), 1e-30)
                for how, s in by.items()
            }
        return Bank(
            kept, self.counts[enough], self.key_pos[enough], self.position_counts, means, at, whole, self.pool,
            self.pool_pos, moved[self.pool_key], ratio, model,
        )  # fmt: skip


def _along(counts: Tensor, x: Tensor) -> Tensor:
    return counts.double().reshape(-1, *[1] * (x.ndim - 1))


def _counted(counts: Tensor, index: Tensor, n: int) -> Tensor:
    more = torch.bincount(index, minlength=n)
    more[: len(counts)] += counts
    return more


def _added(sums: Tensor | None, index: Tensor, x: Tensor, n: int) -> Tensor:
    if sums is None or len(sums) < n:
        wider = x.new_zeros(max(n, 2 * len(sums) if sums is not None else n), *x.shape[1:])  # doubled: few copies
        if sums is not None:
            wider[: len(sums)] = sums
        sums = wider
    return sums.index_add_(0, index, x)


def _positions(known: Tensor, number: Tensor, pos: Tensor, n: int) -> Tensor:
    """The position that all rows of a key share, -1 where they do not, -2 before the first row."""
    out = torch.full((n,), -2)
    out[: len(known)] = known
    low = out.clone().scatter_reduce(0, number, pos, "amin", include_self=False)
    high = out.clone().scatter_reduce(0, number, pos, "amax", include_self=False)
    same = (low == high) & ((out == -2) | (out == low))
    touched = torch.zeros(n, dtype=torch.bool).index_fill(0, number, True)
    return torch.where(touched, torch.where(same, low, -1), out)
