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

import torch

import inscape as ins
from inscape.core.drawing import Drawing
from inscape.core.nulls import bootstrap, sign_flip_test
from inscape.core.paper import Claim, Paper, Result
from inscape.read.behaviour.choices import choose
from inscape.read.behaviour.instruction import instructed
from inscape.read.behaviour.prior import prior, prior_pull
from inscape.read.localize import correlate
from inscape.tasks.acronym import SPELLED, rivals, spelling
from inscape.tasks.spelling_choices import spelling_choices
from inscape.tasks.split import split_by_answer
from inscape.tasks.tokens import Tokens
from inscape.tasks.words import NEUTRAL_FRAMES
from inscape.tune.compare_layers import Round, compare_layers

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

    def answered(texts, edits=()) -> torch.Tensor:
        return ins.run(model, texts, edits=list(edits), output="last").output.logits[:, -1, ids].argmax(-1)

    def said(rows) -> torch.Tensor:
        return answered([prompts[i] for i in rows])

    def pull(rows, given, p=p):
        return prior_pull(p[due[rows]], given == due[rows], p[given], by=due[rows].tolist(), seed=seed)

    everything = torch.arange(len(due))
    given = said(everything)
    before = pull(everything, given)
    dealt = p[torch.randperm(len(p), generator=torch.Generator().manual_seed(seed))]
    by_layer = _by_layer(model, answers, prompts[: len(answers)], p, {"dealt": dealt}, seed)
    layer = by_layer.peak("prior")
    subtracted = _by_layer(model, answers, prompts[: len(answers)], p, {}, seed, baseline=list(NEUTRAL_FRAMES))
    swapped = {block.name: answered(prompts, _as_neutral(model, block.name)) for block in model.blocks}

    rounds = []
    for s in range(seed, seed + seeds):
        train, rest = split_by_answer(answers, stratify=p.tolist(), test=0.5, seed=s)
        sides = split_by_answer([answers[i] for i in rest], stratify=p[rest].tolist(), test=0.7, seed=s)
        held, test = (torch.isin(due, torch.tensor([rest[i] for i in side])).nonzero()[:, 0] for side in sides)
        lists, fresh = ([answers[i] for i in train if dominated[i] == hard] for hard in (True, False))
        new = _asked(lists * copies, seed=s + 2000)[0], torch.tensor([answers.index(x) for x in lists * copies])
        rounds.append(Round(
            *_asked((lists * examples)[:examples], seed=s + 1000), held, test, torch.tensor(train), seed=s,
            more={"not dominated": _asked((fresh * examples)[:examples], seed=s + 1000)},
            score=lambda _, new=new: {"trained": _share(answered(new[0]) == new[1])},
        ))  # fmt: skip
    kinds = {"dominated": dominated[due], "neutral": ~dominated[due]}
    tried = compare_layers(model, layer, rounds, said, due, kinds, steps=steps, lr=1e-3, progress=progress)
    rows, gained = tried.rows, {
        (name, kind): tried.gained(kind, name, seed=seed) for name in tried.after for kind in tried.kinds
    }  # fmt: skip
    first, last = pull(rows, tried.before), pull(rows, tried.after["tuned"])
    left = last.followed.value / first.followed.value if last.followed.excludes() else 0.0
    names = [block.name for block in model.blocks]
    big = _larger(larger, words, seed, progress)
    stages = ["before", *names]
    return Result(
        PAPER,
        {
            "slope": before.followed.low, "slope_p": before.slope.p if before.slope else 1.0,
            "prior_layer": float(by_layer.value["prior"][1:].max()) - by_layer.band("prior"),
            "dominated_gain": gained["tuned", "dominated"],
            "gain_beyond_neutral": bootstrap(
                (tried.gain(), tried.kinds["dominated"]), lambda g, h: g[h].mean() - g[~h].mean(), by=due[rows],
                method="percentile", seed=seed,
            ),
            "slope_left": left, "no_shift": tried.said_trained["tuned"] - tried.said_trained["before"],
            "layer_beats_median": tried.beyond_median("dominated"),
            "instruction_p": big["p"],
        },
        controls={
            "slope": pull(everything, given, dealt).followed.low,
            "prior_layer": float(by_layer.value["dealt"][1:].max()) - by_layer.band("dealt"),
            "dominated_gain": gained["exchanged", "dominated"].value,
            "no_shift": tried.said_trained["exchanged"] - tried.said_trained["before"],
        },
        series={
            "prior": by_layer.value["prior"], "letters that fit": by_layer.value["evidence"],
            "gain of tuning the layer": [math.nan, *(tried.layers[name]["dominated"] for name in names)],
            "gain, prior not dominating": [math.nan, *(tried.layers[name]["neutral"] for name in names)],
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
                 **{f"gain, {kind}": tried.layers.get(stage, {}).get(kind) for kind in tried.kinds},
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
            "rank_of_layer": tried.rank("dominated"),
            "gain_at_jump": tried.layers[by_layer.jump("prior")]["dominated"],
            "accuracy_trained_answers": tried.scores["trained"],
            "steps": tried.steps,
            **{f"train_answers_{x}": tried.said_trained[x] for x in ("before", "tuned", "exchanged")},
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
    """Words and fragments of three to five letters, with the instruction and with the neutral sentence."""
    model = ins.open(name)
    items = spelling_choices(model, words, seed=seed)
    prompts, options, length = items.prompts, items.options, torch.tensor(items.lengths)[:, None].float()
    common = prior(model, [x for xs in options for x in xs], progress=progress)
    dominated = common.lead(items.right, [xs[1:] for xs in options]) > MARGIN
    both = instructed(model, prompts, INSTRUCTION, NEUTRAL, form="{said}\n{prompt}")
    asked, is_right, lift = [], {}, common.of(items.right)
    for how, texts in (("plain", prompts), ("instruction", both.prompts), ("neutral sentence", both.control)):
        best = choose(model, texts, options, rows=16, progress=progress).index.tolist()
        given = common.of([xs[i] for xs, i in zip(options, best, strict=True)])
        is_right[how] = torch.tensor(best) == 0
        pull = prior_pull(lift, is_right[how], given, covariates=length, by=items.family, seed=seed)
        asked.append({
            "asked": how, "right": pull.accuracy.value, "slope": pull.followed.value, "low": pull.followed.low,
            "high": pull.followed.high, "p": pull.slope.p if pull.slope else None,
            "errors that are commoner": pull.asymmetry.value if pull.asymmetry else None,
            "dealt": pull.asymmetry_null, "right, dominated": _share(is_right[how][dominated]),
            "right, neutral": _share(is_right[how][~dominated]),
        })  # fmt: skip
    moved = (is_right["instruction"].double() - is_right["neutral sentence"].double())[dominated]
    grouped = [f for f, d in zip(items.family, dominated, strict=True) if d]
    answers = Tokens(model).ones(LINE, [f" {word}" for word in WORDS])
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
                 "larger_chance": items.chance,
                 "larger_prior_band": found.band("prior"), "instruction_gain": bootstrap(moved, by=grouped, seed=seed)},
    }  # fmt: skip


def _share(flags) -> float:
    return float(flags.double().mean()) if len(flags) else math.nan
