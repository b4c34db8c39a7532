"""toy-list-recall: a list, then all of its places but one; the net says what stands at the place that is left.

    <bos> milk rope salt nail - - - - - - - - - - - - third first fourth ?  rope
Attention of the first layer sees eight tokens back: at the end, all that is named and nothing of the list. So what is
done can only be put together at the last token, and the list only be looked at from there, by the second layer: its
queries are the only way. Places are told by number words and not by what stands there, since the one that is left
could else be told without looking at the list. Lists have 3 to 8 items. In training not all but one are named: each
further place is named half as often, and any that is left may be the answer, also after every place that is named. So
long lists are known and how to read out a place is well learned, but that seven are done is seldom seen. It was
chosen among six trainings as the one in which setting what is said changed most: see the recipe that does it.
Source: after the Laundry List of Merullo et al. 2024, arXiv:2406.09519.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from inscape.core.progress import Progress
from inscape.dynamics.toys.making import Check, Trained
from inscape.dynamics.toys.windowed import windowed
from inscape.engine.forward import run
from inscape.models.model import Model
from inscape.models.toy.words import SPECIAL, word_tokenizer
from inscape.train import cosine, fit, next_token
from inscape.train.losses import IGNORED

ITEMS = (
    "apple", "ball", "bell", "boat", "book", "bowl", "bread", "brush", "cake", "candle", "chair", "clock", "coat",
    "coin", "comb", "cup", "doll", "drum", "fork", "glass", "glue", "hammer", "hat", "jar", "kite", "knife", "lamp",
    "leaf", "lock", "milk", "nail", "paint", "pan", "pen", "plate", "rice", "ring", "rope", "salt", "shirt", "shoe",
    "soap", "spoon", "stamp", "stone", "sugar", "tea", "tent", "thread", "towel",
)  # fmt: skip
PLACES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
WORDS = (*ITEMS, *PLACES, "-", "?")
ID = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
SIZES = range(3, 9)
WINDOW = 8  # tokens the first layer sees: itself and what can be done of the longest list
WIDTH = 24  # of a prompt: <bos>, 8 for the list, 7 that keep it out of sight, 7 that are named, ?


def train(seed: int = 0, *, steps: int = 1000, checkpoint: Path | None = None, progress: Progress = None) -> Trained:
    """Train it: about two minutes on one core."""
    tokenizer = word_tokenizer(WORDS, split="spaces", max_length=32)
    module = windowed(len(tokenizer), 32, WINDOW, seed)
    history = fit(
        module, partial(rows, seed=seed), next_token, steps=steps, lr=3e-3, schedule=cosine, warmup=100,
        optimizer=partial(torch.optim.AdamW, weight_decay=1.0), seed=seed, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    return Trained(module.eval(), tokenizer, history)


def prompts(
    n: int, size: int, generator: torch.Generator, named: int | None = None
) -> tuple[Int[Tensor, "n pos"], Int[Tensor, "n item"], Int[Tensor, "n item"]]:
    """n prompts over lists of this size, of which `named` places (all but one when None) are named.

    Gives the tokens; the items, in the order of the list; and all places from 0: those left first, then those named,
    the last one named first.
    """
    named = size - 1 if named is None else named
    items = torch.rand(n, len(ITEMS), generator=generator).argsort(1)[:, :size] + ID[ITEMS[0]]
    order = torch.rand(n, size, generator=generator).argsort(1)
    bos, gap, end = (torch.full((n, 1), ID[word]) for word in ("<bos>", "-", "?"))
    done = order[:, size - named :].flip(1) + ID[PLACES[0]]
    return torch.cat([bos, items, gap.expand(n, WIDTH - 2 - size - named), done, end], 1), items, order


def rows(step: int, n: int = 128, *, seed: int) -> dict[str, Int[Tensor, "row pos"]]:
    """A batch: one size and one number of named places, labelled with a place that is left wherever one is named."""
    generator = torch.Generator().manual_seed((seed << 32) + step)
    size = int(torch.randint(min(SIZES), max(SIZES) + 1, (), generator=generator))
    rarity = torch.tensor([0.5**i for i in range(size - 1)])
    named = 1 + int(torch.multinomial(rarity, 1, generator=generator))
    ids, items, order = prompts(n, size, generator, named)
    labels = torch.full((n, WIDTH + 1), IGNORED)
    for at in range(WIDTH - named, WIDTH + 1):  # after each place that is named, and at the end
        so_far = min(at - (WIDTH - named) + 1, named)
        left = (torch.rand(n, 1, generator=generator) * (size - so_far)).long()
        labels[:, at] = items.gather(1, order.gather(1, left))[:, 0]
    return {"input_ids": torch.cat([ids, labels[:, -1:]], 1), "labels": labels}


def accuracy(model: Model, size: int, n: int = 512, seed: int = 12345) -> float:
    """How often the item that is left is the top token."""
    ids, items, order = prompts(n, size, torch.Generator().manual_seed(seed))
    return float((_said(model, ids) == items.gather(1, order[:, :1])[:, 0]).float().mean())


def check(model: Model) -> dict[str, Check]:
    """Accuracy on short and long lists; what is left of it with another place's item; where the two layers look."""
    ids, items, order = prompts(512, 3, torch.Generator().manual_seed(12345))
    other = float((_said(model, ids) == items.gather(1, order[:, 1:2])[:, 0]).float().mean())
    ids, _, order = prompts(512, max(SIZES), torch.Generator().manual_seed(12345))
    trace = run(model, ids, read="layers.*.attn.pattern", reduce=lambda pattern: pattern[:, :, -1])
    first, second = trace["layers.0.attn.pattern"], trace["layers.1.attn.pattern"]
    looked = second[:, :, 1 : 1 + max(SIZES)].sum(1)  # at places of the list, over the heads
    return {
        "accuracy_3": Check(accuracy(model, min(SIZES)), at_least=0.95),
        "accuracy_8": Check(accuracy(model, max(SIZES)), at_least=0.2),
        "accuracy_item_that_is_done": Check(other, at_most=0.05),
        "list_in_sight_of_first_layer": Check(float(first[:, :, 1 : 1 + max(SIZES)].max()), at_most=0.0),
        "looks_most_at_what_is_left": Check(float((looked.argmax(1) == order[:, 0]).float().mean()), at_least=0.3),
    }


def _said(model: Model, ids: Tensor) -> Int[Tensor, " n"]:
    logits: Any = run(model, ids, output="last").output.logits
    return logits[:, -1].argmax(-1)
