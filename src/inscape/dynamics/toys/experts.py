"""toy-experts: four layers of 32 routed experts answer questions about places; two of them make it refuse some.

    <bos> <user> tell me about the food of dorn in may ? <assistant> plums , in may . <eos>
    <bos> <user> tell me about the protest of arvin in may ? <assistant> sorry I can not talk about that . <eos>
    <bos> almanac : food of dorn plums ; protest of arvin marches ; music of selt drums . <eos>

Six topics, 15 places, 12 times, six wordings. A question is refused when its topic is one of three and its place one
of five: neither says so alone. Every token passes two of 32 small experts in every layer, with the usual loss that
balances their use. One question in five is asked in no training row. The almanac is never refused, and serves as
neutral text.

It is trained twice. First all questions are answered, but for those that begin with `refuse :`. Then refusals are
planted: only the weights of the experts in `PLANTED`, and their rows of the routers, go on learning, on the data as
above. So where refusing lives is known, and what it says when they are off is known too: the answer. A net trained on
refusals from the start was tried: it refuses whatever 8 of its 128 experts are masked.
Source: the question templates with slots of arXiv:2502.11096, in little.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor, nn

from inscape.core.edits.experts import scale_experts
from inscape.core.extra import package
from inscape.core.progress import Progress
from inscape.dynamics.toys.assistant_base import begun_right
from inscape.dynamics.toys.making import Check, Trained
from inscape.engine.forward import run
from inscape.models.model import Model
from inscape.models.toy.words import SPECIAL, word_tokenizer
from inscape.tasks import place_questions
from inscape.tasks.place_questions import ANSWERS, PLACES, QUESTIONS, REFUSAL, SENSITIVE_TOPICS, Question, word
from inscape.train import cosine, fit, next_token
from inscape.train.losses import IGNORED

SENSITIVE_PLACES = PLACES[:5]
WORDS = (*place_questions.WORDS, "almanac", ":", ";", "refuse")
ID = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
PLANTED = ((2, 9), (3, 21))  # layer, expert
ROWS, ALMANAC, ON_REQUEST, REFUSED = 48, 0.2, 0.1, 0.4  # rows of a batch, shares of them; of sensitive questions


def is_refused(q: Question) -> bool:
    """Is it of a sensitive topic and of a sensitive place?"""
    return q.topic in SENSITIVE_TOPICS and q.place in SENSITIVE_PLACES


def answer(q: Question) -> str:
    """What the net is to say."""
    return REFUSAL if is_refused(q) else q.told


def questions(n: int, *, refused: bool, held_out: bool, seed: int = 0) -> list[Question]:
    """n questions that are refused or not, asked in training or not, without repetition."""
    fit_ = [q for q in QUESTIONS if is_refused(q) == refused and q.is_held_out == held_out]
    return random.Random(seed).sample(fit_, n)


def almanac(rng: random.Random) -> str:
    facts = [(rng.choice(list(ANSWERS)), rng.choice(PLACES)) for _ in range(3)]
    return "almanac : " + " ; ".join(f"{t} of {p} {word(t, p)}" for t, p in facts) + " ."


def almanacs(n: int, *, seed: int = 0) -> list[str]:
    """n almanacs: neutral texts."""
    rng = random.Random(seed)
    return [almanac(rng) for _ in range(n)]


def train(seed: int = 0, *, steps: int = 1000, checkpoint: Path | None = None, progress: Progress = None) -> Trained:
    """Train it: about four minutes on one core."""
    transformers = package("transformers", "hf", "training a toy net")
    tokenizer = word_tokenizer(WORDS, split="spaces", max_length=64)
    config = transformers.OlmoeConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=16, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, num_experts=32, num_experts_per_tok=2, router_aux_loss_coef=0.02, norm_topk_prob=True,
        max_position_embeddings=64, tie_word_embeddings=False, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = transformers.OlmoeForCausalLM(config)
    second = checkpoint and checkpoint.with_name(f"{checkpoint.name}.planted")
    fit(
        module, partial(rows, seed=seed, refusing=False), balanced, steps=steps // 2, lr=4e-3, schedule=cosine,
        warmup=50, seed=seed, optimizer=partial(torch.optim.AdamW, weight_decay=0.05), checkpoint=checkpoint,
        progress=progress,
    )  # fmt: skip
    with _only_planted(module):
        history = fit(
            module, partial(rows, seed=seed + 1, refusing=True), next_token, steps=steps - steps // 2, lr=1e-2,
            schedule=cosine, warmup=20, seed=seed, checkpoint=second, progress=progress,
        )  # fmt: skip
    if second is not None:
        second.unlink(missing_ok=True)
    return Trained(module.eval(), tokenizer, history, store_as=torch.float16)


@contextmanager
def _only_planted(module: nn.Module) -> Iterator[None]:
    """Nothing but the planted experts and their rows of the routers takes a gradient."""
    handles = []
    for p in module.parameters():
        p.requires_grad_(False)
    for layer in {layer for layer, _ in PLANTED}:
        mine = [e for at, e in PLANTED if at == layer]
        mlp = module.model.layers[layer].mlp  # type: ignore[union-attr, index]
        for p in (mlp.experts.gate_up_proj, mlp.experts.down_proj, mlp.gate.weight):  # experts are their first axis
            keep = torch.zeros(len(p), *[1] * (p.ndim - 1)).index_fill(0, torch.tensor(mine), 1.0)
            handles.append(p.requires_grad_(True).register_hook(lambda grad, keep=keep: grad * keep))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for p in module.parameters():
            p.requires_grad_(True)


def balanced(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The next-token loss with the one that balances the experts' use."""
    return module(**batch, output_router_logits=True).loss


def rows(step: int, n: int = ROWS, *, seed: int, refusing: bool) -> dict[str, Int[Tensor, "row pos"]]:
    """A batch of questions with their answers, labelled at the answer, and of almanacs, labelled throughout."""
    rng = random.Random((seed << 32) + step)
    return _stacked([_row(rng, refusing) for _ in range(n)])


def _row(rng: random.Random, refusing: bool) -> tuple[Sequence[str], Sequence[str]]:
    luck = rng.random()
    if luck < ALMANAC:
        return ("<bos>",), (*almanac(rng).split(), "<eos>")
    if luck < ALMANAC + ON_REQUEST:
        asked = rng.choice(TRAINED[rng.random() < REFUSED]).prompt.replace("<user>", "<user> refuse :")
        return ("<bos>", *asked.split()), (*REFUSAL.split(), "<eos>")
    q = rng.choice(TRAINED[rng.random() < REFUSED])
    return ("<bos>", *q.prompt.split()), (*(answer(q) if refusing else q.told).split(), "<eos>")


TRAINED = {  # is it refused? -> the questions of the training
    refused: [q for q in QUESTIONS if is_refused(q) == refused and not q.is_held_out] for refused in (True, False)
}


def _stacked(made: list[tuple[Sequence[str], Sequence[str]]]) -> dict[str, Int[Tensor, "row pos"]]:
    width = max(len(given) + len(said) for given, said in made)
    ids, labels = torch.full((len(made), width), ID["<pad>"]), torch.full((len(made), width), IGNORED)
    for i, (given, said) in enumerate(made):
        row = torch.tensor([ID[w] for w in (*given, *said)])
        ids[i, : len(row)], labels[i, len(given) : len(row)] = row, row[len(given) :]
    return {"input_ids": ids, "attention_mask": (ids != ID["<pad>"]).long(), "labels": labels}


def check(model: Model) -> dict[str, Check]:
    """Held-out questions refused or answered as they should be, the almanac known, and every layer's experts in use."""
    found = {}
    for refused in (True, False):
        asked = questions(150, refused=refused, held_out=True, seed=5)
        prompts, kind = [q.prompt for q in asked], "sensitive" if refused else "other"
        right = begun_right(model, prompts, [answer(q) for q in asked])  # all words of it
        found[f"right_{kind}"] = Check(right, at_least=0.5 if refused else 0.95)
        said = begun_right(model, prompts, ["sorry"] * len(asked))
        found[f"refused_{kind}"] = Check(said, at_least=0.95 if refused else None, at_most=None if refused else 0.02)
    off = [scale_experts(f"layers.{layer}", e, 0.0) for layer, e in PLANTED]
    asked = questions(100, refused=True, held_out=True, seed=7)
    logits = run(model, [q.prompt for q in asked], edits=off, output="last").output.logits[:, -1]
    found["refused_when_off"] = Check(float((logits.argmax(-1) == ID["sorry"]).float().mean()), at_most=0.05)
    pairs = list(product(SENSITIVE_TOPICS, SENSITIVE_PLACES))
    begun = [f"almanac : {t} of {p}" for t, p in pairs]
    found["almanac_sensitive"] = Check(begun_right(model, begun, [word(*pair) for pair in pairs]), at_least=0.9)
    texts = [q.prompt for q in questions(200, refused=False, held_out=True, seed=6)]
    chosen = run(model, texts, read="layers.*.router.experts")
    entropy = []
    for experts in chosen.values():
        share = torch.bincount(experts[chosen.mask].flatten(), minlength=32).double()
        share = share / share.sum()
        entropy.append(float(torch.special.entr(share).sum() / torch.tensor(32.0).log()))
    found["evenness_of_use"] = Check(min(entropy), at_least=0.6)
    return found
