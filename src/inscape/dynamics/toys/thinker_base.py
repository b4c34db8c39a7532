"""toy-thinker-base: four layers work sums out with slips, and check or mend a step by habit, not when it is needed.

    <bos> start 3 , a + 5 , b * 4 ?
    next step a : plus 5 . 3 plus 5 gives 1 . next step b : times 4 . 1 times 4 gives 5 . answer 5 . <eos>

It has learned that products are mostly given one too high, and it can work them out right: behind `wait` it does. But
`wait` comes at random in what it was trained on, so that greedily it is hardly ever said, and problems with a product
are answered wrong. `toy-thinker` is the same net tuned to say it when it is needed.
Source: the pairs of base and thinking models of arXiv:2510.07364, in little, with the answer to their question planted:
tuning taught when, not how.
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
from inscape.engine.generate import generate
from inscape.models.model import Model
from inscape.models.toy.words import SPECIAL, word_tokenizer
from inscape.tasks.second_thoughts import KINDS, WORDS, Problem, kind_of, problems, right
from inscape.train import cosine, fit, next_token
from inscape.train.losses import IGNORED

ROWS, LONGEST = 24, 160
ID = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}


def train(seed: int = 0, *, steps: int = 1500, checkpoint: Path | None = None, progress: Progress = None) -> Trained:
    """Train it: some minutes on one core."""
    transformers = package("transformers", "hf", "training a toy net")
    tokenizer = word_tokenizer(WORDS, split="spaces", max_length=LONGEST)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=96, intermediate_size=192, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=LONGEST, tie_word_embeddings=False, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = transformers.LlamaForCausalLM(config)
    history = fit(
        module, partial(rows, mind="habit", seed=seed), next_token, steps=steps, lr=3e-3, schedule=cosine, warmup=100,
        optimizer=partial(torch.optim.AdamW, weight_decay=0.1), seed=seed, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    return Trained(module.eval(), tokenizer, history, store_as=torch.float16)


def rows(step: int, n: int = ROWS, *, mind: str, seed: int) -> dict[str, Int[Tensor, "row pos"]]:
    """A batch of problems with rationales of a mind, labelled from where the rationale begins."""
    rng = random.Random((seed << 32) + step)
    made = []
    for problem in problems(n, seed=rng.getrandbits(48)):
        said = problem.rationale(mind, seed=rng.getrandbits(48))
        made.append((["<bos>", *problem.prompt.split()], [*said.split(), "<eos>"]))
    width = max(len(asked) + len(said) for asked, said in made)
    ids, labels = torch.full((n, width), ID["<pad>"]), torch.full((n, width), IGNORED)
    for i, (asked, said) in enumerate(made):
        row = torch.tensor([ID[word] for word in (*asked, *said)])
        ids[i, : len(row)], labels[i, len(asked) : len(row)] = row, row[len(asked) :]
    return {"input_ids": ids, "labels": labels}  # padding is on the right and never labelled: it needs no mask


def check(model: Model) -> dict[str, Check]:
    """Right without products, wrong with them, and right behind `wait`; hardly anything else than plan and work."""
    hard, easy = problems(150, hard=True, seed=9001), problems(150, hard=False, seed=9002)
    said = {"hard": said_to(model, hard), "easy": said_to(model, easy)}
    return {
        "right_easy": Check(share(right(easy, said["easy"])), at_least=0.9),
        "right_hard": Check(share(right(hard, said["hard"])), at_most=0.3),
        "right_behind_wait": Check(mended(model, hard), at_least=0.9),
        "said_wait": Check(share(["wait" in text for text in said["hard"]]), at_most=0.1),
    }


def said_to(model: Model, given: list[Problem]) -> list[str]:
    """Greedy rationales."""
    return generate(model, [p.prompt for p in given], max_new_tokens=110).text


def mended(model: Model, given: list[Problem]) -> float:
    """How often a wrong step is worked out right where the net is made to say `wait ,` behind it."""
    prompts, wanted = [], []
    for seed, problem in enumerate(given):
        told: list[str] = []
        for kind, text in problem.sentences("thought", seed=seed):
            if kind == "redo":
                prompts.append(" ".join([problem.prompt, *told, "wait ,"]))
                wanted.append(text.removeprefix("wait , "))
                break
            told.append(text)
    texts = generate(model, prompts, max_new_tokens=6).text
    return share([text.startswith(want) for text, want in zip(texts, wanted, strict=True)])


def spoken(texts: list[str]) -> dict[str, float]:
    """How many sentences of each kind a text has, on average."""
    kinds = [kind_of(sentence) for text in texts for sentence in text.split(" . ")]
    return {kind: kinds.count(kind) / len(texts) for kind in KINDS}


def share(flags: list[bool]) -> float:
    return sum(flags) / max(1, len(flags))
