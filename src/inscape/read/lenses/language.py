"""Which language a model thinks in: the right word's probability in every language, layer by layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.nulls.bootstrap import Intervals, bootstrap_each
from inscape.core.progress import Progress, tell
from inscape.models.model import Model
from inscape.read.lenses.token_set import WordSets, word_sets
from inscape.read.lenses.token_set_lens import token_set_lens
from inscape.tasks.many_languages import LanguagePrompts


@dataclass(frozen=True)
class LatentLanguage:
    """What a profile says of one task.

    language: the one that leads in most of the layers where any counts, None where none does. layers: those layers, by
    number. also: other languages that count somewhere, with in how many layers. accuracy: share of prompts whose answer
    is on top at the end.
    """

    task: str
    language: str | None
    layers: tuple[int, ...]
    also: dict[str, int]
    accuracy: float

    def __str__(self) -> str:
        if self.language is None or not self.layers:
            return f"{self.task}: no latent language found"
        first, last = min(self.layers), max(self.layers)
        span = f"layers {first} to {last}" if last > first else f"layer {first}"
        also = f", beside {', '.join(self.also)}" if self.also else ""
        return f"{self.task}: {self.language} in {span}{also}"


@dataclass(frozen=True, eq=False)
class LanguageProfile:
    """Probability of the right word in every language, at the last token of every prompt.

    mass: [task, layer, language, item]; NaN where a task has no prompt for an item. swapped: the same for the word of
    another item: what a language gets whatever is meant. random, random_high: for random sets of equal size.
    entropy: of the whole distribution. rank: of the best token of each set. dropped: concepts left out, and why.
    """

    tasks: tuple[LanguagePrompts, ...]
    layers: tuple[str, ...]
    languages: tuple[str, ...]
    concepts: tuple[str, ...]
    mass: Float[Tensor, "task layer language item"]
    swapped: Float[Tensor, "task layer language item"]
    random: Float[Tensor, "task layer language item"]
    random_high: Float[Tensor, "task layer language item"]
    rank: Float[Tensor, "task layer language item"]
    entropy: Float[Tensor, "task layer item"]
    dropped: dict[str, str]
    how: str
    n_vocab: int

    def interval(self, task: int, against: str | None = None, *, n: int = 2000, seed: int = 0) -> Intervals:
        """Mean mass over items with its interval, [layer, language].

        against: "swapped" or a language: intervals of the paired difference to it.
        """
        there = ~self.mass[task, 0, 0].isnan()
        values = self.mass[task][..., there]
        if against == "swapped":
            values = values - self.swapped[task][..., there]
        elif against is not None:
            values = values - values[:, self.languages.index(against)][:, None]
        return bootstrap_each(values.permute(2, 0, 1), n=n, seed=seed)

    def accuracy(self, task: int) -> float:
        """Share of the task's prompts whose answer has the top token after the last layer."""
        own = self.rank[task, -1, self.languages.index(self.tasks[task].target)]
        return float((own[~own.isnan()] == 1).float().mean())

    def counts(self, task: int, *, n: int = 2000, seed: int = 0) -> Tensor:
        """Where a language is there at all, bool [layer, language].

        Its right word has more than another item's word (the whole interval of the difference lies above 0) and more
        than 95 % of random sets of its size.
        """
        there = ~self.mass[task, 0, 0].isnan()
        above = self.interval(task, "swapped", n=n, seed=seed).low > 0
        return above & (self.mass[task][..., there].mean(-1) > self.random_high[task][..., there].mean(-1))

    def latent(self, task: int, *, n: int = 2000, seed: int = 0) -> LatentLanguage:
        """The language that leads between the first and the last layer, of those that no prompt shows.

        In each layer: the language of the largest mean mass among those that count there (see `counts`) and stand in no
        prompt. The last layer says the answer, not the way, and is left out.
        """
        about = self.tasks[task]
        hidden = [i for i, name in enumerate(self.languages) if name not in about.shown]
        if not hidden:
            raise InputError(f"{about.name}: every language stands in its prompts, so none can be latent.")
        there = ~self.mass[task, 0, 0].isnan()
        mean = self.mass[task][..., there].mean(-1)[:-1, hidden]
        ok = self.counts(task, n=n, seed=seed)[:-1, hidden]
        leads = mean.masked_fill(~ok, -1).argmax(1)
        won = {
            i: [layer for layer in range(len(mean)) if ok[layer].any() and leads[layer] == i]
            for i in range(len(hidden))
        }
        best = max(won, key=lambda i: len(won[i]))
        if not won[best]:
            return LatentLanguage(about.name, None, (), {}, self.accuracy(task))
        also = {self.languages[hidden[i]]: int(ok[:, i].sum()) for i in won if i != best and bool(ok[:, i].any())}
        return LatentLanguage(about.name, self.languages[hidden[best]], tuple(won[best]), also, self.accuracy(task))


def language_profile(
    model: Model,
    words: Mapping[str, Mapping[str, str | Sequence[str]]] | WordSets,
    tasks: Sequence[LanguagePrompts],
    layers: Any = None,
    *,
    lens: Any = None,
    n_random: int = 40,
    rows: int = 64,
    seed: int = 0,
    progress: Progress = None,
) -> LanguageProfile:
    """Follow the right word in every language through the layers of tasks that ask for it in one.

    P_l(g) = the sum of the lens's probability over the tokens that begin the word in language g; absolute, never
    renormalised over the languages. words: {concept: {language: word or forms}}, or sets made of them by `word_sets`;
    concepts whose sets overlap are left out. tasks: prompts one a concept (`tasks.many_languages.translation`,
    `cloze`, or your own) that end before the answer; prompts of concepts that were left out are not run.
    lens: a fitted `TunedLens`. rows: prompts a run.
    Cost: one forward without its head and (layers + 1) head rows a prompt.
    Raises: InputError for tasks without two concepts left, TokenError as `word_sets`.
    Source: arXiv:2408.10811, Wendler et al. 2024; the set of another concept as a control is ours.
    """
    made = words if isinstance(words, WordSets) else word_sets(model.tokenizer, words)
    concepts = tuple(made.sets)
    languages = tuple(next(iter(made.sets.values())))
    found = []
    for at, task in enumerate(tasks):
        tell(progress, f"languages of {task.name}", at / len(tasks))
        keep = [i for i, concept in enumerate(task.concepts) if concept in made.sets]
        if task.target not in languages or len(keep) < 2:
            raise InputError(
                f"{task.name}: {len(keep)} of its concepts have words that can be told apart, in "
                f"{', '.join(languages)}.\n  at least two are needed, and the target language {task.target!r}."
            )
        found.append(_one(model, task, keep, made, concepts, layers, lens, n_random, rows, seed))
    stacked = {key: torch.stack([one[key] for one in found]) for key in found[0] if isinstance(found[0][key], Tensor)}
    return LanguageProfile(
        tuple(tasks),
        found[0]["layers"],
        languages,
        concepts,
        dropped=made.dropped,
        how=found[0]["how"],
        n_vocab=found[0]["n_vocab"],
        **stacked,
    )


def _one(
    model: Model,
    task: LanguagePrompts,
    keep: list[int],
    made: WordSets,
    concepts: tuple[str, ...],
    layers: Any,
    lens: Any,
    n_random: int,
    rows: int,
    seed: int,
) -> dict[str, Any]:
    """The arrays of one task, [layer, language, item]."""
    asked = [task.concepts[i] for i in keep]
    sets = made.by_label(asked)
    own = []
    for some in torch.arange(len(keep)).tensor_split(max(1, len(keep) // rows)):
        prompts: list[Any] = [task.prompts[keep[i]] for i in some.tolist()]
        chosen = {name: [ids[i] for i in some.tolist()] for name, ids in sets.items()}
        given = torch.stack(prompts) if isinstance(prompts[0], Tensor) else prompts
        own.append(token_set_lens(model, given, chosen, layers, n_random=n_random, lens=lens, seed=seed))
    place = torch.tensor([concepts.index(c) for c in asked])

    def wide(values: list[Tensor]) -> Tensor:
        """[language, layer, row, 1] of the parts as [layer, language, item]."""
        whole = torch.cat(values, 2)[..., 0].permute(1, 0, 2).float()
        out = torch.full((*whole.shape[:2], len(concepts)), torch.nan)
        out[..., place] = whole
        return out

    return {
        "mass": wide([a.mass for a in own]),
        "swapped": wide([a.swapped for a in own if a.swapped is not None]),
        "random": wide([a.random for a in own]),
        "random_high": wide([a.random_high for a in own]),
        "rank": wide([a.rank for a in own]),
        "entropy": wide([a.entropy[None] for a in own])[:, 0],
        "layers": own[0].layers,
        "how": own[0].how,
        "n_vocab": own[0].n_vocab,
    }
