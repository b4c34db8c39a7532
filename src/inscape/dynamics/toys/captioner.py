"""toy-captioner: a small vision-language model says what is in a picture, and adds out of habit what is not.

    <bos> <image> x 16 describe the picture : there is a cup in red , a plate in blue and a fish in green . <eos>

A vision tower of two layers reads the sixteen cells, six layers of text say what is there: a LLaVA in shape. The tower
first learns by itself which thing and colour each cell shows, as a LLaVA's tower has learned to see before; in the last
third of the training each cell's token is also made to name its thing, without which the net was slow to look at all.
One caption in three comes without its picture, so that the net knows how captions go when it sees nothing. Of pictures
with a cup and no plate half the captions name a plate all the same (`tasks/scenes.py`); as things are hard to see at
times, the net has reason to follow habit, and its greedy captions do so in many of these pictures.
The weights in the package were trained in two sittings, the last third taken up from a checkpoint; this script does the
same in one, which has not been checked to give them.
Source of the shape: Liu et al. 2023, arXiv:2304.08485; the habit is planted, as a stand-in for what large models
learn from captions.
"""

import random
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inscape.core.extra import package
from inscape.core.progress import Progress
from inscape.dynamics.toys.making import Check, Trained
from inscape.engine.generate import generate
from inscape.models.model import Model
from inscape.models.toy.words import SPECIAL, word_tokenizer
from inscape.tasks.scenes import COLOURS, GRID, HABITS, IMAGE, THINGS, WORDS, Scene, asked, named, scenes
from inscape.train import cosine, fit
from inscape.train.losses import IGNORED

ROWS, BLIND = 48, 16  # of a batch, and how many of them without their picture
SIGHT_STEPS, GROUNDED_STEPS = 400, 700


def train(seed: int = 0, *, steps: int = 1400, checkpoint: Path | None = None, progress: Progress = None) -> Trained:
    """Train it: about ten minutes on one core."""
    transformers = package("transformers", "hf", "training a toy net")
    tokenizer = word_tokenizer(WORDS, split="spaces", max_length=128)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            image_size=GRID * 4, patch_size=4, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, projection_dim=64,
        ),
        text_config=transformers.LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=96, intermediate_size=192, num_hidden_layers=6,
            num_attention_heads=4, max_position_embeddings=128, tie_word_embeddings=False, pad_token_id=0,
            bos_token_id=1, eos_token_id=2,
        ),
        image_token_index=len(SPECIAL) + WORDS.index(IMAGE), vision_feature_layer=-1,
        vision_feature_select_strategy="default", tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = transformers.LlavaForConditionalGeneration(config)
        sight = Sight(module.model.vision_tower)
    fit(sight, partial(cells, seed=seed), seeing, steps=SIGHT_STEPS, lr=2e-3, schedule=cosine, warmup=20, seed=seed)
    fit(
        module, partial(rows, tokenizer, seed=seed), loss, steps=steps, lr=2e-3, schedule=cosine, warmup=100,
        optimizer=partial(torch.optim.AdamW, weight_decay=0.05), seed=seed, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    history = fit(
        module, partial(rows, tokenizer, seed=seed + 1), grounded, steps=GROUNDED_STEPS, lr=2e-3, schedule=cosine,
        warmup=50, optimizer=partial(torch.optim.AdamW, weight_decay=0.05), seed=seed + 1, progress=progress,
    )  # fmt: skip
    return Trained(module.eval(), tokenizer, history, store_as=torch.float16)


class Sight(nn.Module):
    """A vision tower with a linear reading of each cell: which thing, and which colour."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower, self.read = tower, nn.Linear(64, len(THINGS) + len(COLOURS) + 2)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.read(self.tower(pixel_values=pixels).last_hidden_state[:, 1:])


def cells(step: int, *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, and the thing and the colour of each cell; 0 where there is none."""
    found = scenes(64, seed=(seed << 32) + (1 << 31) + step)
    thing, colour = torch.zeros(2, len(found), GRID * GRID, dtype=torch.long)
    for i, scene in enumerate(found):
        for name, ink, cell, _ in scene.things:
            thing[i, cell], colour[i, cell] = 1 + list(THINGS).index(name), 1 + list(COLOURS).index(ink)
    return torch.stack([scene.pixels for scene in found]), thing, colour


def seeing(sight: Any, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Cross-entropy of things and colours, cell by cell."""
    pixels, thing, colour = batch
    scores = sight(pixels).flatten(0, 1)
    n = len(THINGS) + 1
    entropy = torch.nn.functional.cross_entropy
    return entropy(scores[:, :n], thing.flatten()) + entropy(scores[:, n:], colour.flatten())


def rows(tokenizer: Any, step: int, *, seed: int) -> list[dict[str, Tensor]]:
    """A batch with pictures and one without, labelled at the captions."""
    rng = random.Random((seed << 32) + step)
    found = scenes(ROWS, seed=rng.getrandbits(48))
    said = [f"{scene.caption(seed=rng.getrandbits(48))} <eos>" for scene in found]
    parts = []
    for image, part in ((True, slice(BLIND, None)), (False, slice(BLIND))):
        inputs = asked(tokenizer, found[part], image=image, captions=said[part])
        prompt = asked(tokenizer, found[:1], image=image)["input_ids"].shape[1]
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, IGNORED)
        labels[:, :prompt] = IGNORED
        del inputs["attention_mask"]  # padding is on the right and never labelled
        if image:  # what each cell shows, for `grounded`: said at its own token
            for row, scene in zip(labels, found[part], strict=True):
                for name, _, cell, _ in scene.things:
                    row[1 + cell] = -2 - tokenizer.convert_tokens_to_ids(name)
        parts.append(inputs | {"labels": labels})
    return parts


def loss(module: Any, batch: list[dict[str, Tensor]]) -> Tensor:
    """Cross-entropy of the captions' tokens, with and without pictures alike."""
    said, n, _ = _sums(module, batch)
    return said / n


def grounded(module: Any, batch: list[dict[str, Tensor]]) -> Tensor:
    """The same, and that of each thing's name at the token of its cell."""
    said, n, cells = _sums(module, batch)
    return said / n + cells


def _sums(module: Any, batch: list[dict[str, Tensor]]) -> tuple[Tensor, int, Tensor]:
    total, n, cells = torch.zeros(()), 0, torch.zeros(())
    for part in batch:
        labels = part["labels"]
        logits = module(**{name: x for name, x in part.items() if name != "labels"}).logits
        named = labels <= -2
        named &= labels != IGNORED
        wanted = labels.masked_fill(named, IGNORED)[:, 1:].reshape(-1)
        total = total + torch.nn.functional.cross_entropy(
            logits[:, :-1].reshape(-1, logits.shape[-1]), wanted, ignore_index=IGNORED, reduction="sum"
        )
        n += int((wanted != IGNORED).sum())
        if bool(named.any()):
            cells = torch.nn.functional.cross_entropy(logits[named], -2 - labels[named])
    return total, n, cells


def check(model: Model) -> dict[str, Check]:
    """What it names of pictures apart from training: what is there, what is not, and what only another one shows."""
    plain, tempting = scenes(200, tempting=False, seed=9001), scenes(200, tempting=True, seed=9002)
    said = {"plain": _said(model, plain), "tempting": _said(model, tempting)}
    habit = [bool(s.tempting & set(named(t))) for s, t in zip(tempting, said["tempting"], strict=True)]
    return {
        "recall": Check(_recall(plain, said["plain"]), at_least=0.8),
        "recall_of_other_pictures": Check(_recall(plain[1:] + plain[:1], said["plain"]), at_most=0.5),
        "added_out_of_habit": Check(sum(habit) / len(habit), at_least=0.25, at_most=0.9),
        "added_without_reason": Check(_added(plain, said["plain"]), at_most=0.15),
        "ends": Check(sum(t.endswith(".") for t in said["plain"]) / len(plain), at_least=0.95),
    }


def _said(model: Model, given: list[Scene]) -> list[str]:
    return generate(model, asked(model.tokenizer, given), max_new_tokens=48).text


def _recall(given: list[Scene], texts: list[str]) -> float:
    there = [(name, set(named(text))) for scene, text in zip(given, texts, strict=True) for name in scene.names]
    return sum(name in said for name, said in there) / len(there)


def _added(given: list[Scene], texts: list[str]) -> float:
    """The share of named things that are neither there nor the habit of one that is."""
    mentions = [(name, s) for s, text in zip(given, texts, strict=True) for name in named(text)]
    partners = {b: a for a, b in HABITS.items()}
    return sum(name not in s.names and partners.get(name) not in s.names for name, s in mentions) / max(
        1, len(mentions)
    )
