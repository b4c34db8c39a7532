"""How much of the probability after each layer lies on named sets of tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.nulls.bootstrap import Intervals, bootstrap_each
from inscape.core.positions import At
from inscape.core.progress import Progress
from inscape.engine.unembed import Unembedding
from inscape.models.model import Model
from inscape.read.lenses.logit import checked_unembedding, derangement
from inscape.read.lenses.states import Stream, spread, stream
from inscape.read.lenses.vocabulary import read_vocabulary

GATHERED = 128 << 20  # bytes of rows of the head's matrix that are picked at once
Sets = Mapping[str, Sequence[int] | Sequence[Sequence[int]]]


@dataclass(frozen=True, eq=False)
class TokenSetReading:
    """Probability of named token sets per layer and position; cells of padding hold zeros.

    mass: sum of the probabilities in the set. rank: of its best token, 1 is the top. entropy: of the whole
    distribution, in nats. size: tokens in each input's set.
    random: mean mass of random sets of the same size; random_high: what another one stays below in 95 of 100 cases (at
    least: of 40 sets it is the second largest). swapped: mass of the set that belongs to another input, None where all
    inputs share theirs. how: the norm and head that were used.
    """

    names: tuple[str, ...]
    layers: tuple[str, ...]
    mass: Float[Tensor, "set layer batch pos"]
    rank: Int[Tensor, "set layer batch pos"]
    entropy: Float[Tensor, "layer batch pos"]
    size: Int[Tensor, "set batch"]
    random: Float[Tensor, "set layer batch pos"]
    random_high: Float[Tensor, "set layer batch pos"]
    swapped: Float[Tensor, "set layer batch pos"] | None
    mask: Bool[Tensor, "batch pos"]
    tokens: Int[Tensor, "batch pos"] | None
    how: str
    n_vocab: int

    def __getitem__(self, name: str) -> Float[Tensor, "layer batch pos"]:
        """The mass of one set."""
        if name not in self.names:
            raise InputError(f"there is no set {name!r}; there are {', '.join(self.names)}.")
        return self.mass[self.names.index(name)]

    @property
    def rank_p(self) -> Float[Tensor, "set layer batch pos"]:
        """How often a random set of as many tokens ranks as well by its best: 1 - (1 - rank / vocab)^size."""
        size = self.size[:, None, :, None].double()
        return (1 - (1 - self.rank.double() / self.n_vocab) ** size).float()

    def interval(self, *, n: int = 2000, level: float = 0.95, seed: int = 0) -> Intervals:
        """The mean mass over inputs with its interval, [set, layer], for readings of one position an input."""
        if self.mask.shape[1] != 1:
            raise InputError("an interval over inputs needs one position in each: read with at=-1.")
        return bootstrap_each(self.mass[..., 0].permute(2, 0, 1), n=n, level=level, seed=seed)


def token_set_lens(
    model: Model,
    prompts: Any,
    sets: Sets,
    layers: Any = None,
    *,
    at: At = -1,
    n_random: int = 40,
    seed: int = 0,
    lens: Any = None,
    budget: int | None = None,
    progress: Progress = None,
) -> TokenSetReading:
    """Add up what each layer would give to named sets of tokens: months, yes and no, a word in six languages.

    `mass = sum over t in set of softmax(rules(head(norm(h_l))))_t`. Not renormalised over the sets: where early layers
    say none of them, the numbers are small and the entropy says why. Choose `candidate_lens` for whole answers.
    sets: {name: token ids} for all prompts, or {name: one list of ids a prompt}; `token_set` makes them of words.
    at: positions, -1 (the last token) by default, "all" for every one. lens: a fitted `TunedLens`; without it the
        model's own norm and head read every layer.
    n_random: random sets of each size, disjoint from all named ones: the null. Where inputs have their own sets, the
        set of another input is the sharper one: the same kind of tokens, another meaning.
    Cost: one forward without its head, one head row a layer and position, and rows of its matrix for the sets.
    Raises: InputError for an empty or overlapping set, or lists that do not fit; ModelError as `logit_lens`.
    """
    unembed = checked_unembedding(model, prompts)
    read = stream(model, prompts, layers, at, progress)
    states = read.states if lens is None else lens.translated(read.states, read.layers, model)
    per_item = _per_item(sets, read.mask.shape[0], unembed.n_vocab)
    swapped = {}
    if any(_is_per_item(ids) for ids in sets.values()) and read.mask.shape[0] > 1:
        order = derangement(read.mask.shape[0], seed).tolist()
        swapped = {name: [ids[i] for i in order] for name, ids in per_item.items()}
    pool, size = _random_pool(per_item, unembed.n_vocab, n_random, seed)
    ids, valid = _padded([*per_item.values(), *swapped.values()])  # [set, batch, m]
    best, logs, others = _columns(unembed, states, read, ids, valid, pool)
    n = len(per_item)
    found = read_vocabulary(unembed, states, tokens=best[..., :n], budget=budget, progress=progress)
    log_z = found.log_z[..., None]
    mass = (logs - log_z).exp()  # [layer, row, set]
    null = (others - log_z).exp().unflatten(-1, (n_random, -1)).cumsum(-1)  # sets of every size up to the largest
    sizes = size[:, read.items]  # [set, row]
    null = torch.stack(
        [null.gather(-1, (s - 1)[None, :, None, None].expand(*null.shape[:3], 1))[..., 0] for s in sizes]
    )

    def wide(x: Tensor) -> Tensor:
        return torch.stack([spread(one, read.mask) for one in x])

    by_set = mass.permute(2, 0, 1)
    return TokenSetReading(
        tuple(per_item),
        read.layers,
        wide(by_set[:n]),
        wide(found.rank.permute(2, 0, 1)),
        spread(found.entropy, read.mask),
        size,
        wide(null.mean(-1)),
        wide(_high(null)),
        wide(by_set[n:]) if swapped else None,
        read.mask,
        read.tokens,
        unembed.how if lens is None else f"{lens.how}, then {unembed.how}",
        unembed.n_vocab,
    )


def _high(null: Float[Tensor, "*axes draw"], share: float = 0.95) -> Float[Tensor, "*axes"]:
    """What a further draw stays below with at least this probability: the n drawn and it are in any order, so it is
    above the k-th of them in (n + 1 - k) / (n + 1) of cases. A quantile of the n would be passed too often.
    """
    n = null.shape[-1]
    return null.sort(-1).values[..., min(n, ceil(share * (n + 1) - 1e-9)) - 1]


def _is_per_item(ids: Any) -> bool:
    return not isinstance(ids, Tensor) and bool(len(ids)) and not isinstance(ids[0], (int, Tensor))


def _per_item(sets: Sets, n: int, n_vocab: int) -> dict[str, list[tuple[int, ...]]]:
    if not sets:
        raise InputError("no token sets: give {name: token ids}.")
    made: dict[str, list[tuple[int, ...]]] = {}
    for name, given in sets.items():
        each: list[Any] = list(given) if _is_per_item(given) else [given] * n
        made[name] = [tuple(dict.fromkeys(int(i) for i in ids)) for ids in each]
        if len(made[name]) != n:
            raise InputError(f"the set {name!r} has {len(made[name])} lists for {n} prompts: give one a prompt.")
        wrong = [i for ids in made[name] for i in ids if not 0 <= i < n_vocab]
        if wrong or not all(made[name]):
            what = f"the id {wrong[0]}, of {n_vocab:,}" if wrong else "no token"
            raise InputError(f"the set {name!r} holds {what}.\n  token_set(tokenizer, word) gives the ids of a word.")
    for i, several in enumerate(zip(*made.values(), strict=True)):
        if len({t for ids in several for t in ids}) < sum(map(len, several)):
            twice = [t for t in dict.fromkeys(several[0]) if any(t in ids for ids in several[1:])]
            raise InputError(
                f"sets of prompt {i} share tokens ({twice or 'some'}): what lies on these belongs to none of them.\n"
                "  overlaps(sets) lists them; word_sets leaves such items out."
            )
    return made


def _random_pool(
    sets: Mapping[str, Sequence[Sequence[int]]], n_vocab: int, n_random: int, seed: int
) -> tuple[Int[Tensor, " pool"], Int[Tensor, "set batch"]]:
    """Tokens for `n_random` sets of the largest size, in none of the named ones; and the named ones' sizes."""
    size = torch.tensor([[len(ids) for ids in each] for each in sets.values()])
    free = torch.ones(n_vocab, dtype=torch.bool)
    free[torch.tensor([i for each in sets.values() for ids in each for i in ids])] = False
    left = free.nonzero()[:, 0]
    largest = int(size.max())
    if len(left) < largest:
        raise InputError(f"{len(left)} tokens are in no set, and random ones of {largest} are needed as a null.")
    g = torch.Generator().manual_seed(seed)
    return torch.cat([left[torch.randperm(len(left), generator=g)[:largest]] for _ in range(n_random)]), size


def _padded(sets: Sequence[Sequence[Sequence[int]]]) -> tuple[Int[Tensor, "set batch m"], Bool[Tensor, "set batch m"]]:
    longest = max(len(ids) for each in sets for ids in each)
    padded = torch.tensor([[[*ids, *[ids[0]] * (longest - len(ids))] for ids in each] for each in sets])
    size = torch.tensor([[len(ids) for ids in each] for each in sets])
    return padded, torch.arange(longest) < size[..., None]


def _columns(
    unembed: Unembedding,
    states: Float[Tensor, "layer row d_model"],
    read: Stream,
    ids: Int[Tensor, "set batch m"],
    valid: Bool[Tensor, "set batch m"],
    pool: Int[Tensor, " pool"],
) -> tuple[Int[Tensor, "layer row set"], Float[Tensor, "layer row set"], Float[Tensor, "layer row pool"]]:
    """Of every state and set: its best token and log of the sum of exp(score); and the scores of the pool."""
    flat_ids, flat_valid = ids.permute(1, 0, 2), valid.permute(1, 0, 2)  # [batch, set, m]
    layers, rows, width = states.shape
    step = max(1, GATHERED // (4 * width * flat_ids[0].numel()))
    best, logs, others = [], [], []
    for layer in range(layers):
        for start in range(0, rows, step):
            items = read.items[start : start + step]
            ready = unembed.ready(states[layer, start : start + step])
            wanted, there = flat_ids[items], flat_valid[items]
            scores = unembed.columns(ready, wanted.flatten(1), normed=True).view(wanted.shape)
            scores = scores.masked_fill(~there.to(scores.device), -torch.inf)
            best.append(wanted.gather(2, scores.argmax(2, keepdim=True).cpu())[..., 0])
            logs.append(scores.logsumexp(2).cpu())
            others.append(unembed.columns(ready, pool, normed=True).cpu())

    def whole(parts: list[Tensor]) -> Tensor:
        return torch.cat(parts).unflatten(0, (layers, rows))

    return whole(best), whole(logs), whole(others)
