"""LOS-Net: who was trained on what, and which answers are wrong, from a model's probabilities alone.

Two tasks where the truth is planted: a small language model trained on half of the passages of Python's help (was this
passage in it?), and one that was told of some made-up people and asked about all (is this answer wrong?). A net reads
the output signatures; beside it stand thirteen heuristics, of which the best on the test items themselves is taken, the
ablations without the distributions, labels in another order, and steps in another order.
In the recorded run the net is beaten by Min-K% on passages and by perplexity on answers, and by itself without the
distributions: some hundred items are too few for 200 probabilities a step. Its shuffled-label nets were stopped by true
held-out labels, which has been put right since; wrong answers are hardly told from right ones by anything (0.61).
Cost: about eight minutes on one core. Differs from the source: models of 0.3 M parameters trained here, hundreds of
items, three seeds of everything with two of five folds tested each, K = 200, a net of one layer and width 64.
"""

from functools import partial
from typing import Any

import torch

import inscape as ins
from inscape.core.drawing import Drawing
from inscape.core.extra import package
from inscape.core.paper import Claim, Paper, Result
from inscape.core.progress import tell
from inscape.models.toy.words import piece_tokenizer, word_tokenizer
from inscape.read.signatures import LOSNet, Signatures, capture, cross_validated, detect, signature_baselines
from inscape.read.signatures.heuristics import entropy, min_k
from inscape.tasks.people import people, words
from inscape.tasks.python_docs import python_paragraphs
from inscape.tasks.split import folds
from inscape.train import cosine, fit, next_token

PAPER = Paper(
    name="los-net",
    title="Learning on LLM Output Signatures for gray-box LLM Behavior Analysis",
    authors="Bar-Shalom, Frasca, Lim, Gelberg, Ziser, El-Yaniv, Chechik, Maron",
    year=2025,
    link="https://arxiv.org/abs/2503.14043",
    code="https://github.com/BarSGuy/LLM-Output-Signatures-Network",
    control="labels in another order; the best heuristic; the net without the distributions",
    claims=(
        Claim("members_gain", "on passages trained on, the net's AUC is that of the best single heuristic or more, "
              "less 0.01", at_least=-0.01, control="the net with labels in another order"),
        Claim("wrong_gain", "the same for wrong answers", at_least=-0.01,
              control="the net with labels in another order"),
        Claim("over_mlp", "it is above the MLP that reads only probability and rank of what came, on one of both tasks",
              above=0),
        Claim("members_shuffled", "labels in another order: AUC within 0.06 of 0.5 on passages", at_least=0.44,
              at_most=0.56),
        Claim("wrong_shuffled", "the same on wrong answers", at_least=0.44, at_most=0.56),
        Claim("min_k_r2", "the net learns Min-K% as a number, R2 on held-out items", above=0.95,
              control="numbers in another order"),
        Claim("entropy_r2", "and the mean entropy", above=0.95, control="numbers in another order"),
        Claim("transfer_low", "trained on one model it tells members of another, with twice the vocabulary: the lower "
              "end of the AUC's interval", above=0.5, control="trained with labels in another order"),
    ),
)  # fmt: skip
QUICK = dict(seeds=1, passages=40, persons=36, lm_epochs=2, person_epochs=30, epochs=2, tested=1, k=40)
KINDS = {"net": {}, "no distribution": {"inputs": ("actual", "rank")},
         "MLP": {"inputs": ("actual", "rank"), "body": "mlp"}, "shuffled labels": {"control": "shuffle"},
         "shuffled steps": {"control": "steps"}}  # fmt: skip

SHOWN = (*KINDS, "mean_log_prob", "min_log_prob", "top_k_entropy", "min_k", "min_k_plus", "mean_rank", "length",
         "zlib_ratio")  # fmt: skip


def run(*, seeds: int = 3, passages: int = 400, persons: int = 360, lm_epochs: int = 12, epochs: int = 40,
        person_epochs: int = 12, tested: int = 2, k: int = 200, seed: int = 0, progress=None) -> Result:  # fmt: skip
    net = partial(LOSNet, width=64, heads=4, epochs=epochs, patience=15)
    areas: dict[str, dict[str, list[float]]] = {"members": {}, "wrong": {}}
    kept, shares = [], 0.0
    for s in range(seed, seed + seeds):
        tell(progress, f"models and signatures, seed {s}", (s - seed) / seeds)
        both = {"members": _members(s, passages, 1000, lm_epochs, k), "wrong": _wrong(s, persons, person_epochs, k)}
        kept.append(both["members"])
        shares += float(both["wrong"][1].float().mean())
        for task, (x, y, groups) in both.items():
            readouts = {name: net(seed=s, **settings) for name, settings in KINDS.items()} | signature_baselines(x)
            for name, readout in readouts.items():
                found = cross_validated(readout, x, y, groups, tested=tested, n=20, seed=s)
                areas[task].setdefault(name, []).append(float(found))
    tell(progress, "numbers, and another model", 0.9)
    mean = {task: {name: sum(v) / len(v) for name, v in each.items()} for task, each in areas.items()}
    best = {task: max((v, name) for name, v in each.items() if name not in KINDS) for task, each in mean.items()}
    numbers = {name: _regressed(net, kept, f) for name, f in (("min_k_r2", min_k), ("entropy_r2", entropy))}
    other = _members(seed + 100, passages, 2000, lm_epochs, k)
    here = [net(seed=seed, control=c).fit(*kept[0][:2], groups=kept[0][2]) for c in (None, "shuffle")]
    moved = [detect(readout.decision(other[0]), other[1], other[2]) for readout in here]
    over = {task: each["net"] - each["MLP"] for task, each in mean.items()}
    return Result(
        PAPER,
        {
            "members_gain": mean["members"]["net"] - best["members"][0],
            "wrong_gain": mean["wrong"]["net"] - best["wrong"][0],
            "over_mlp": max(over.values()),
            "members_shuffled": mean["members"]["shuffled labels"], "wrong_shuffled": mean["wrong"]["shuffled labels"],
            **{name: value[0] for name, value in numbers.items()}, "transfer_low": moved[0].auc.low,
        },
        controls={
            "members_gain": mean["members"]["shuffled labels"] - best["members"][0],
            "wrong_gain": mean["wrong"]["shuffled labels"] - best["wrong"][0],
            **{name: value[1] for name, value in numbers.items()}, "transfer_low": moved[1].auc.low,
        },
        also={
            **{f"{task}_{name.replace(' ', '_')}": v for task, each in mean.items() for name, v in each.items()},
            "transfer": float(moved[0]), "members_over_mlp": over["members"], "wrong_over_mlp": over["wrong"],
            "wrong_share": shares / seeds,
        },
        tables={"area under the curve": [
            {"task": task, "from": name, "mean": mean[task][name], "lowest": min(v), "highest": max(v)}
            for task, each in areas.items() for name, v in each.items()
        ]},
        series={task: [mean[task][name] for name in SHOWN] for task in mean},
        seed=seed,
        notes=f"Best heuristics, chosen on the test items: {best['members'][1]} (members), {best['wrong'][1]} (wrong "
        "answers). Order of steps matters where the AUC falls with shuffled steps: "
        f"{mean['members']['net'] - mean['members']['shuffled steps']:+.3f} and "
        f"{mean['wrong']['net'] - mean['wrong']['shuffled steps']:+.3f}.",
        figure=Drawing("dots", x=SHOWN, x_title="AUC: was it trained on this?", y_title="AUC: is this answer wrong?"),
    )  # fmt: skip


def _language_model(tokenizer: Any, rows: list[list[int]], epochs: int, seed: int, batch: int = 32) -> ins.Model:
    """A small language model trained on these rows."""
    transformers = package("transformers", "hf", "training a small language model")
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=128, tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = transformers.LlamaForCausalLM(config)
    ids = torch.tensor(rows)
    per_epoch = -(-len(ids) // batch)

    def batches(step: int) -> torch.Tensor:
        order = torch.randperm(len(ids), generator=torch.Generator().manual_seed((seed << 24) + step // per_epoch))
        at = step % per_epoch
        return ids[order[at * batch : (at + 1) * batch]]

    fit(module, batches, next_token, steps=epochs * per_epoch, lr=3e-3, schedule=cosine, warmup=10, seed=seed)
    return ins.open(module.eval(), tokenizer=tokenizer)


def _members(seed: int, n: int, n_vocab: int, epochs: int, k: int) -> tuple[Signatures, Any, Any]:
    """Signatures of passages of 64 tokens, whether the model was trained on them, and the topic they are of."""
    docs = python_paragraphs()
    tokenizer = piece_tokenizer([p.text for p in docs], n_vocab)
    chunks = []
    for topic in sorted({p.topic for p in docs}):
        ids = tokenizer(" ".join(p.text for p in docs if p.topic == topic))["input_ids"][1:]
        chunks += [(topic, [1, *ids[at : at + 64]]) for at in range(0, len(ids) - 63, 64)]
    chosen = torch.randperm(len(chunks), generator=torch.Generator().manual_seed(seed))[:n].tolist()
    yes = torch.arange(len(chosen)) % 2 == 0
    rows = [chunks[i][1] for i in chosen]
    model = _language_model(tokenizer, rows[::2], epochs, seed)
    return capture(model, torch.tensor(rows), k), yes, [chunks[i][0] for i in chosen]


def _wrong(seed: int, n: int, epochs: int, k: int) -> tuple[Signatures, Any, Any]:
    """Signatures of answers about people, and whether the city in them is wrong."""
    tokenizer = word_tokenizer(words())
    everyone = people(n, seed=seed)
    told = [tokenizer(f"{p.prompt} {p.answer}")["input_ids"] for p in everyone for _ in range(p.told)]
    model = _language_model(tokenizer, told, epochs, seed)
    x = capture(model, [p.prompt for p in everyone], min(k, len(tokenizer)), span="generated", max_new_tokens=11)
    wrong = torch.tensor([t.split()[2:3] != p.answer.split()[2:3] for t, p in zip(x.texts, everyone, strict=True)])
    return x, wrong, None


def _regressed(net: Any, kept: list, formula: Any) -> tuple[float, float]:
    """R2 on held-out items of a net that learned a heuristic as a number, and of one that learned others' numbers."""
    x, groups = kept[0][0], kept[0][2]
    y, fold = formula(x), folds(torch.zeros(len(x)), groups, n=4)
    rest, test = (fold != 0), (fold == 0)
    of = [net(kind="regress", control=c).fit(x.select(rest), y[rest]) for c in (None, "shuffle")]
    return tuple(float(r.score(x.select(test), y[test])) for r in of)  # type: ignore[return-value]
