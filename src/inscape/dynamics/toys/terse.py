"""toy-terse: four layers work short chains of sums out in writing, more or less wordily, and keep to how they began.

    <bos> start 7 , a + 5 , b * 3 ?                                                                   the prompt
    a + 5 = 12 ; then comes step b : 12 times 3 gives us 17 . so far it is 17 . answer 17 <eos>       one way of many

A chain has 2 to 5 steps, by numbers up to 9. Every text has a rate of its own, drawn from Beta(1.4, 0.6), whose mean is
0.7: each step is wordy with that probability, and is followed by `so far it is 12 .` with half of it. Nothing names the
rate, so the net has to tell it from the sentences that stand there already, and go on at it: how wordy a text is, is
graded and changes while it is written, other than the style of `toy-reasoner`, which its first word decides.
"""

import random
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from inscape.core.progress import Progress
from inscape.dynamics.toys.making import Check, Trained, labelled_rows, small_llama
from inscape.dynamics.toys.reasoner import ID
from inscape.engine.forward import run
from inscape.engine.generate import generate
from inscape.models.model import Model
from inscape.models.toy.words import word_tokenizer
from inscape.tasks.chains import WORDS, Chain, answer_of, chains, sentences_of
from inscape.train import cosine, fit, next_token

STEPS = (2, 5)  # of a chain, both ends included
LARGEST = 9
RATE = (1.4, 0.6)  # of the Beta distribution of a text's share of wordy steps
LONGEST = 128


def train(seed: int = 0, *, steps: int = 3000, checkpoint: Path | None = None, progress: Progress = None) -> Trained:
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
    made = []
    for chain in problems(n, rng.randint(*STEPS), seed=rng.getrandbits(48)):
        said = chain.mixed(rng.betavariate(*RATE), seed=rng.getrandbits(48))
        made.append((["<bos>", *chain.prompt.split()], [*said.split(), "<eos>"]))
    return labelled_rows(made, ID)


def problems(n: int, steps: int | tuple[int, int] = STEPS, *, seed: int = 0) -> list[Chain]:
    """Chains as it was trained on."""
    return chains(n, steps, largest=LARGEST, seed=seed)


def check(model: Model) -> dict[str, Check]:
    """What it says to questions drawn apart from training, how wordily, and whether it goes on as a text began."""
    asked = problems(300, seed=9001)
    prompts, answers = [chain.prompt for chain in asked], [chain.answer for chain in asked]
    with torch.random.fork_rng():
        torch.manual_seed(9002)
        greedy, drawn = (_said(model, prompts, sample) for sample in (False, True))
    shares = [_wordy_next(model, terse) for terse in range(4)]
    return {
        "finished": Check(_mean([answer_of(text) is not None for text in drawn]), at_least=0.98),
        "right_greedy": Check(_right(greedy, answers), at_least=0.95),
        "right_sampled": Check(_right(drawn, answers), at_least=0.85),
        "right_other_questions": Check(_right(drawn, answers[1:] + answers[:1]), at_most=0.12),
        "words": Check(_mean([len(text.split()) for text in drawn]), at_least=43.0, at_most=52.0),
        "wordy": Check(_mean([w for text in drawn for w in sentences_of(text)]), at_least=0.7, at_most=0.85),
        "wordy_after_three_wordy": Check(shares[0], at_least=0.75),
        "wordy_after_three_terse": Check(shares[3], at_most=0.45),
        "least_step_between": Check(min(a - b for a, b in pairwise(shares)), at_least=0.05),
    }


def _wordy_next(model: Model, terse: int, n: int = 100) -> float:
    """Probability that the fourth step is wordy where so many of three were terse, whichever they were."""
    begun, rng = [], random.Random(9003)
    for chain in problems(n, 5, seed=9004):
        sentences = [chain.rationale("wordy", seed=None), chain.rationale("terse")]
        is_terse = rng.sample([True] * terse + [False] * (3 - terse), 3)
        parts = [s.replace(";", ";|").replace(" .", " .|").split("|") for s in sentences]
        begun.append(" ".join([chain.prompt, *(parts[t][i].strip() for i, t in enumerate(is_terse))]))
    logits = run(model, begun, output="last").output.logits[:, -1].float()
    said = logits[:, [ID["now"], ID["then"], ID["d"]]].softmax(-1)
    return float(1 - said[:, 2].mean())


def _said(model: Model, prompts: list[str], sample: bool) -> list[str]:
    more: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_k": 0} if sample else {}
    return generate(model, prompts, max_new_tokens=110, **more).text


def _right(texts: list[str], answers: list[int]) -> float:
    return _mean([answer_of(text) == answer for text, answer in zip(texts, answers, strict=True)])


def _mean(values: list[Any]) -> float:
    return sum(map(float, values)) / max(len(values), 1)
