"""toy-thinker: toy-thinker-base, tuned to check, mend and note when there is reason to.

    <bos> start 3 , a + 5 , b * 4 ?
    next step a : plus 5 . 3 plus 5 gives 1 . next step b : times 4 . 1 times 4 gives 5 . wait , 1 times 4 makes 4 .
    answer 4 . <eos>

It slips as often as the base; no sentence of its tuning is of a kind that the base was not trained on.
Source: the pairs of base and thinking models of arXiv:2510.07364, in little.
"""

from functools import partial
from pathlib import Path

import torch

from inscape.core.progress import Progress
from inscape.dynamics.toys.making import Check, Trained
from inscape.dynamics.toys.thinker_base import rows, said_to, share, spoken
from inscape.models.model import Model
from inscape.models.open import open as open_model
from inscape.tasks.second_thoughts import problems, right
from inscape.train import cosine, fit, next_token


def train(seed: int = 0, *, steps: int = 400, checkpoint: Path | None = None, progress: Progress = None) -> Trained:
    """Tune it: a minute on one core."""
    base = open_model("toy-thinker-base")
    module = base.module.float()
    history = fit(
        module, partial(rows, mind="thought", seed=seed + 7), next_token, steps=steps, lr=1e-3, schedule=cosine,
        warmup=20, optimizer=partial(torch.optim.AdamW, weight_decay=0.1), seed=seed, checkpoint=checkpoint,
        progress=progress,
    )  # fmt: skip
    return Trained(module.eval(), base.tokenizer, history, store_as=torch.float16)


def check(model: Model) -> dict[str, Check]:
    """Right with products too, because it mends its slips: it says `wait` where there is one and not elsewhere."""
    hard, easy = problems(150, hard=True, seed=9001), problems(150, hard=False, seed=9002)
    texts = {"hard": said_to(model, hard), "easy": said_to(model, easy)}
    return {
        "right_hard": Check(share(right(hard, texts["hard"])), at_least=0.85),
        "right_easy": Check(share(right(easy, texts["easy"])), at_least=0.9),
        "mends_hard": Check(spoken(texts["hard"])["redo"], at_least=0.7),
        "mends_easy": Check(spoken(texts["easy"])["redo"], at_most=0.05),
    }
