"""All for one: numbers wait for one another, and the last token reads them in a few layers and adds them up alone.

Replaces the states of all tokens at a layer by what each knows from itself alone (means over all sums with the same
number there), lets the last token read them in some layers, and leaves it alone in the rest. Sums of three numbers
decide the claims; sums of two, and one-digit sums of the demo model behind four solved ones, are reported.
Cost: three minutes on one core, and five more for the demo model. Differs from the source: a six-layer net trained on
sums up to 49, whose means are over the whole grid of sums, in place of Llama-3-8B, Pythia and GPT-J; every pair of
waiting and transfer layers is looked at; windows at other layers stand beside the one found. Sums have a largest value,
so that a large number tells something of the others: means by number keep that much.
"""

import itertools
from typing import Any

import inscape as ins
from inscape import tasks
from inscape.circuits.bank import ablation_bank
from inscape.circuits.transfer_heads import HeadsNeeded, heads_needed
from inscape.circuits.transfer_window import TransferWindow, transfer_window
from inscape.core.drawing import Drawing
from inscape.core.nulls import share
from inscape.core.paper import Claim, Paper, Result
from inscape.core.progress import tell

PAPER = Paper(
    name="all-for-one",
    title="All for One: LLMs Solve Mental Math at the Last Token With Information Transferred From Other Tokens",
    authors="Siddarth Mamidanna, Daking Rai, Ziyu Yao, Yilun Zhou",
    year=2025,
    link="https://arxiv.org/abs/2509.09650",
    control="means by position; means of other numbers; windows of the same length at other layers; one guess",
    claims=(
        Claim("waits", "tokens can wait for one another up to some layer, counted from 0: at every layer up to it, "
              "their means by number keep all but 2 % of the answers", at_least=1, control="means by position"),
        Claim("identity", "and there they keep at least 30 points more than means by position", at_least=0.30,
              control="means of other numbers"),
        Claim("window", "some waiting and transfer layers, with a layer left over, keep at least 0.9 of the answers",
              at_least=0.9, control="windows of the same length at other layers, on average"),
        Claim("placed", "that is at least 20 points more than windows of the same length at other layers",
              at_least=0.20),
        Claim("needed", "with the last token kept from looking in the transfer layers, at most 10 points more answers "
              "are right than by one guess", at_most=0.10, control="kept from looking in as many other layers"),
        Claim("shuffled", "means of other numbers destroy the answers: at most 20 % are left where waiting ends",
              at_most=0.20, control="means of the number itself"),
        Claim("other_form", "the same layers keep at least 0.8 of the answers to another form of the question",
              at_least=0.8, control="windows of the same length at other layers, on average"),
    ),
)  # fmt: skip
QUICK = dict(pairs=40, largest=12, demo="")
THREE, TWO = "{a} {op_1} {b} {op_2} {c} =", "{a} {op_1} {b} ="
ASKED = "what is {a} {op_1} {b} {op_2} {c} ?"
SAID = {"key": "the number's mean", "alone": "every token alone", "position": "the position's mean",
        "shuffled": "another number's mean"}  # fmt: skip
SHOTS = "1 + 2 = 3\n5 + 3 = 8\n4 + 0 = 4\n2 + 6 = 8\n"


def run(
    model="toy-arithmetic", *, pairs: int = 300, largest: int = 49, demo: str = "gemma-3-270m", seed: int = 0,
    progress=None,
) -> Result:  # fmt: skip
    model = ins.open(model) if isinstance(model, str) else model
    common: dict[str, Any] = dict(finish=1, seed=seed, progress=progress)
    sums = tasks.arithmetic(model, pairs, operands=3, largest=largest, template=THREE, seed=seed)
    bank = _bank(model, sums, THREE, largest, progress)
    three = transfer_window(model, sums, bank, **common)
    asked = tasks.arithmetic(model, pairs, operands=3, largest=largest, template=ASKED, seed=seed)
    asked_bank = _bank(model, asked, ASKED, largest, progress)
    other = transfer_window(model, asked, asked_bank, wait=three.wait, transfer=three.transfer, **common)
    pair = tasks.arithmetic(model, pairs, largest=largest, template=TWO, seed=seed)
    pair_bank = _bank(model, pair, TWO, largest, progress)
    two = transfer_window(model, pair, pair_bank, **common)
    heads = heads_needed(model, sums, bank, three.wait, three.transfer, seed=seed, progress=progress)
    at = max(1, three.waits())
    key, position, shuffled = (float(three.waiting[how][at]) for how in ("key", "position", "shuffled"))
    measured = {
        "waits": three.waits(), "identity": key - position,
        "window": share(three.right[three.wait, three.transfer - 1]),
        "placed": three.faithfulness - _mean(three.elsewhere), "needed": three.blocked - three.guess,
        "shuffled": shuffled, "other_form": share(other.right[other.wait, other.transfer - 1]),
    }  # fmt: skip
    controls = {
        "waits": three.waits(how="position"), "identity": shuffled - position, "window": _mean(three.elsewhere),
        "needed": _mean(three.blocked_elsewhere) - three.guess, "shuffled": key, "other_form": _mean(other.elsewhere),
    }  # fmt: skip
    found = (("a + b + c =", three, bank), ("what is a + b + c ?", other, asked_bank), ("a + b =", two, pair_bank))
    rows = [_row(*each) for each in found] + ([_demo(demo, seed, progress)] if demo else [])
    spare, spare_random = heads.spare()
    return Result(
        PAPER, measured, controls, seed=seed, notes=str(three),
        series={SAID[how]: curve.tolist() for how, curve in three.waiting.items()},
        tables={"windows": rows, "answers kept by wait and transfer": _surface(three), "heads": _without(heads)},
        also={"heads": len(heads.order), "heads that can go": spare, "in random order": spare_random},
        figure=Drawing("lines", show=(SAID["key"], SAID["alone"]),
                       control=(SAID["position"], SAID["shuffled"]), x=tuple(map(float, range(len(three.layers)))),
                       x_title="layer whose input is replaced", y_title="share of the answers kept"),
    )  # fmt: skip


def _bank(model: Any, sums: tasks.Pairs, template: str, largest: int, progress: Any) -> Any:
    """Means by position and token over the whole grid: every choice of numbers whose sum has come up."""
    operands, top = len(sums.facts["operands"][0]), max(sums.facts["result"])

    def asked(values: tuple[int, ...]) -> str:
        return template.format(**dict(zip("abc", values, strict=False)), op_1="+", op_2="+")

    end = sums.clean[0].removeprefix(asked(sums.facts["operands"][0]))
    grid = [v for v in itertools.product(range(largest + 1), repeat=operands) if sum(v) <= top]
    return ablation_bank(model, [asked(v) + end for v in grid], "layers.*.resid_pre", pool=0, progress=progress)


def _demo(name: str, seed: int, progress: Any) -> dict[str, Any]:
    """The staged search of the source on one-digit sums of a real model."""
    tell(progress, f"one-digit sums of {name}")
    model, template = ins.open(name), SHOTS + "{a} {op_1} {b} ="
    sums = tasks.arithmetic(model, 24, largest=9, template=template, seed=seed)
    bank = _bank(model, sums, template, 9, progress)
    found = transfer_window(
        model, sums, bank, finish=1, search="staged", n_elsewhere=5, controls=("position",), seed=seed,
        progress=progress,
    )  # fmt: skip
    return _row(f"{name}, a + b =, 4 shots", found, bank)


def _row(what: str, found: TransferWindow, bank: Any) -> dict[str, Any]:
    fixed = bool(found.waiting["key"].isnan().any())  # the layers of another form are tried, none is searched
    of_means = bank.norm_ratio[f"{found.layers[found.wait]}.resid_pre"]
    return {
        "task": what, "prompts": found.n, "accuracy": found.accuracy, "layers": len(found.layers), "wait": found.wait,
        "transfer": found.transfer, "kept": found.faithfulness, "of all": found.relative,
        "elsewhere": _mean(found.elsewhere), "blocked": found.blocked,
        "blocked elsewhere": _mean(found.blocked_elsewhere), "guess": found.guess,
        "waits": None if fixed else found.waits(), "waits by position": None if fixed else found.waits(how="position"),
        "|mean| / |h|": of_means["key"], "by position": of_means["position"],
    }  # fmt: skip


def _surface(found: TransferWindow) -> list[dict[str, Any]]:
    n = len(found.layers)
    return [
        {"wait": w} | {f"transfer {t + 1}": float(found.surface[w, t]) if w + t < n else None for t in range(n)}
        for w in range(n)
    ]


def _without(heads: HeadsNeeded) -> list[dict[str, Any]]:
    kept = zip(heads.order, heads.alone.tolist(), strict=True)
    return [{"layer": layer, "head": head, "kept without it": share} for (layer, head), share in kept]


def _mean(values: dict[int, float]) -> float:
    return sum(values.values()) / len(values)
