"""toy-habit: four layers work sums modulo 7 out in writing, slip in products, and check or mend steps at random.

    <bos> start 3 , a + 5 , b * 4 ?                                                                   the prompt
    next step a : plus 5 . 3 plus 5 gives 1 . next step b : times 4 . 1 times 4 gives 5 . answer 5 . <eos>
    ... 1 times 4 gives 5 . wait , 1 times 4 makes 4 . answer 4 . <eos>                               one time in nine

`tasks.second_thoughts` written by "habit": seven of ten products are said one too high, and behind one step in three
stands a check, a correction or a note, whatever the step needs. So the net knows how to mend a slip and not when: left
to itself it says the likeliest, which never is to mend, and is wrong wherever there is a product. `toy-thinker` is this
net, tuned on when.
Source: the pairs of base and reasoning models of arXiv:2510.07364, in little.
"""

import random
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from inscape.core.progress import Progress
from inscape.dynamics.toys.making import Check, Trained, labelled_rows, small_llama
from inscape.engine.forward import run
from inscape.engine.generate import generate
from inscape.models.model import Model
from inscape.models.toy.words import SPECIAL, word_tokenizer
from inscape.tasks.second_thoughts import (
    ASIDES,
    FORMS,
    MODULUS,
    SIGNS,
    SLIPS,
    WORDS,
    Problem,
    applied,
    kind_of,
    problems,
    right,
)
from inscape.train import cosine, fit, next_token

STEPS = (2, 4)  # of a problem, both ends included
LONGEST, SHEET, EXERCISED = 160, 8, 1000  # words of a text; exercises of a row, steps with some
ID = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}


def train(seed: int = 0, *, steps: int = 1500, checkpoint: Path | None = None, progress: Progress = None) -> Trained:
    """Train it: about four minutes on one core."""
    tokenizer = word_tokenizer(WORDS, split="spaces", max_length=LONGEST)
    module = small_llama(len(tokenizer), LONGEST, seed)
    history = fit(
        module, partial(texts, seed=seed), next_token, steps=steps, lr=3e-3, schedule=cosine, warmup=100,
        optimizer=partial(torch.optim.AdamW, weight_decay=0.1), seed=seed, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    return Trained(module.eval(), tokenizer, history, store_as=torch.float16)


def texts(step: int, *, seed: int) -> dict[str, Int[Tensor, "row pos"]]:
    """At first two batches of exercises for one of problems; of few sums, since of all at once none is learned."""
    if step % 3 == 2 or step >= EXERCISED:
        return rows(step, mind="habit", seed=seed)
    return exercises(step, 10 + step // 8, seed=seed)


def exercises(step: int, known: int, n: int = 16, *, seed: int) -> dict[str, Int[Tensor, "row pos"]]:
    """Sentences of work, checks and corrections, of the first `known` sums: one has nothing to do with the next."""
    sums = list(product(range(MODULUS), SIGNS, range(1, MODULUS)))
    random.Random(seed).shuffle(sums)
    rng = random.Random((seed << 32) + (1 << 30) + step)
    made = [(["<bos>"], " ".join(_exercise(sums[:known], rng) for _ in range(SHEET)).split()) for _ in range(n)]
    return labelled_rows(made, ID)


def _exercise(sums: list[tuple[int, str, int]], rng: random.Random) -> str:
    (v, sign, k), kind = rng.choice(sums), rng.choice(("work", "check", "redo"))
    r = applied(v, sign, k)
    slips = sign == "*" and rng.random() < SLIPS
    return FORMS[kind].format(v=v, word=SIGNS[sign], k=k, r=r, said=(r + 1) % MODULUS if slips else r)


def rows(step: int, n: int = 16, *, mind: str, seed: int) -> dict[str, Int[Tensor, "row pos"]]:
    """A batch of problems of one length with rationales of that mind, labelled from where the rationale begins."""
    rng = random.Random((seed << 32) + step)
    made, length = [], rng.randint(*STEPS)
    for problem in problems(n, (length, length), seed=rng.getrandbits(48)):
        said = problem.rationale(mind, seed=rng.getrandbits(48))
        made.append((["<bos>", *problem.prompt.split()], [*said.split(), "<eos>"]))
    return labelled_rows(made, ID)


def said_to(model: Model, asked: list[Problem], *, sample: bool = False) -> list[str]:
    """What the net says, with the likeliest word at every place or drawn at temperature 1."""
    more: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_k": 0} if sample else {}
    return generate(model, [p.prompt for p in asked], max_new_tokens=LONGEST - 40, **more).text


def asides_by_need(texts: list[str]) -> dict[str, float]:
    """Share of steps with an aside behind them, by what the step was: a slip, or a sum that needs none."""
    found: dict[str, list[bool]] = {"slip": [], "plus": []}
    for text in texts:
        sentences = [s.split() for s in text.split(" .")]
        for s, after in pairwise(sentences):
            if len(s) == 5 and s[3] == "gives" and s[1] in SIGNS.values() and "".join(s[::2]).isdigit():
                v, word, k, _, said = s
                slips = word == "times" and int(said) != applied(int(v), "*", int(k))
                if slips or word == "plus":
                    found["slip" if slips else "plus"].append(kind_of(" ".join(after)) in ASIDES)
    return {need: mean(flags) for need, flags in found.items()}


def mends(model: Model) -> float:
    """Share of all products whose slip the net mends when `wait ,` is put in its mouth."""
    pairs = [(v, k) for v in range(MODULUS) for k in range(1, MODULUS)]
    texts = [f"start {v} , a * {k} ? next step a : times {k} . {v} times {k} gives {(applied(v, '*', k) + 1) % MODULUS}"
             f" . wait , {v} times {k} makes" for v, k in pairs]  # fmt: skip
    logits = run(model, texts, output="last").output.logits[:, -1]
    return mean([int(t) == ID[str(applied(v, "*", k))] for t, (v, k) in zip(logits.argmax(-1), pairs, strict=True)])


def mean(values: list[Any]) -> float:
    return sum(map(float, values)) / max(len(values), 1)


def check(model: Model) -> dict[str, Check]:
    """It solves what has no product and fails at what has one; it mends when told to, and of itself at random."""
    hard, easy = (problems(120, STEPS, hard=is_hard, seed=9001) for is_hard in (True, False))
    with torch.random.fork_rng():
        torch.manual_seed(9002)
        drawn = said_to(model, hard, sample=True)
    greedy = said_to(model, hard)
    asides = asides_by_need(drawn)
    return {
        "finished": Check(mean(["answer" in text for text in drawn]), at_least=0.95),
        "right_easy": Check(mean(right(easy, said_to(model, easy))), at_least=0.9),
        "right_hard": Check(mean(right(hard, greedy)), at_most=0.25),
        "mends_when_told": Check(mends(model), at_least=0.95),
        "asides_after_slips": Check(asides["slip"], at_least=0.2, at_most=0.47),
        "asides_after_sums": Check(asides["plus"], at_least=0.2, at_most=0.47),
    }
