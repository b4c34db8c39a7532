"""Where each unit is largest, with the words around it: maximally activating examples of a model or of a store."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.progress import Progress, tell
from inscape.engine.forward import run
from inscape.engine.inputs import prepare
from inscape.models.model import Model
from inscape.store.statistics import Moments, TopExamples, locate, one_pass
from inscape.store.statistics.topk import By
from inscape.store.store import Store


@dataclass(frozen=True)
class Example:
    """One token on which a unit is large. row: its text. pos: real position. z: (value - mean) / std over all tokens.

    before, token, after: decoded, or token ids in words where there is no tokenizer.
    """

    unit: int
    value: float
    z: float
    row: int
    pos: int
    before: str
    token: str
    after: str

    def __str__(self) -> str:
        return f"{self.value:9.3g}  {self.before}[{self.token}]{self.after}".replace("\n", "\\n")


@dataclass(frozen=True, eq=False)
class Examples:
    """The k tokens on which every unit of a site is largest; call it with a unit. n_tokens: looked at.

    mean, std: of each unit over all tokens, so that a large value can be told from a unit that is always large.
    """

    site: str
    values: Float[Tensor, "k unit"]
    rows: Int[Tensor, "k unit"]
    positions: Int[Tensor, "k unit"]
    mean: Float[Tensor, " unit"]
    std: Float[Tensor, " unit"]
    n_tokens: int
    texts: dict[int, tuple[int, ...]]
    tokenizer: Any
    window: int

    def __call__(self, unit: int) -> list[Example]:
        """Its examples, largest first. Raises InputError for a unit that is not there."""
        if not 0 <= unit < self.values.shape[1]:
            raise InputError(f"{self.site} has no unit {unit}: it has {self.values.shape[1]:,}.")
        found = []
        for value, row, pos in zip(self.values[:, unit], self.rows[:, unit], self.positions[:, unit], strict=True):
            ids, at = self.texts[int(row)], int(pos)
            z = (float(value) - float(self.mean[unit])) / max(float(self.std[unit]), 1e-30)
            parts = (ids[max(0, at - self.window) : at], ids[at : at + 1], ids[at + 1 : at + 1 + self.window // 2])
            found.append(Example(unit, float(value), z, int(row), at, *map(self._said, parts)))
        return found

    def _said(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids)) if self.tokenizer is not None else " ".join(map(str, ids))


def top_examples(
    model: Model,
    texts: Sequence[Any],
    site: str,
    *,
    k: int = 10,
    by: By = "largest",
    window: int = 12,
    progress: Progress = None,
) -> Examples:
    """Run texts and keep, for every unit of a site, the k tokens on which it is largest, with what stands around.

    texts: one entry a run, of any number of rows. by: "largest", "smallest" or "absolute". window: tokens shown before.
    Choose `store_examples` where activations are recorded already.
    Cost: one forward a text, up to the site; 24 k bytes a unit and the token ids.
    Raises: InputError for inputs that are no tokens; SiteError.
    """
    (name,) = model.sites(site).names if site in model.sites else [site]
    top, moments = TopExamples(k, by), Moments()
    held: dict[int, tuple[int, ...]] = {}
    starts, row, n = [], 0, 0
    for index, one in enumerate(texts):
        tell(progress, f"examples of {name}", index / len(texts))
        ready = prepare(model, one)
        if ready.tokens is None:
            raise InputError("top_examples takes texts or token ids: these inputs are no tokens.")
        mask = ready.mask.bool() if ready.mask is not None else torch.ones_like(ready.tokens).bool()
        for ids, real in zip(ready.tokens.cpu(), mask.cpu(), strict=True):
            held[row] = tuple(ids[real].tolist())
            starts.append(n)
            row, n = row + 1, n + len(held[row])

        def see(x: Tensor, mask: Tensor = mask) -> Tensor:
            rows = x[mask.to(x.device)]
            rows = rows.reshape(len(rows), -1)
            top.update(rows)
            moments.update(rows)
            return x.new_zeros(0)

        run(model, ready, read={name: (name, see)})
    first = torch.tensor(starts)
    where = top.rows_.cpu()
    rows = torch.searchsorted(first, where, right=True) - 1
    std = moments.std_ if n > 1 else torch.zeros_like(moments.mean_)
    return Examples(name, top.values_.cpu(), rows, where - first[rows], moments.mean_.cpu(), std.cpu(), n, held,
                    model.tokenizer, window)  # fmt: skip


def store_examples(
    store: Store, column: str, *, tokenizer: Any = None, k: int = 10, by: By = "largest", window: int = 12
) -> Examples:
    """The same of a recorded column, in one pass; the contexts are the store's own tokens, decoded by `tokenizer`.

    row of an example is its sample; contexts are right where all positions of a sample were recorded.
    """
    top, moments = TopExamples(k, by), Moments()
    one_pass(store, {column: [top, moments]})
    found = locate(store, top.rows_)
    tokens, samples = store["token"], store["sample"]
    texts: dict[int, tuple[int, ...]] = {}
    begins: dict[int, int] = {}
    for row, sample in zip(found.row.flatten().tolist(), found.sample.flatten().tolist(), strict=True):
        if sample in texts:
            continue
        low, high, step = row, row + 1, 256
        while low > 0 and int(samples[max(0, low - 1)]) == sample:
            near = samples[max(0, low - step) : low]
            other = (near != sample).nonzero()
            low = low - len(near) + (int(other[-1]) + 1 if len(other) else 0)
        while high < len(store) and int(samples[high]) == sample:
            near = samples[high : high + step]
            other = (near != sample).nonzero()
            high += int(other[0]) if len(other) else len(near)
        texts[sample], begins[sample] = tuple(int(t) for t in tokens[low:high]), low
    place = found.row - torch.tensor([begins[s] for s in found.sample.flatten().tolist()]).reshape(found.row.shape)
    std = moments.std_ if moments.n > 1 else torch.zeros_like(moments.mean_)
    return Examples(column, top.values_, found.sample, place, moments.mean_, std, moments.n, texts, tokenizer, window)
