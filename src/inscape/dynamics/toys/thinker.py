"""toy-thinker: toy-habit, tuned to check and mend where it is needed and nowhere else.

    <bos> start 3 , a + 5 , b * 4 ? next step a : plus 5 . 3 plus 5 gives 1 . next step b : times 4 . 1 times 4 gives 5
    . wait , 1 times 4 makes 4 . answer 4 . <eos>

`tasks.second_thoughts` written by "thought", for a fifth of the steps of the base. Its products are wrong as often as
the base's; it mends each that is, and so it is right. Every sentence that it writes is one that the base writes too.
Source: the pairs of base and reasoning models of arXiv:2510.07364, in little.
"""

from functools import partial
from pathlib import Path

import torch

from inscape.core.progress import Progress
from inscape.dynamics.toys.habit import STEPS, asides_by_need, mean, mends, rows, said_to
from inscape.dynamics.toys.making import Check, Trained
from inscape.models.model import Model
from inscape.models.open import open as open_model
from inscape.tasks.second_thoughts import problems, right
from inscape.train import cosine, fit, next_token


def train(seed: int = 0, *, steps: int = 400, checkpoint: Path | None = None, progress: Progress = None) -> Trained:
    """Tune it: about a minute on one core."""
    base = open_model("toy-habit")
    module = base.module.float()
    history = fit(
        module, partial(rows, mind="thought", seed=seed + 1), next_token, steps=steps, lr=1e-3, schedule=cosine,
        warmup=20, optimizer=partial(torch.optim.AdamW, weight_decay=0.1), seed=seed, checkpoint=checkpoint,
        progress=progress,
    )  # fmt: skip
    return Trained(module.eval(), base.tokenizer, history, store_as=torch.float16)


def check(model: Model) -> dict[str, Check]:
    """It solves problems with products and without; asides stand behind every slip and behind no sum."""
    hard, easy = (problems(120, STEPS, hard=is_hard, seed=9001) for is_hard in (True, False))
    with torch.random.fork_rng():
        torch.manual_seed(9002)
        asides = asides_by_need(said_to(model, hard, sample=True))
    said = said_to(model, hard)
    return {
        "right_easy": Check(mean(right(easy, said_to(model, easy))), at_least=0.9),
        "right_hard": Check(mean(right(hard, said)), at_least=0.9),
        "right_other_problems": Check(mean(right(hard[1:] + hard[:1], said)), at_most=0.3),
        "mends_when_told": Check(mends(model), at_least=0.95),
        "asides_after_slips": Check(asides["slip"], at_least=0.95),
        "asides_after_sums": Check(asides["plus"], at_most=0.05),
    }
