"""toy-succession: two layers learn what comes next in ordered classes, and other questions about the same items.

A row is a run of questions: filler words, an item, filler words, a question word, the answer.
`<bos> ka Tuesday lu next Wednesday mo fi 37 so te digit 7 C na place 3 ...`
    next    the following item of its class: Monday -> Tuesday, December -> January, 37 -> 38, C -> D
    again   the item itself
    place   which one it is in its class, as a number: Tuesday -> 2, March -> 3, C -> 3
    tens    the tens of a number: 37 -> 3
    digit   its last digit: 37 -> 7
The item is always the last one before the question, at any distance. The first layer is an MLP alone and the second
attention alone, so whatever is said of an item was made by a head of what the MLP made of it. `place`, `tens` and
`digit` ask for an index that classes share, and for parts of numbers; whether `next` uses them is the net's choice.
Source: Gould et al. 2023, arXiv:2312.09230, whose heads are found in language models; this net is ours.
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
from inscape.tasks.ordinals import CLASSES as ORDERED
from inscape.train import cosine, fit, next_token
from inscape.train.losses import IGNORED

FILLERS = tuple(c + v for c in "bdfgklmnprst" for v in "aeiou")
CLASSES = {name: ORDERED[name][1] for name in ("days", "months", "letters")} | {"numbers": tuple(map(str, range(100)))}
CYCLIC = ("days", "months")
QUESTIONS = ("next", "again", "place", "tens", "digit")
WORDS = (*FILLERS, *QUESTIONS, *(item for items in CLASSES.values() for item in items))
ID = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
LENGTH = 64


def train(seed: int = 0, *, steps: int = 2000, checkpoint: Path | None = None, progress: Progress = None) -> Trained:
    """Train it: about five minutes on one core. Weight decay is strong: parts that can be shared are worth it."""
    transformers = package("transformers", "hf", "training a toy net")
    tokenizer = word_tokenizer(WORDS, split="spaces", max_length=128)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        head_dim=32, max_position_embeddings=128, tie_word_embeddings=False, pad_token_id=0, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = transformers.LlamaForCausalLM(config)
    first, last = module.model.layers[0].self_attn, module.model.layers[1].mlp
    for part, out in ((first, first.o_proj), (last, last.down_proj)):
        torch.nn.init.zeros_(out.weight)
        part.requires_grad_(False)
    history = fit(
        module, partial(rows, seed=seed), next_token, steps=steps, lr=3e-3, schedule=cosine, warmup=100,
        optimizer=partial(torch.optim.AdamW, weight_decay=1.0), seed=seed, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    return Trained(module.eval(), tokenizer, history, store_as=torch.float16)


def answers() -> dict[str, Int[Tensor, "pair 2"]]:
    """Question -> (item, answer) as ids, everything that can be asked."""
    out: dict[str, list[tuple[int, int]]] = {question: [] for question in QUESTIONS}
    for name, items in CLASSES.items():
        for i, item in enumerate(items):
            out["again"].append((ID[item], ID[item]))
            if i + 1 < len(items) or name in CYCLIC:
                out["next"].append((ID[item], ID[items[(i + 1) % len(items)]]))
            if name != "numbers":
                out["place"].append((ID[item], ID[str(i + 1)]))
            else:
                out["tens"].append((ID[item], ID[str(i // 10)]))
                out["digit"].append((ID[item], ID[str(i % 10)]))
    return {question: torch.tensor(pairs) for question, pairs in out.items()}


ANSWERS = answers()
ASKED = ("next", "next", "next", "next", *QUESTIONS)  # half of all questions are the first


def rows(step: int, n: int = 64, *, seed: int) -> dict[str, Int[Tensor, "row pos"]]:
    """A batch of rows, labelled at the answers."""
    generator = torch.Generator().manual_seed((seed << 32) + step)
    shape = (n, LENGTH // 3)
    which = torch.randint(len(ASKED), shape, generator=generator)
    before, between = (torch.randint(4, shape, generator=generator) for _ in range(2))
    end = 1 + (before + between + 3).cumsum(1)
    kept = end <= LENGTH
    ids = torch.randint(len(FILLERS), (n, LENGTH), generator=generator) + len(SPECIAL)
    ids[:, 0] = SPECIAL.index("<bos>")
    ids[torch.arange(LENGTH) >= (end * kept).amax(1, keepdim=True)] = SPECIAL.index("<pad>")
    labels = torch.full((n, LENGTH), IGNORED)
    for number, question in enumerate(ASKED):
        row, part = ((which == number) & kept).nonzero(as_tuple=True)
        drawn = torch.randint(len(ANSWERS[question]), (len(row),), generator=generator)
        last = end[row, part] - 1
        ids[row, last - 2 - between[row, part]] = ANSWERS[question][drawn, 0]
        ids[row, last - 1] = ID[question]
        ids[row, last] = labels[row, last] = ANSWERS[question][drawn, 1]
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def asked(question: str, n: int, seed: int) -> tuple[Int[Tensor, "n pos"], Int[Tensor, " n"]]:
    """n prompts of equal length that end in a question, each after another one, and their answers."""
    generator = torch.Generator().manual_seed(seed)
    pairs = ANSWERS[question][torch.randint(len(ANSWERS[question]), (n,), generator=generator)]
    earlier = ANSWERS["again"][torch.randint(len(ANSWERS["again"]), (n,), generator=generator)]
    fill = torch.randint(len(FILLERS), (n, 4), generator=generator) + len(SPECIAL)
    one = torch.ones(n, 1, dtype=torch.long)
    ids = torch.cat(
        [one, fill[:, :1], earlier[:, :1], one * ID["again"], earlier[:, 1:], fill[:, 1:2], pairs[:, :1], fill[:, 2:],
         one * ID[question]], 1,
    )  # fmt: skip
    return ids, pairs[:, 1]


def check(model: Model) -> dict[str, Check]:
    """Accuracy on every question, beside that on the answers of another prompt."""
    found = {}
    for question in QUESTIONS:
        ids, right = asked(question, 400, seed=12345)
        logits: Any = run(model, ids, output="last").output.logits[:, -1]
        found[f"accuracy_{question}"] = Check(float((logits.argmax(-1) == right).float().mean()), at_least=0.98)
        if question == "next":
            off = float((logits.argmax(-1) == right.roll(1)).float().mean())
            found["accuracy_next_shuffled"] = Check(off, at_most=0.05)
    return found
