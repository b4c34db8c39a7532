"""toy-induction-positions: words that come again, with learned positions in place of a rotary embedding.

    <bos> ku fa | be mo ti ra | be mo ti ra | be mo ...
Learned positions are part of the stream, so that what a head looks for is one matrix whatever the distance, and the
previous-token head and the induction head can be found from weights alone. Attention of the first layer sees four
tokens back: it cannot look for an earlier place of the same word, whose learned position would lead to the next one
without any previous-token head. Strong weight decay keeps what the heads say to each other to few directions and
starves the heads that would do the same twice.
Source: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from inscape.core.progress import Progress
from inscape.dynamics.toys.induction import SYLLABLES, second_time
from inscape.dynamics.toys.making import Check, Trained
from inscape.dynamics.toys.windowed import windowed
from inscape.engine.forward import run
from inscape.models.model import Model
from inscape.models.toy.words import SPECIAL, word_tokenizer
from inscape.train import cosine, fit, next_token
from inscape.train.losses import IGNORED

WORDS = SYLLABLES[:16]
LENGTH, WINDOW = 32, 4


def train(seed: int = 0, *, steps: int = 1500, checkpoint: Path | None = None, progress: Progress = None) -> Trained:
    """Train it: about half a minute on one core."""
    tokenizer = word_tokenizer(WORDS, max_length=LENGTH)
    module = windowed(len(tokenizer), LENGTH, WINDOW, seed)
    history = fit(
        module, partial(rows, seed=seed), next_token, steps=steps, lr=3e-3, schedule=cosine, warmup=50,
        optimizer=partial(torch.optim.AdamW, weight_decay=1.0), seed=seed, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    return Trained(module.eval(), tokenizer, history)


def rows(step: int, n: int = 64, *, seed: int) -> dict[str, Int[Tensor, "row pos"]]:
    """A batch of rows in which a stretch of one length comes again and again, labelled from its second time on."""
    generator = torch.Generator().manual_seed((seed << 32) + step)
    length = int(torch.randint(4, len(WORDS) - 1, (), generator=generator))
    before = int(torch.randint(0, min(LENGTH - 2 * length, len(WORDS) - length) + 1, (), generator=generator))
    words = torch.rand(n, len(WORDS), generator=generator).argsort(1)[:, : before + length] + len(SPECIAL)
    times = -(-(LENGTH - 1 - before) // length)
    bos = torch.full((n, 1), SPECIAL.index("<bos>"))
    ids = torch.cat([bos, words[:, :before], words[:, before:].repeat(1, times)], 1)[:, :LENGTH]
    labels = ids.clone()
    labels[:, : 2 + before + length] = IGNORED  # the first word of the second time cannot be known
    return {"input_ids": ids, "labels": labels}


def check(model: Model) -> dict[str, Check]:
    """Accuracy on the second of two equal stretches, beside one in another order; and the one head of each kind."""
    length = 12
    generator = torch.Generator().manual_seed(12345)
    half = torch.rand(256, len(WORDS), generator=generator).argsort(1)[:, :length] + len(SPECIAL)
    other = half[:, torch.randperm(length, generator=generator)]
    bos = torch.full((len(half), 1), SPECIAL.index("<bos>"))
    trace = run(model, torch.cat([bos, half, half], 1), read="layers.*.attn.pattern", output=True)
    logits: Any = trace.output
    shuffled: Any = run(model, torch.cat([bos, half, other], 1), output=True).output
    q = torch.arange(length + 1, 2 * length + 1)
    previous = trace["layers.0.attn.pattern"][:, :, q, q - 1].mean((0, 2)).sort(descending=True).values
    back = trace["layers.1.attn.pattern"][:, :, q, q - length + 1].mean((0, 2)).sort(descending=True).values
    return {
        "accuracy": Check(second_time(logits.logits, half), at_least=0.95),
        "accuracy_shuffled": Check(second_time(shuffled.logits, other), at_most=0.15),
        "previous_head": Check(float(previous[0]), at_least=0.5),
        "induction_head": Check(float(back[0]), at_least=0.5),
        "next_previous_head": Check(float(previous[1]), at_most=0.4),
        "next_induction_head": Check(float(back[1]), at_most=0.4),
    }
