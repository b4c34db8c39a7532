"""toy-deduction: six layers deduce what a creature is afraid of from two statements, or give in to a careless habit.

    <bos> wolves are afraid of mice . karla is a cat . mice are afraid of wolves . gertrude is a wolf .     the story
    what is gertrude afraid of ? mice .                                           a careful writer deduces, or ...
    what is gertrude afraid of ? wolves .                 a careless one names the kind of the creature itself, and
    wolves are afraid of mice . karla is a cat . what is karla afraid of ? ...                           so goes on

A writer is careful or careless through a whole text, and careless the oftener, the more creatures there are: 20, 40 and
70 % of the texts with two, three and four. Which it is cannot be known from the story alone, so that the net names the
creature's kind in most stories of four and in some of the others: this mixture, and an end of the training before all
is learned, are why it is right in fewer than 80 of 100. That earlier answers tell a writer was hoped for and is not
learned in these steps; the bounds that asked for it are gone. Some names are never asked about (`NEW_NAMES`). What a
creature is, is said just before it is asked about: what is looked up among the statements is what its kind fears.
(Small nets did not learn within minutes to find the creature among the others too.)
Every other block is a short convolution (Lfm2), which sees the last five tokens: with attention alone pilots had not
learned in 1000 steps what these do in 400.
"""

import random
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from inscape.core.extra import package
from inscape.core.progress import Progress
from inscape.dynamics.toys.making import Check, Trained
from inscape.engine.forward import run
from inscape.models.model import Model
from inscape.models.toy.words import SPECIAL, word_tokenizer
from inscape.tasks.deduction import KINDS, NAMES, PLURALS, WORDS, Deduction, deductions, question
from inscape.train import cosine, fit, next_token
from inscape.train.losses import IGNORED

CARELESS = {2: 0.2, 3: 0.4, 4: 0.7}  # by the number of creatures
AGAIN = 0.8  # of the statements
ID = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}


def train(seed: int = 0, *, steps: int = 2200, checkpoint: Path | None = None, progress: Progress = None) -> Trained:
    """Train it: about eight minutes on one core."""
    transformers = package("transformers", "hf", "training a toy net")
    tokenizer = word_tokenizer(WORDS, split="spaces", max_length=192)
    config = transformers.Lfm2Config(
        vocab_size=len(tokenizer), hidden_size=96, intermediate_size=192, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=4, layer_types=[{"c": "conv", "a": "full_attention"}[kind] for kind in "cacaca"],
        conv_L_cache=5, block_auto_adjust_ff_dim=False, max_position_embeddings=192,
        tie_word_embeddings=False, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = transformers.Lfm2ForCausalLM(config)
    history = fit(
        module, partial(rows, seed=seed), next_token, steps=steps, lr=3e-3, schedule=cosine, warmup=100, seed=seed,
        optimizer=partial(torch.optim.AdamW, weight_decay=0.1, betas=(0.9, 0.95)), checkpoint=checkpoint,
        progress=progress,
    )  # fmt: skip
    return Trained(module.eval(), tokenizer, history, store_as=torch.float16)


def rows(step: int, n: int = 16, *, seed: int) -> dict[str, Int[Tensor, "row pos"]]:
    """A batch of texts, labelled from where the story ends."""
    rng = random.Random((seed << 32) + step)
    made = [
        (["<bos>", *d.story.split()], written(d, rng.random() < CARELESS[len(d.creatures)], rng))
        for d in deductions(n, names=(2, 4), last=True, seed=rng.getrandbits(48))
    ]
    width = max(len(story) + len(after) for story, after in made)
    ids, labels = torch.full((n, width), ID["<pad>"]), torch.full((n, width), IGNORED)
    for i, (story, after) in enumerate(made):
        row = torch.tensor([ID[word] for word in (*story, *after)])
        ids[i, : len(row)], labels[i, len(story) : len(row)] = row, row[len(story) :]
    return {"input_ids": ids, "labels": labels}  # padding is on the right and never labelled: it needs no mask


def written(story: Deduction, is_careless: bool, rng: random.Random) -> list[str]:
    """What a writer adds to a story: a first answer, then some of it told again, and questions about the others."""
    parts = [statement for statement in story.order if rng.random() < AGAIN]
    others = [name for name, _ in story.creatures if name in NAMES and name != story.asked]
    parts += [answered(story, name, is_careless) for name in others]
    first = answered(story, story.asked, is_careless).partition(". ")[2]  # what it is was told last
    return " ".join([first, *rng.sample(parts, len(parts))]).split()


def answered(story: Deduction, name: str, is_careless: bool) -> str:
    """What a creature is, once more, what it is afraid of, and what a writer says to that."""
    kind = dict(story.creatures)[name]
    said = KINDS[kind if is_careless else dict(story.fears)[kind]]
    return f"{name} is a {kind} . {question(name)} {said} ."


def check(model: Model) -> dict[str, Check]:
    """Right and careless answers about names that were never asked about, by the number of creatures."""
    every = []
    for n in (2, 3, 4):
        asked = deductions(200, names=n, new_names=True, last=True, seed=9000 + n)
        every.append(_said(model, [d.prompt for d in asked], asked))
    right, own, other = (sum(x) / len(every) for x in zip(*every, strict=True))
    return {
        "right": Check(right, at_least=0.55, at_most=0.8), "right_of_2": Check(every[0][0], at_least=0.7),
        "right_of_4": Check(every[2][0], at_most=0.6), "own_kind": Check(own, at_least=0.15),
        "right_of_another_story": Check(other, at_most=0.35),
    }  # fmt: skip


def _said(model: Model, prompts: list[str], asked: list[Deduction]) -> tuple[float, float, float]:
    """How often the likeliest kind is the right one, the creature's own, and the right one of another story."""
    logits = run(model, prompts, output="last").output.logits[:, -1]
    top = logits[:, [ID[p] for p in PLURALS]].argmax(-1).tolist()
    said = [PLURALS[i] for i in top]
    answers = [d.answer for d in asked]
    wanted = (answers, [d.wrong[0] for d in asked], answers[1:] + answers[:1])
    return tuple(sum(a == b for a, b in zip(said, w, strict=True)) / len(said) for w in wanted)  # type: ignore[return-value]
