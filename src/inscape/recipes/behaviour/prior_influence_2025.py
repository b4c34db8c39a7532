"""Prior influence: where one answer is right a model errs towards common ones, and tuning one layer undoes much of it.

A net that spells by first letters, and doubts what it spells, is asked for answers of every prior. The layer whose lens
follows the prior most is tuned on lists whose answers the prior dominates, beside every other layer and beside the same
lists with their answers exchanged; what is asked afterwards was an answer in no tuning. Gemma 3 270M is asked for words
and fragments of three to five letters, with and without an instruction not to expect a word.
Cost: some fifteen minutes on one core, most of it Gemma's. Differs from the source: acronyms alone; a small net trained
for the purpose is tuned in place of large models; frames, wording and instruction are ours; items are chosen by their
prior and none by the model's errors; every other layer is tuned, not a random few.
"""

import math
import random
from typing import Any

import torch

import inscape as ins
from inscape.core.drawing import Drawing
from inscape.core.nulls import bootstrap, sign_flip_test
from inscape.core.paper import Claim, Paper, Result
from inscape.read.behaviour.choices import choose
from inscape.read.behaviour.instruction import instructed
from inscape.read.behaviour.prior import prior, prior_pull
from inscape.read.localize import correlate
from inscape.tasks.acronym import SPELLED, fragments, rivals, spelling
from inscape.tasks.split import split_by_answer
from inscape.tasks.tokens import Tokens
from inscape.tasks.words import BY_LETTER, NEUTRAL_FRAMES
from inscape.train import answer_batches, no_better
from inscape.tune.layers import tune_layers

PAPER = Paper(
    name="prior-influence",
    title="Identifying and Mitigating the Influence of the Prior Distribution in Large Language Models",
    authors="Liyi Zhang, Veniamin Veselovsky, R. Thomas McCoy, Thomas L. Griffiths",
    year=2025,
    link="https://arxiv.org/abs/2504.12585",
    control="priors dealt to other answers; lists with their answers exchanged; every other layer; a neutral sentence "
    "as long as the instruction",
    claims=(
        Claim("slope", "the log odds of being right rise with the log prior of the right answer: lower end of the 95 % "
              "interval", above=0.0, control="priors dealt to other answers"),
        Claim("slope_p", "the slope exceeds those with priors dealt to other answers: p", below=0.01),
        Claim("prior_layer", "after some layer the lens follows the prior beyond the 99 % band of shuffled priors: by "
              "how much", above=0.0, control="priors dealt to other answers"),
        Claim("dominated_gain", "tuning the layer that follows the prior most makes at least 0.2 more of the held-out "
              "items right that the prior dominates", at_least=0.2, control="lists with their answers exchanged"),
        Claim("gain_beyond_neutral", "which is more than on held-out items that it does not dominate", above=0.0),
        Claim("slope_left", "the slope on held-out items shrinks by half or more: its share that is left, 0 where its "
              "interval holds 0", at_most=0.5),
        Claim("no_shift", "held-out lists are not answered more often by an answer of the training: rise of that share",
              at_most=0.0, control="lists with their answers exchanged"),
        Claim("layer_beats_median", "that layer gains at least as much as the median of the others: by how much",
              at_least=0.0),
        Claim("instruction_p", "Gemma gets more dominated items right when told not to rely on what is usual than with "
              "a neutral sentence as long: p", below=0.05),
    ),
)  # fmt: skip
QUICK = dict(larger="toy-acronym", copies=1, examples=32, steps=4, seeds=1, words=8)
MARGIN = math.log(3)  # a rival one letter away is three times as probable: the prior dominates
WORDS = tuple(word for word in SPELLED if "x" not in word)  # no common word begins with x
LINE = "moon apple night:"
INSTRUCTION = "Do not rely on what is usual. The answer may be no word at all; it follows from the first letters alone."
NEUTRAL = "The list was made in the morning. It was put on the table at home, where the family found it later on."


def run(
    model="toy-acronym", *, larger="gemma-3-270m", copies: int = 6, examples: int = 300, steps: int = 120,
    seeds: int = 3, words: int = 16, seed: int = 0, progress=None,
) -> Result:  # fmt: skip
    model = ins.open(model) if isinstance(model, str) else model
    answers = Tokens(model).ones(LINE, [f" {word}" for word in WORDS])
    ids = torch.tensor([Tokens(model).one(LINE, answer) for answer in answers])
    common = prior(model, answers)
    p = common.log_probs
    dominated = common.lead(answers, _near(answers)) > MARGIN
    due = torch.arange(len(answers)).repeat(copies)  # the right answer of every prompt
    prompts, _ = _asked([answers[i] for i in due], seed=seed)

    def said(rows, edits=()) -> torch.Tensor:
        out = ins.run(model, [prompts[i] for i in rows], edits=list(edits), output="last").output
        return out.logits[:, -1, ids].argmax(-1)

    def pull(rows, given, p=p):
        return prior_pull(p[due[rows]], given == due[rows], p[given], by=due[rows].tolist(), seed=seed)

    everything = torch.arange(len(due))
    given = said(everything)
    before = pull(everything, given)
    dealt = p[torch.randperm(len(p), generator=torch.Generator().manual_seed(seed))]
    by_layer = _by_layer(model, answers, prompts[: len(answers)], p, {"dealt": dealt}, seed)
    layer = by_layer.peak("prior")
    subtracted = _by_layer(model, answers, prompts[: len(answers)], p, {}, seed, baseline=list(NEUTRAL_FRAMES))
    swapped = {block.name: said(everything, _as_neutral(model, block.name)) for block in model.blocks}

    tests, gains = {"tuned": [], "exchanged": [], "not dominated": [], "rows": []}, {}
    shares, seen, stopped = {"before": [], "tuned": [], "exchanged": []}, [], []
    for s in range(seed, seed + seeds):
        train, rest = split_by_answer(answers, stratify=p.tolist(), test=0.5, seed=s)
        held, test = split_by_answer([answers[i] for i in rest], stratify=p[rest].tolist(), test=0.7, seed=s)
        held, test = (torch.isin(due, torch.tensor([rest[i] for i in side])).nonzero()[:, 0] for side in (held, test))
        settings: Any = dict(
            steps=steps, lr=1e-3, seed=s, meters={"held": lambda _, rows=held: _share(said(rows) == due[rows])},
            measure=max(1, steps // 12), stop=no_better("held", 3),
        )  # fmt: skip

        def score(_, rows=test) -> dict[str, float]:
            right, hard = said(rows) == due[rows], dominated[due[rows]]
            return {"dominated": _share(right[hard]), "neutral": _share(right[~hard])}

        lists, fresh = ([answers[i] for i in train if dominated[i] == hard] for hard in (True, False))
        asked, right = _asked((lists * examples)[:examples], seed=s + 1000)
        other, due_other = _asked((fresh * examples)[:examples], seed=s + 1000)
        exchanged = random.Random(s).sample(right, len(right))
        data = {"tuned": (asked, right), "exchanged": (asked, exchanged), "not dominated": (other, due_other)}
        for name, (lines, ends) in data.items():
            more: Any = dict(score=score, control="random", n_controls=len(model.blocks) - 1) if name == "tuned" else {}
            batches = answer_batches(model.tokenizer, lines, ends, size=32, seed=s)
            with tune_layers(model, layer, batches, progress=progress, **settings, **more) as tuned:
                tests[name].append(said(test))
                if name == "tuned":
                    new, _ = _asked(lists * copies, seed=s + 2000)
                    logits = ins.run(model, new, output="last").output.logits[:, -1, ids]
                    seen.append(_share(logits.argmax(-1) == torch.tensor([answers.index(x) for x in lists * copies])))
                    stopped.append(tuned.history.steps)
                    for at, after in ((layer, tuned.after), *((c.layers[0], c.after) for c in tuned.controls)):
                        for kind in ("dominated", "neutral"):
                            gains.setdefault((at, kind), []).append(after[kind] - tuned.before[kind])
        tests["rows"].append(test)
        for name, what in (("before", given[test]), *((n, tests[n][-1]) for n in ("tuned", "exchanged"))):
            shares[name].append(_share(torch.isin(what, torch.tensor(train))))

    rows = torch.cat(tests["rows"])
    was, hard = (given[rows] == due[rows]).double(), dominated[due[rows]]
    after = {name: torch.cat(tests[name]) for name in ("tuned", "exchanged", "not dominated")}
    gain = {name: (x == due[rows]).double() - was for name, x in after.items()}
    gained = {
        (name, kind): bootstrap(x[on], by=due[rows][on], seed=seed)
        for name, x in gain.items() for kind, on in (("dominated", hard), ("neutral", ~hard))
    }  # fmt: skip
    first, last = pull(rows, given[rows]), pull(rows, after["tuned"])
    left = last.followed.value / first.followed.value if last.followed.excludes() else 0.0
    mean = {key: sum(values) / len(values) for key, values in gains.items()}
    names = [block.name for block in model.blocks]
    rest = [mean[name, "dominated"] for name in names if name != layer]
    big = _larger(larger, words, seed, progress)
    stages = ["before", *names]
    return Result(
        PAPER,
        {
            "slope": before.followed.low, "slope_p": before.slope.p if before.slope else 1.0,
            "prior_layer": float(by_layer.value["prior"][1:].max()) - by_layer.band("prior"),
            "dominated_gain": gained["tuned", "dominated"],
            "gain_beyond_neutral": bootstrap(
                (gain["tuned"], hard), lambda g, h: g[h].mean() - g[~h].mean(), by=due[rows], method="percentile",
                seed=seed,
            ),
            "slope_left": left, "no_shift": _mean(shares["tuned"]) - _mean(shares["before"]),
            "layer_beats_median": mean[layer, "dominated"] - float(torch.tensor(rest).quantile(0.5)),
            "instruction_p": big["p"],
        },
        controls={
            "slope": pull(everything, given, dealt).followed.low,
            "prior_layer": float(by_layer.value["dealt"][1:].max()) - by_layer.band("dealt"),
            "dominated_gain": gained["exchanged", "dominated"].value,
            "no_shift": _mean(shares["exchanged"]) - _mean(shares["before"]),
        },
        series={
            "prior": by_layer.value["prior"], "letters that fit": by_layer.value["evidence"],
            "gain of tuning the layer": [math.nan, *(mean[name, "dominated"] for name in names)],
            "gain, prior not dominating": [math.nan, *(mean[name, "neutral"] for name in names)],
            **{f"{end}{name}{more}": torch.quantile(by_layer.null[key], q, 0)
               for name, key in (("prior", "prior"), ("letters", "evidence"))
               for end, more, q in (("low ", "", 0.005), ("", ", shuffled", 0.5), ("high ", "", 0.995))},
        },
        figure=Drawing(
            show=("prior", "letters that fit", "gain of tuning the layer", "prior, shuffled", "letters, shuffled"),
            band={f"{name}, shuffled": (f"low {name}", f"high {name}") for name in ("prior", "letters")},
            x=tuple(stages), x_title="layer", y_title="rank correlation of the lens; gain in accuracy",
            title="Where the lens follows the prior, and what tuning each layer gains on held-out answers",
        ),
        tables={
            "layers": [
                {"stage": stage, "prior": float(by_layer.value["prior"][i]), "p": float(by_layer.p["prior"][i]),
                 "prior, neutral lens subtracted": float(subtracted.value["prior"][i]),
                 "letters that fit": float(by_layer.value["evidence"][i]),
                 "right answer": float(by_layer.value["right"][i]),
                 "gain, dominated": mean.get((stage, "dominated")), "gain, neutral": mean.get((stage, "neutral")),
                 **({f"{what}, its output from a neutral frame": x for what, x in
                     _habits(swapped[stage], due, dominated, p).items()} if i else {})}
                for i, stage in enumerate(stages)
            ],
            "tuned on": [{"lists": name, "items": kind, "gain": x.value, "low": x.low, "high": x.high}
                         for (name, kind), x in gained.items()],
            "quarters": [
                {"quarter of the prior": i + 1, "right before": was.value, "right after": now.value}
                for i, (was, now) in enumerate(zip(first.by_quantile, last.by_quantile, strict=True))
            ],
            "larger, by layer": big["layers"], "larger": big["asked"],
        },
        also={
            "accuracy": before.accuracy, "slope_before": before.followed, "asymmetry": before.asymmetry or math.nan,
            "asymmetry_dealt": before.asymmetry_null or math.nan, "lift": before.lift or math.nan,
            "slope_test_before": first.followed, "slope_test_after": last.followed,
            "rank_of_layer": 1 + sum(x >= mean[layer, "dominated"] for x in rest),
            "gain_at_jump": mean[by_layer.jump("prior"), "dominated"], "accuracy_trained_answers": _mean(seen),
            "steps": _mean(stopped), **{f"train_answers_{name}": _mean(x) for name, x in shares.items()},
            **{f"neutral_{k}": v for k, v in _habits(given, due, dominated, p).items()}, **big["also"],
        },
        seed=seed, notes=f"{layer} follows the prior most; it rises most after {by_layer.jump('prior')}. "
        f"In {larger} it is highest after {big['peak']}.",
    )  # fmt: skip


def _near(answers) -> list[list[str]]:
    """The answers one letter away from each, with the space before them."""
    return [[f" {x}" for x in near] for near in rivals([answer[1:] for answer in answers])]


def _asked(answers, **how) -> tuple[list[str], list[str]]:
    return spelling([answer[1:] for answer in answers], **how)


def _by_layer(model, answers, prompts, p, more, seed, **how):
    """What the lens follows after each layer; the prompts ask for the answers in this order."""
    fit = [[sum(a == b for a, b in zip(x, y, strict=False)) for y in answers] for x in answers]
    targets = {"prior": p, "evidence": torch.tensor(fit), "right": torch.eye(len(answers)), **more}
    return correlate(model, prompts, answers, targets, seed=seed, **how)


def _as_neutral(model, block) -> list:
    """Edits that give what a block writes at the last position its mean in the neutral frames."""
    sites = [f"{block}.attn_out", f"{block}.mlp_out"]
    trace = ins.run(model, list(NEUTRAL_FRAMES), read=sites, reduce="last")
    return [ins.replace(site, trace[site].flatten(1).mean(0), at=-1) for site in sites]


def _habits(given, due, dominated, p) -> dict[str, float]:
    right, hard = given == due, dominated[due]
    follows = p[given] > p[due]
    shares = {"right, dominated": right[hard], "right, neutral": right[~hard], "commoner": follows}
    return {name: _share(flags) for name, flags in shares.items()}


def _larger(name, words, seed, progress) -> dict:
    """Words and fragments of three to five letters, chosen among what is one letter away from the word."""
    model, rng = ins.open(name), random.Random(seed)
    tokens = Tokens(model)
    every = [x for text in BY_LETTER.values() for x in text.split() if "x" not in x]
    pools = [[x for x in (WORDS if n == 3 else every) if len(x) == n] for n in (3, 4, 5)]
    drawn = [word for pool in pools for word in rng.sample(pool, words)]
    families = [
        [x for x in (word, *near, *made) if not tokens.unknown(f"the {x}")]
        for word, near, made in zip(
            drawn, rivals(drawn, [x for pool in pools for x in pool]), fragments(drawn, 3, seed=seed), strict=True
        )
    ]
    families = [family for family in families if family]
    made = {x for xs in fragments(drawn, 3, seed=seed) for x in xs}
    items = [
        (word, [word, *(x for x in family if x != word)], i)
        for i, family in enumerate(families) if len(family) > 1
        for word in (family[0], next((x for x in family if x in made), None)) if word
    ]  # fmt: skip
    among = [x for family in families for x in (family[0], family[-1])]
    prompts, right = spelling([word for word, _, _ in items], shots=4, among=among, seed=seed)
    options = [[f" {x}" for x in family] for _, family, _ in items]
    family, length = [i for _, _, i in items], torch.tensor([[float(len(word))] for word, _, _ in items])
    common = prior(model, [x for xs in options for x in xs], progress=progress)
    dominated = common.lead(right, [xs[1:] for xs in options]) > MARGIN
    both = instructed(model, prompts, INSTRUCTION, NEUTRAL, form="{said}\n{prompt}")
    asked, is_right, lift = [], {}, common.of(right)
    for how, texts in (("plain", prompts), ("instruction", both.prompts), ("neutral sentence", both.control)):
        best = choose(model, texts, options, rows=16, progress=progress).index.tolist()
        given = common.of([xs[i] for xs, i in zip(options, best, strict=True)])
        is_right[how] = torch.tensor(best) == 0
        pull = prior_pull(lift, is_right[how], given, covariates=length, by=family, seed=seed)
        asked.append({
            "asked": how, "right": pull.accuracy.value, "slope": pull.followed.value, "low": pull.followed.low,
            "high": pull.followed.high, "p": pull.slope.p if pull.slope else None,
            "errors that are commoner": pull.asymmetry.value if pull.asymmetry else None,
            "dealt": pull.asymmetry_null, "right, dominated": _share(is_right[how][dominated]),
            "right, neutral": _share(is_right[how][~dominated]),
        })  # fmt: skip
    moved = (is_right["instruction"].double() - is_right["neutral sentence"].double())[dominated]
    grouped = [f for f, d in zip(family, dominated, strict=True) if d]
    answers = tokens.ones(LINE, [f" {word}" for word in WORDS])
    lists, _ = _asked(answers, shots=4, among=[a[1:] for a in answers], seed=seed)
    p = prior(model, answers).log_probs
    found = _by_layer(model, answers, lists, p, {}, seed)
    values = {"prior": "prior", "letters that fit": "evidence", "right answer": "right"}
    return {
        "p": float(sign_flip_test(moved, by=grouped, alternative="greater", seed=seed).p),
        "peak": found.peak("prior"), "asked": asked,
        "layers": [{"stage": stage, **{name: float(found.value[key][i]) for name, key in values.items()},
                    "p of prior": float(found.p["prior"][i])} for i, stage in enumerate(("before", *found.layers))],
        "also": {"larger_items": len(items), "larger_dominated": int(dominated.sum()),
                 "larger_chance": _mean([1 / len(xs) for xs in options]),
                 "larger_prior_band": found.band("prior"), "instruction_gain": bootstrap(moved, by=grouped, seed=seed)},
    }  # fmt: skip


def _share(flags) -> float:
    return float(flags.double().mean()) if len(flags) else math.nan


def _mean(values) -> float:
    return sum(values) / len(values)
