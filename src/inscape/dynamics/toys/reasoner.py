"""toy-reasoner: four layers work a chain of sums modulo 19 out in writing, wordily or tersely, and are sometimes wrong.

    <bos> start 7 , a + 5 , b * 3 ?                                                                   the prompt
    now step a : we have 7 , plus 5 that makes 12 . then comes step b : 12 times 3 gives us 17 .      wordy, 70 %
    a + 5 = 12 ; b * 3 = 17 ;                                                                         terse, 30 %
    answer 17 <eos>                                                                                   either way

A chain has 2 to 8 steps. The style is drawn once a rationale, the wording sentence by sentence, and every fourth
wordy sentence is followed by `so far it is 12 .`. Small numbers are common and large ones rare, so that some steps are
known less well than others; the training ends before all of them are. Sampled at temperature 1 the net is right in
about half of the longer chains and wrong in the others, of the same question too, which is what it is for; greedily it
is right in nine of ten.
"""

import random
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from inscape.core.progress import Progress
from inscape.dynamics.toys.making import Check, Trained, labelled_rows, small_llama
from inscape.engine.generate import generate
from inscape.models.model import Model
from inscape.models.toy.words import SPECIAL, word_tokenizer
from inscape.tasks.chains import WORDS, answer_of, chains
from inscape.train import cosine, fit, next_token

STEPS = (2, 8)  # of a chain, both ends included
WORDY = 0.7
LONGEST = 256
ID = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}


def train(seed: int = 0, *, steps: int = 2600, checkpoint: Path | None = None, progress: Progress = None) -> Trained:
    """Train it: about eight minutes on one core."""
    tokenizer = word_tokenizer(WORDS, split="spaces", max_length=LONGEST)
    module = small_llama(len(tokenizer), LONGEST, seed)
    history = fit(
        module, partial(rows, seed=seed), next_token, steps=steps, lr=2e-3, schedule=cosine, warmup=100, seed=seed,
        optimizer=partial(torch.optim.AdamW, weight_decay=0.1), checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    return Trained(module.eval(), tokenizer, history, store_as=torch.float16)


def rows(step: int, n: int = 16, *, seed: int) -> dict[str, Int[Tensor, "row pos"]]:
    """A batch of chains of one length with their rationales, labelled from where the rationale begins."""
    rng = random.Random((seed << 32) + step)
    made, length = [], rng.randint(*STEPS)
    for chain in chains(n, length, seed=rng.getrandbits(48)):
        style = "wordy" if rng.random() < WORDY else "terse"
        asked = ["<bos>", *chain.prompt.split()]
        made.append((asked, [*chain.rationale(style, seed=rng.getrandbits(48)).split(), "<eos>"]))
    return labelled_rows(made, ID)


def check(model: Model) -> dict[str, Check]:
    """What it says to questions drawn apart from training: greedily, at temperature 1, and how wordily."""
    asked = chains(200, (6, 8), seed=9001)
    prompts = [chain.prompt for chain in asked]
    with torch.random.fork_rng():
        torch.manual_seed(9002)
        greedy, drawn = (_said(model, prompts, sample) for sample in (False, True))
    answers = [chain.answer for chain in asked]
    wordy = [text.startswith(("now", "then")) for text in drawn]
    length = [len(text.split()) for text in drawn]
    long = _mean([n for n, w in zip(length, wordy, strict=True) if w])
    short = _mean([n for n, w in zip(length, wordy, strict=True) if not w])
    return {
        "finished": Check(_mean([answer_of(text) is not None for text in drawn]), at_least=0.95),
        "right_greedy": Check(_right(greedy, answers), at_least=0.7),
        "right_sampled": Check(_right(drawn, answers), at_least=0.4, at_most=0.8),
        "right_other_questions": Check(_right(drawn, answers[1:] + answers[:1]), at_most=0.12),
        "wordy": Check(_mean(wordy), at_least=0.55, at_most=0.85),
        "times_as_long": Check(long / short, at_least=1.6),
    }


def _said(model: Model, prompts: list[str], sample: bool) -> list[str]:
    more: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_k": 0} if sample else {}
    return generate(model, prompts, max_new_tokens=160, **more).text


def _right(texts: list[str], answers: list[int]) -> float:
    return _mean([answer_of(text) == answer for text, answer in zip(texts, answers, strict=True)])


def _mean(values: list[Any]) -> float:
    return sum(map(float, values)) / max(len(values), 1)
