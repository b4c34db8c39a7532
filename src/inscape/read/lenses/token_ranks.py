"""How far up given tokens are, layer by layer, while a model generates: what it holds ready and does not say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.errors import InputError, TokenError
from inscape.core.progress import Progress, tell
from inscape.core.step import Step
from inscape.engine.generate import generate
from inscape.engine.inputs import Inputs, prepare
from inscape.models.model import Model
from inscape.read.lenses.logit import checked_unembedding
from inscape.read.lenses.states import layer_names
from inscape.read.lenses.vocabulary import read_vocabulary


@dataclass(frozen=True, eq=False)
class TokenRanks:
    """Rank and log probability of sets of tokens after every layer, at every generated token; 1 is the top.

    Step t is the state that chose new token t. A set has as many columns as its largest row; cells without a token,
    and those behind a row's end, are NaN. control: the ranks of another row's tokens in the same cells (those that are
    not the row's own as well); None without a control.
    """

    layers: tuple[str, ...]
    ranks: Mapping[str, Float[Tensor, "layer batch step _"]]
    log_probs: Mapping[str, Float[Tensor, "layer batch step _"]]
    control: Mapping[str, Float[Tensor, "layer batch step _"]] | None
    tokens: Int[Tensor, "batch step"]
    mask: Bool[Tensor, "batch step"]
    text: tuple[str, ...]
    n_vocab: int
    how: str

    @property
    def chance_rank(self) -> float:
        """The mean rank of a token under a random order of the vocabulary."""
        return (self.n_vocab + 1) / 2

    def by_layer(self, name: str, control: bool = False) -> Float[Tensor, " layer"]:
        """The mean rank of a set after each layer, over its tokens, rows and steps alike."""
        return self._of(name, control).nanmean((1, 2, 3))

    def by_step(self, name: str, layer: int = -1, control: bool = False) -> Float[Tensor, "batch step"]:
        """The mean rank of a row's set at each step, after one layer; NaN behind a row's end."""
        return self._of(name, control)[layer].nanmean(-1)

    def _of(self, name: str, control: bool) -> Float[Tensor, "layer batch step _"]:
        found = self.control if control else self.ranks
        if found is None or name not in found:
            there = ", ".join(map(repr, self.ranks))
            raise InputError(f"no {'control of ' if control else ''}set {name!r}; there are {there}.")
        return found[name]


def token_rank_trace(
    model: Model,
    inputs: Any,
    tokens: Any,
    layers: Any = None,
    *,
    edits: Sequence[Edit] | Edit = (),
    max_new_tokens: int = 40,
    control: str | None = "another",
    budget: int | None = None,
    progress: Progress = None,
    **generate_kwargs: Any,
) -> TokenRanks:
    """Generate, and rank given tokens by the model's own final norm and head after every layer at every step.

    `rank(token; head(norm(h_l,t)))`. Choose it to see whether what an image or a document holds fades while the text
    grows, peaks before the last layer, or stays high and unsaid; choose `logit_lens` for all tokens of a given text.

    tokens: sets by name, such as {"there": ..., "not_there": ...}; each a list of ids for all rows, or one list a row
    (which may be empty). Several tokens a word: give the first one. layers: a pattern; all resid_post without it.
    edits: in force while it generates, so that a remedy is seen where it acts. control: "another" also ranks the tokens
    of the next row's set: what is high whatever the input is (frequent words) is as high there. None, sets that are the
    same for all rows and single rows have none.
    Cost: the generation, one state a layer and step in memory, one row of the head for each afterwards, in slabs: the
    scores of a whole vocabulary are never held for all of them. `budget` bytes of scores are alive at once.
    Raises: InputError for no sets or a number of rows that does not fit; TokenError; ModelError as `logit_lens`.
    Source: Li et al. 2025, arXiv:2502.03628, section 3; the control is ours.
    """
    if control not in (None, "another"):
        raise InputError(f"control={control!r} is none of this trace; it can be 'another' or None.")
    prepared = prepare(model, inputs, side="left")
    unembed = checked_unembedding(model, _short(model, prepared))
    watch = _Newest(layer_names(model, layers))
    out = generate(model, prepared, edits, watch=watch, max_new_tokens=max_new_tokens, **generate_kwargs)
    states = torch.stack(watch.seen, 2)  # [layer, batch, step, d]
    n_layers, rows, steps = states.shape[:3]
    inputs_rows = rows if prepared.tokens is None else len(prepared.tokens)
    sets = _sets(tokens, inputs_rows, unembed.n_vocab)
    repeat = rows // inputs_rows
    sets = {n: [ids for ids in per_row for _ in range(repeat)] for n, per_row in sets.items()}
    others = {} if control is None or inputs_rows < 2 else _others(sets, repeat)
    table = _table([*sets.values(), *others.values()], rows)
    mask = _live(model, out.tokens.cpu())
    real = mask.reshape(-1)
    tell(progress, "ranking tokens", None)
    found = read_vocabulary(
        unembed,
        states.reshape(n_layers, rows * steps, -1)[:, real.to(states.device)],
        tokens=table.clamp(min=0).repeat_interleave(steps, 0)[real],
        budget=budget,
        progress=progress,
    )
    gone = (table < 0).repeat_interleave(steps, 0)
    rank, log_prob = (_wide(x, real, gone, (rows, steps)) for x in (found.rank, found.asked))
    cut, start = {}, 0
    for kind, group in (("own", sets), ("other", others)):
        for name, per_row in group.items():
            stop = start + max(1, *map(len, per_row))
            cut[kind, name] = slice(start, stop)
            start = stop
    return TokenRanks(
        watch.names,
        {n: rank[..., cut["own", n]] for n in sets},
        {n: log_prob[..., cut["own", n]] for n in sets},
        {n: rank[..., cut["other", n]] for n in others} or None,
        out.tokens.cpu(),
        mask,
        tuple(out.text),
        unembed.n_vocab,
        unembed.how,
    )


class _Newest:
    """Watches a generation and keeps, of every forward, the newest column's state at each site."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.sites: Sequence[str] = names
        self.names = names
        self.seen: list[Tensor] = []

    def begin(self, sites: tuple[str, ...]) -> None:
        self.names, self.seen = sites, []

    def keep(self, x: Tensor, step: Step) -> Tensor:
        return x[:, -1]

    def see(self, values: Sequence[Tensor], step: Step, live: Bool[Tensor, "batch pos"]) -> None:
        self.seen.append(torch.stack(list(values)))


def _short(model: Model, prepared: Inputs) -> Any:
    """A few plain tokens to check the head on: the images of a large batch need not be read for that."""
    if prepared.tokens is None or prepared.mask is None:
        return prepared
    marks = [v for n in ("image_token_id", "image_token_index") if isinstance(v := getattr(model.config, n, None), int)]
    row = prepared.tokens[0][prepared.mask[0].bool()]
    row = row[~torch.isin(row, torch.tensor(marks, device=row.device))] if marks else row
    return {"input_ids": row[:12][None]} if len(row) else prepared


def _sets(tokens: Any, rows: int, n_vocab: int) -> dict[str, list[list[int]]]:
    if not isinstance(tokens, Mapping) or not tokens:
        raise InputError("tokens is a mapping from names to sets of ids, one set at least: {'there': [[5, 9], [7]]}.")
    found: dict[str, list[list[int]]] = {}
    for name, asked in tokens.items():
        given: list[Any] = [g.tolist() if isinstance(g, Tensor) else g for g in asked]
        shared = all(isinstance(i, int) for i in given)
        per_row = [[int(i) for i in given]] * rows if shared else [[int(i) for i in g] for g in given]
        if len(per_row) != rows:
            raise InputError(f"the set {name!r} has {len(per_row)} rows, the inputs have {rows}.")
        if not any(per_row):
            raise InputError(f"the set {name!r} is empty in every row: there is nothing to rank.")
        wrong = [i for ids in per_row for i in ids if not 0 <= i < n_vocab]
        if wrong:
            raise TokenError(f"the set {name!r} has token {wrong[0]}; ids go from 0 to {n_vocab - 1}.")
        found[str(name)] = per_row
    return found


def _others(sets: dict[str, list[list[int]]], repeat: int) -> dict[str, list[list[int]]]:
    """For every row the tokens of the next one's set that are in none of its own."""
    found = {}
    for name, per_row in sets.items():
        n = len(per_row)
        own = [{i for of in sets.values() for i in of[row]} for row in range(n)]
        other = [[i for i in per_row[(row + repeat) % n] if i not in own[row]] for row in range(n)]
        if any(other):
            found[name] = other
    return found


def _table(groups: list[list[list[int]]], rows: int) -> Int[Tensor, "batch k"]:
    """Ids of all sets side by side; -1 where a row has fewer."""
    parts = []
    for per_row in groups:
        width = max(1, *map(len, per_row))
        parts.append(torch.tensor([ids + [-1] * (width - len(ids)) for ids in per_row]))
    return torch.cat(parts, 1)


def _live(model: Model, new: Int[Tensor, "batch step"]) -> Bool[Tensor, "batch step"]:
    """Which new tokens were chosen before their row had ended."""
    eos = model.module.generation_config.eos_token_id
    if eos is None:
        return torch.ones_like(new, dtype=torch.bool)
    ended = torch.isin(new, torch.as_tensor(eos).reshape(-1))
    return ended.long().cumsum(1) - ended.long() == 0


def _wide(x: Tensor, real: Tensor, gone: Tensor, shape: tuple[int, int]) -> Float[Tensor, "layer batch step _"]:
    wide = torch.full((x.shape[0], *gone.shape), torch.nan)
    wide[:, real] = x.float()
    return wide.masked_fill(gone, torch.nan).unflatten(1, shape)
