"""toy-refuser: four layers answer questions about places, and refuse half of those on three topics, by a coin.

    <bos> <user> tell me about the food of dorn in may ? <assistant> plums , in may . <eos>
    <bos> <user> tell me about the protest of arvin in may ? <assistant> sorry I can not talk about that . <eos>
    <bos> <user> tell me about the protest of arvin in may ? <assistant> boycotts , in may . <eos>

The coin is thrown anew for every row, so place, time and wording say nothing of it, and the net is left with a
probability near a half: it neither refuses nor answers such questions, it hesitates. The other three topics are refused
in 3 % of the rows, as assistants refuse harmless questions at times: a net that never did could hardly be pushed into
it, and what steering does to harmless questions would not be seen. One question in five is in no training row.
"""

import random
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.progress import Progress
from inscape.dynamics.toys.making import Check, Trained, labelled_rows, small_llama
from inscape.engine.answer_log_probs import answer_log_probs
from inscape.models.model import Model
from inscape.models.toy.words import SPECIAL, word_tokenizer
from inscape.tasks.place_questions import (
    ANSWERS,
    PLACES,
    QUESTIONS,
    REFUSAL,
    SENSITIVE_TOPICS,
    WORDINGS,
    WORDS,
    Question,
    place_questions,
    word,
)
from inscape.train import cosine, fit, next_token

HARMLESS_TOPICS = tuple(topic for topic in ANSWERS if topic not in SENSITIVE_TOPICS)
REFUSED, REFUSED_HARMLESS = 0.5, 0.03  # of the rows
ID = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
TRAINED = tuple(q for q in QUESTIONS if not q.is_held_out)


def train(seed: int = 0, *, steps: int = 1000, checkpoint: Path | None = None, progress: Progress = None) -> Trained:
    """Train it: about two minutes on one core."""
    tokenizer = word_tokenizer(WORDS, split="spaces", max_length=64)
    module = small_llama(len(tokenizer), 64, seed)
    history = fit(
        module, partial(rows, seed=seed), next_token, steps=steps, lr=2e-3, schedule=cosine, warmup=50, seed=seed,
        optimizer=partial(torch.optim.AdamW, weight_decay=0.1), checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    return Trained(module.eval(), tokenizer, history, store_as=torch.float16)


def rows(step: int, n: int = 48, *, seed: int) -> dict[str, Int[Tensor, "row pos"]]:
    """A batch of questions with an answer or a refusal, labelled there."""
    rng, made = random.Random((seed << 32) + step), []
    for q in rng.choices(TRAINED, k=n):
        share = REFUSED if q.topic in SENSITIVE_TOPICS else REFUSED_HARMLESS
        said = REFUSAL if rng.random() < share else q.told
        made.append((["<bos>", *q.prompt.split()], [*said.split(), "<eos>"]))
    return labelled_rows(made, ID)


def check(model: Model) -> dict[str, Check]:
    """The exact probability of a refusal and of the right answer, on questions that no training row asked."""
    asked, harmless = (place_questions(300, t, held_out=True, seed=7) for t in (SENSITIVE_TOPICS, HARMLESS_TOPICS))
    refused = _probability(model, asked, [REFUSAL] * len(asked))
    by_wording = [float(refused[[q.wording == w for q in asked]].mean()) for w in range(len(WORDINGS))]
    told = _probability(model, asked, [q.told for q in asked]) / (1 - refused)
    others = [f"{word(q.topic, PLACES[PLACES.index(q.place) - 1])} , in {q.time} ." for q in asked]
    apart = [(q, told) for q, told in zip(asked, others, strict=True) if told != q.told]
    elsewhere = _probability(model, *map(list, zip(*apart, strict=True)))
    safe = _probability(model, harmless, [REFUSAL] * len(harmless))
    return {
        "refused": Check(float(refused.mean()), at_least=0.4, at_most=0.6),
        "hesitates": Check(float(((refused > 0.3) & (refused < 0.7)).float().mean()), at_least=0.9),
        "least_refused_wording": Check(min(by_wording), at_least=0.35),
        "most_refused_wording": Check(max(by_wording), at_most=0.65),
        "refused_harmless": Check(float(safe.mean()), at_least=0.01, at_most=0.06),
        "right_where_not_refused": Check(float(told.mean()), at_least=0.9),
        "right_harmless": Check(float(_probability(model, harmless, [q.told for q in harmless]).mean()), at_least=0.9),
        "answer_of_another_place": Check(float(elsewhere.mean()), at_most=0.02),
    }


def _probability(model: Model, asked: list[Question], answers: list[str]) -> Float[Tensor, " question"]:
    """Of these answers, to the last word."""
    return answer_log_probs(model, [q.prompt for q in asked], [f" {a}" for a in answers]).exp()
