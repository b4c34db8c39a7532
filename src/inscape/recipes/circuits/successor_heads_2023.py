"""Successor heads: heads whose weights send a token of an ordered class to the next one.

A net that learned what comes next is scanned head by head, from weights alone, and tried by ablation; the code its
items share is taken apart into class and index, and into the last digit, which is then swapped under the head. A
language model is scanned in the same way, and once more with its tokens as they stand in short neutral sentences; its
best head is then ablated in ordinary texts.
The net has its successor head, and its items share a code of indices; but it learns most numbers by heart, and their
last digit cannot be swapped. In Gemma 3 270M weights alone, with the first MLP, find no successor head; in context they
find one, which says the token itself or the one after it, and without which weekdays are said worse.
Cost: four minutes. Differs from the source: a small trained net carries most claims, with Gemma 3 270M in place of
models up to 12B; the features modulo ten are supervised (a sparse autoencoder belongs to the dictionaries).
"""

from typing import Any

import torch

import inscape as ins
from inscape import tasks
from inscape.circuits import weights
from inscape.circuits.ablation_loss import ablation_loss
from inscape.circuits.weights import relations
from inscape.circuits.weights.token_states import token_states
from inscape.core.drawing import Drawing
from inscape.core.paper import Claim, Paper, Result
from inscape.core.progress import tell
from inscape.dynamics.toys.succession import asked
from inscape.read.geometry.modular import ModularCode, modular_accuracy
from inscape.read.geometry.two_way import transfer_accuracy
from inscape.tasks.frames import framed

PAPER = Paper(
    name="successor-heads",
    title="Successor Heads: Recurring, Interpretable Attention Heads In The Wild",
    authors="Gould, Ong, Ogden, Conmy",
    year=2023,
    link="https://arxiv.org/abs/2312.09230",
    control="right targets shuffled within each class, best of all heads; other heads; shuffled labels; a random "
    "direction of the same length",
    claims=(
        Claim("best_head", "in the trained net, the best head sends most items to the next one", above=0.8,
              control="99th percentile of the best head under shuffled targets"),
        Claim("null_99", "under shuffled targets the best head stays below 0.3 in 99 of 100 cases", below=0.3),
        Claim("copies", "that head does not copy", below=0.2),
        Claim("ablation_ratio", "without it, the next item is answered worse by at least 5 times what the other heads "
              "of its layer cost on average", at_least=5),
        Claim("index_code", "an item left out is decoded from the parts of its class and its index, at more than 3 "
              "times chance", above=3, control="indices shuffled within classes"),
        Claim("last_digit", "the last digit of held-out numbers is read", above=0.9, control="digits shuffled"),
        Claim("digit_swap", "swapping the digit's feature makes the head say a number with the wanted digit",
              above=0.6, control="random directions of the same length"),
        Claim("random_swap", "random directions of the same length do so seldom", below=0.15),
        Claim("language_model", "in the language model, the best head's score from weights alone exceeds the 99th "
              "percentile of the best head under shuffled targets, by", above=0),
        Claim("in_context", "and so does the best head's score on tokens that stand in neutral sentences, by", above=0),
    ),
)  # fmt: skip
QUICK = dict(model="toy-succession", draws=50, rows=64, numbers=20, texts=1)
FRAMES = ("The answer was", "She wrote down", "Our next page begins with")


def run(model="gemma-3-270m", *, toy: str = "toy-succession", draws: int = 1000, rows: int = 512, numbers: int = 100,
        texts: int = 12, seed: int = 0, progress=None) -> Result:  # fmt: skip
    net = ins.open(toy)
    tell(progress, "scanning the trained net", 0.0)
    classes = tasks.ordinals(net)
    found, copied = _scan(net, classes, draws, seed)
    name, score, _ = found.top(1)[0]
    head = next(h for h in weights.heads(net) if h.name == name)
    tell(progress, "ablating its heads", 0.1)
    lost = _ablated(net, head.layer, rows, seed)
    rest = float(torch.tensor([v for n, v in lost.items() if n != name]).mean())
    tell(progress, "taking its numbers apart", 0.2)
    index, index_shuffled, chance = _index_code(net, classes, seed)
    digits = _digits(net, head, numbers, seed)
    tell(progress, "scanning the language model", 0.3)
    opened = ins.open(model) if isinstance(model, str) else model
    alone, _ = _scan(opened, tasks.ordinals(opened), draws, seed)
    wild, wild_copied = _scan(opened, tasks.ordinals(opened), draws, seed, FRAMES)
    best, wild_score, wild_p = wild.top(1)[0]
    tell(progress, "its best head in ordinary texts", 0.5)
    where = next((int(h.layer.rsplit(".", 1)[1]), h.head) for h in weights.heads(opened) if h.name == best)
    needed = ablation_loss(opened, where, tasks.plain_text(texts), others=9, seed=seed, progress=progress)
    line, wild_line = alone.corrected.threshold(0.99), wild.corrected.threshold(0.99)
    measured = {
        "best_head": score, "null_99": found.corrected.threshold(0.99),
        "copies": float(copied.score[found.heads.index(name)]), "ablation_ratio": lost[name] / max(rest, 1 / rows),
        "index_code": index / chance, "last_digit": digits["read"], "digit_swap": digits["swapped"],
        "random_swap": digits["pushed"], "language_model": alone.top(1)[0][1] - line,
        "in_context": wild_score - wild_line,
    }  # fmt: skip
    controls = {
        "best_head": found.corrected.threshold(0.99), "index_code": index_shuffled / chance,
        "last_digit": digits["shuffled"], "digit_swap": digits["pushed"],
    }  # fmt: skip
    order = wild.score.argsort(descending=True)[:12].tolist()
    return Result(
        PAPER, measured, controls=controls, seed=seed,
        series={"in context": wild.score[order], "99 of 100 shuffled": torch.full((len(order),), wild_line),
                "token alone": alone.score[order]},
        also={"alone_score": alone.top(1)[0][1], "alone_p": alone.top(1)[0][2], "in_context_score": wild_score,
              "in_context_p": wild_p, "chance": wild.chance, "swapped_with_its_tens": digits["with_tens"],
              "in_context_copies": float(wild_copied.score[wild.heads.index(best)]),
              "loss_without_best_head": needed.mean, "loss_without_others": float(needed.others_change.mean())},
        tables={"classes": [{"class": c, "score": float(v[wild.heads.index(best)])} for c, v in wild.by_class.items()],
                "ablation": [{"head": n, "accuracy lost": v} for n, v in lost.items()],
                **_needed(needed)},
        notes=f"the best head of the net is {name}; of the language model {alone.top(1)[0][0]} by weights alone and "
        f"{best} in context.",
        figure=Drawing("bars", show=("in context",), control=("99 of 100 shuffled",), chance=wild.chance,
                       y_title="successor score",
                       x=tuple(wild.heads[i].removeprefix("layers.").replace("head.", "") for i in order)),
    )  # fmt: skip


def _scan(model: Any, classes: Any, draws: int, seed: int, frames: tuple[str, ...] = ()) -> tuple[Any, Any]:
    """Successor and copy scores of all heads: tokens alone, or behind frames."""
    following = relations.successor(classes)
    rows = framed(model, following.tokens.tolist(), frames) if frames else None
    pre = "context" if frames else "embed+mlp0"
    maps = weights.token_map(model, "all", following.tokens, pre=pre, inputs=rows)
    copies = weights.relation_score(maps, relations.copy(classes), draws=10, seed=seed)
    return weights.relation_score(maps, following, draws=draws, seed=seed), copies


def _needed(found: Any) -> dict[str, list[dict[str, Any]]]:
    """Where the loss rises without the head, and what the right tokens there could be."""
    places = [{"text": p.context, "next": p.right, "loss": p.change, "other heads": p.others,
               "could be": ", ".join(p.behaviours)} for p in found.top(12)]  # fmt: skip
    kinds = [{"behaviour": s.behaviour, "share": s.share, "all places": s.base, "other heads": s.others, "p": s.p}
             for s in found.behaviours(30)]  # fmt: skip
    return {"where the loss rises": places, "behaviours there": kinds}


def _ablated(model: Any, layer: str, rows: int, seed: int) -> dict[str, float]:
    """The accuracy on the next item that each head's mean costs, in the layer of the best one."""
    ids, right = asked("next", rows, seed)
    heads, site = weights.heads(model, layer), f"{layer}.attn.z"
    trace = ins.run(model, ids, read=site)
    edits = [ins.ablate(site, "mean", trace, heads=[h.head]) for h in heads]
    swept = ins.sweep(model, ids, metric=ins.accuracy(right), edits=edits)
    lost = float(swept.base.mean()) - swept.values
    return {h.name: float(x) for h, x in zip(heads, lost, strict=True)}


def _index_code(model: Any, classes: Any, seed: int) -> tuple[float, float, float]:
    """Items as class and index; the first of a class has index 1, but numbers are their own."""
    ids = torch.cat([c.ids for c in classes])
    label = torch.cat([torch.full((len(c),), n) for n, c in enumerate(classes)])
    index = torch.cat([torch.tensor(c.values) + (c.name != "numerals") for c in classes])
    share, shuffled, chance = transfer_accuracy(token_states(model, ids).values, label, index, seed=seed)
    return share, float(shuffled or 0.0), chance


def _digits(model: Any, head: Any, n: int, seed: int) -> dict[str, float]:
    """The last digit read; swapped under the head, beside a random direction of the same length."""
    (numbers,) = tasks.ordinals(model, names=("numerals",))
    values = torch.tensor(numbers.values)
    x = token_states(model, numbers.ids).values
    read, shuffled = modular_accuracy(x, values, ModularCode(10), seed=seed)
    item = torch.arange(len(values))[values < n].repeat_interleave(9)
    wanted = (values[item] + torch.arange(1, 10).repeat(len(item) // 9)) % 10
    half = torch.arange(len(values)) % 20 < 10  # features from one half of the tens, tried on the other
    code = [ModularCode(10).fit(x[h], values[h]) for h in (half, ~half)]
    swapped = torch.where(half[item][:, None], code[1].swapped(x[item], values[item], wanted),
                          code[0].swapped(x[item], values[item], wanted))  # fmt: skip
    push = torch.randn(swapped.shape, generator=torch.Generator().manual_seed(seed))
    pushed = x[item] + push / push.norm(dim=1, keepdim=True) * (swapped - x[item]).norm(dim=1, keepdim=True)
    said, random = (values[weights.token_scores(model, head, s, numbers.ids).argmax(1)] for s in (swapped, pushed))
    right = (wanted + 1) % 10
    whole = values[item] // 10 * 10 + wanted + 1  # the number with the wanted digit, and the one after it
    return {
        "read": read, "shuffled": float(shuffled or 0.0), "swapped": float((said % 10 == right).float().mean()),
        "with_tens": float((said == whole).float().mean()), "pushed": float((random % 10 == right).float().mean()),
    }  # fmt: skip
