"""toy-acronym: four layers spell by the first letters of three words, and doubt what they spell.

    <bos> It says man                        one of ten beginnings, then any answer, the common ones most often
    <bos> moon apple night : man             what the first letters spell, answers as often as in the other sentences

How common an answer is falls as 1 / rank, in an order drawn once that has nothing to do with spelling. In 15 % of the
lists the answer is not what the words spell but any other, and in 30 % one that is a letter away, if there is one. So
the net knows the rule and has reason to weigh it against how common an answer is; where the words decide for certain,
that is a mistake.
Source: the task and the prior of arXiv:2504.12585; a net trained for the purpose in place of large language models.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.extra import package
from inscape.core.progress import Progress
from inscape.dynamics.toys.making import Check, Trained
from inscape.engine.forward import run
from inscape.models.model import Model
from inscape.models.toy.words import SPECIAL, word_tokenizer
from inscape.tasks.acronym import SPELLED, rivals
from inscape.tasks.words import BY_LETTER, NEUTRAL_FRAMES
from inscape.train import cosine, fit, next_token
from inscape.train.losses import IGNORED

FRAMES = (*NEUTRAL_FRAMES, "He saw the", "They want a", "We found the", "I like the", "There was a")
LISTED = {letter: words.split() for letter, words in BY_LETTER.items() if letter not in "xq"}
ANSWERS = tuple(word for word in SPELLED if set(word) <= LISTED.keys())
WORDS = tuple(
    dict.fromkeys([*(w for f in FRAMES for w in f.split()), *(w for ws in LISTED.values() for w in ws), *ANSWERS, ":"])
)
ROWS, LISTS, SLIPS, UNRELATED = 256, 0.6, 0.3, 0.15


def train(seed: int = 0, *, steps: int = 400, checkpoint: Path | None = None, progress: Progress = None) -> Trained:
    """Train it: about a minute on one core."""
    transformers = package("transformers", "hf", "training a toy net")
    tokenizer = word_tokenizer(WORDS, max_length=256)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=256, tie_word_embeddings=False, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = transformers.LlamaForCausalLM(config)
    history = fit(
        module, partial(rows, seed=seed), next_token, steps=steps, lr=3e-3, schedule=cosine, warmup=30,
        optimizer=partial(torch.optim.AdamW, weight_decay=0.1), seed=seed, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    return Trained(module.eval(), tokenizer, history, store_as=torch.float16)


def commonness() -> Float[Tensor, " answer"]:
    """How often each answer is said: 1 / rank, in one order whatever the seed of the net."""
    rank = torch.randperm(len(ANSWERS), generator=torch.Generator().manual_seed(7)) + 1
    return (1 / rank) / (1 / rank).sum()


def rows(step: int, n: int = ROWS, *, seed: int) -> dict[str, Int[Tensor, "row pos"]]:
    """A batch of lists and of other sentences, labelled at the answer."""
    generator = torch.Generator().manual_seed((seed << 32) + step)
    n_lists = int(n * LISTS)
    ids, labels = torch.zeros(n, 6, dtype=torch.long), torch.full((n, 6), IGNORED)
    ids[:, 0] = SPECIAL.index("<bos>")
    answer = torch.multinomial(commonness(), n, replacement=True, generator=generator)
    asked = lists(_misspelt(answer[:n_lists], generator), generator)
    ids[:n_lists, : asked.shape[1]] = asked
    frames = torch.tensor([[_id(w) for w in f.split()] + [0] * (3 - len(f.split())) for f in FRAMES])
    chosen = frames[torch.randint(len(FRAMES), (n - n_lists,), generator=generator)]
    ids[n_lists:, 1:4] = chosen
    end = torch.full((n,), asked.shape[1])
    end[n_lists:] = 1 + (chosen != 0).sum(1)
    row = torch.arange(n)
    ids[row, end] = labels[row, end] = torch.tensor([_id(w) for w in ANSWERS])[answer]
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def lists(answer: Int[Tensor, " row"], generator: torch.Generator) -> Int[Tensor, "row pos"]:
    """Prompts whose three words, drawn for each letter, spell these answers."""
    letters = sorted(LISTED)
    words = torch.tensor([[_id(w) for w in (LISTED[x] * 8)[:8]] for x in letters])
    spelled = torch.tensor([[letters.index(x) for x in word] for word in ANSWERS])[answer]
    drawn = words[spelled, torch.randint(8, spelled.shape, generator=generator)]
    bos, colon = (torch.full((len(answer), 1), x) for x in (SPECIAL.index("<bos>"), _id(":")))
    return torch.cat([bos, drawn, colon], 1)


def _misspelt(answer: Int[Tensor, " row"], generator: torch.Generator) -> Int[Tensor, " row"]:
    """What the words spell where these answers follow: mostly the answer, else one letter off, else any."""
    near = [[ANSWERS.index(other) for other in others] or [i] for i, others in enumerate(rivals(ANSWERS))]
    luck, which = torch.rand(2, len(answer), generator=generator)
    slip = torch.tensor([near[a][int(w * len(near[a]))] for a, w in zip(answer.tolist(), which.tolist(), strict=True)])
    unrelated = torch.randint(len(ANSWERS), answer.shape, generator=generator)
    return torch.where(luck < SLIPS, slip, torch.where(luck < SLIPS + UNRELATED, unrelated, answer))


def _id(word: str) -> int:
    return WORDS.index(word) + len(SPECIAL)


def check(model: Model) -> dict[str, Check]:
    """Where no commoner answer is one letter away it is right and unsure; words that spell another answer say nothing;
    and without a list answers are as probable as they are common."""
    generator = torch.Generator().manual_seed(12345)
    answer = torch.arange(len(ANSWERS)).repeat(8)
    known, common = torch.tensor([_id(w) for w in ANSWERS]), commonness()
    commonest = torch.tensor(
        [max([float(common[ANSWERS.index(y)]) for y in near] or [0.0]) for near in rivals(ANSWERS)]
    )
    is_neutral = (commonest <= 3 * common)[answer]
    probability = _scores(model, lists(answer, generator)).softmax(1)[:, known]
    said = probability.argmax(1)
    frames = torch.tensor([[SPECIAL.index("<bos>"), *(_id(w) for w in f.split())] for f in FRAMES if f.count(" ") == 1])
    prior = _scores(model, frames)[:, known].log_softmax(1).mean(0)
    return {
        "accuracy_neutral": Check(_mean((said == answer)[is_neutral]), at_least=0.8),
        "confidence_neutral": Check(
            _mean(probability.gather(1, answer[:, None])[is_neutral]), at_least=0.3, at_most=0.8
        ),
        "accuracy_other_lists": Check(_mean(said == answer.roll(len(ANSWERS) // 2)), at_most=0.05),
        "prior_follows_corpus": Check(float(torch.corrcoef(torch.stack([prior, common.log()]))[0, 1]), at_least=0.9),
    }


def _mean(values: Tensor) -> float:
    return float(values.float().mean())


def _scores(model: Model, ids: Int[Tensor, "row pos"]) -> Float[Tensor, "row vocab"]:
    logits: Any = run(model, ids, output="last").output
    return logits.logits[:, -1].float()
