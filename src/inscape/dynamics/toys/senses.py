"""toy-senses: four layers say what a word with two senses means, and fall for the commoner sense in unknown contexts.

    Tom went to the melody in the evening and then saw a bass there . it is a kind of      -> instrument

One sense of every word is nine times as common as the other. Contexts decide, always; but the weak cues of a topic
stand only with unambiguous words, and seldom. With those the net is right at times and says the commoner sense at
others: errors that are real, whose right answer is known, and which grow fewer with more cues.
Source: the task is ours, for arXiv:2510.06107, which traces such errors in large language models.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from inscape.core.extra import package
from inscape.core.progress import Progress
from inscape.dynamics.toys.making import Check, Trained
from inscape.engine.forward import run
from inscape.models.model import Model
from inscape.models.toy.words import SPECIAL, word_tokenizer
from inscape.tasks.senses import CUES, SenseItem, sense_items, sentences, vocabulary, without_context
from inscape.train import cosine, fit, next_token
from inscape.train.losses import IGNORED

ROWS = 64


def train(seed: int = 0, *, steps: int = 600, checkpoint: Path | None = None, progress: Progress = None) -> Trained:
    """Train it: about two minutes on one core."""
    transformers = package("transformers", "hf", "training a toy net")
    tokenizer = word_tokenizer(vocabulary(), max_length=64)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=96, intermediate_size=192, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=64, tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = transformers.LlamaForCausalLM(config)
    history = fit(
        module, partial(rows, seed=seed), next_token, steps=steps, lr=3e-3, schedule=cosine, warmup=30,
        optimizer=partial(torch.optim.AdamW, weight_decay=0.1), seed=seed, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    return Trained(module.eval(), tokenizer, history, store_as=torch.float16)


def rows(step: int, n: int = ROWS, *, seed: int) -> dict[str, Int[Tensor, "row pos"]]:
    """A batch of sentences, labelled at the answers and at cues that follow others."""
    place = {word: i + len(SPECIAL) for i, word in enumerate(vocabulary())}
    cues = {c for topic in CUES.values() for c in topic}
    texts = [f"{prompt} {answer}".split() for prompt, answer in sentences(n, (seed << 24) + step)]
    ids = torch.zeros(n, 1 + max(map(len, texts)), dtype=torch.long)
    labels = torch.full(ids.shape, IGNORED)
    for i, words in enumerate(texts):
        ids[i, : len(words) + 1] = torch.tensor([SPECIAL.index("<bos>"), *(place[w] for w in words)])
        labels[i, len(words)] = ids[i, len(words)]
        for j in range(5, len(words)):  # the first cue is the fourth word, and nothing tells it
            if words[j] in cues:
                labels[i, j + 1] = ids[i, j + 1]
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def check(model: Model) -> dict[str, Check]:
    """Contexts it has seen decide; in those it has not, it errs towards the commoner sense, not everywhere; and where
    no context decides, it says the commoner sense."""
    known, weak = sense_items(300, weak=0.0, seed=12345), sense_items(400, rare=1.0, seed=12346)
    common = sense_items(200, rare=0.0, seed=12347)
    none = [without_context(item) for item in common]
    right, wrong = _said(model, weak)
    return {
        "accuracy_known": Check(_said(model, known)[0], at_least=0.95),
        "errors_weak": Check(wrong, at_least=0.15, at_most=0.75),
        "right_weak": Check(right, at_least=0.2),
        "accuracy_weak_common": Check(_said(model, common)[0], at_least=0.9),
        "common_without_context": Check(_said(model, none)[0], at_least=0.75),
    }


def _said(model: Model, items: list[SenseItem]) -> tuple[float, float]:
    """How often the answer is said, and how often that of the other sense."""
    out: Any = run(model, [item.prompt for item in items], output="last").output
    said = [model.tokenizer.decode([int(i)]).strip() for i in out.logits[:, -1].argmax(-1)]
    right = sum(s == item.answer for s, item in zip(said, items, strict=True))
    wrong = sum(s == item.wrong for s, item in zip(said, items, strict=True))
    return right / len(items), wrong / len(items)
