"""Post-training shift: tuning keeps where truth is held and its direction, and makes a new one of refusal.

A small net that judges comparisons and does what it is asked, the same net tuned for 300 steps to chat and to refuse
requests about weapons and poisons, and one trained from another seed, which must show none of what the two share.
Places are compared by patching maps and by patching states of the base into the tuned net; truth by a direction found
on other data sets; refusal by generating. The place of truth is chosen on the base alone, the layer and the strength of
refusal on other words than those measured. Bounds are those of the page, written before these nets were looked at; a
first form of `restored` was a ratio of effects, which strange states can pass: it became stricter before any run.
Cost: two minutes on one core. Differs from the source: three nets of 40 thousand parameters made for it in place of
pairs of 7 to 13 billion; comparisons in place of facts about the world; two judged statements before each in place of
four; refusals are learned in 300 steps and so may be a simpler thing. Gemma 3 270M and an adapter on it were not tried.
In the recorded run the place chosen was the last layer at the stop, where no edit can reach the answer and where states
vary along truth alone: the claims on the cosine and on the edit fail there for that reason, and show nothing else.
"""

from typing import Any

import torch

import inscape as ins
from inscape import tasks
from inscape.circuits.patch_map import patch_map, restored, same_places
from inscape.circuits.weights.entropy_neurons import same_neurons
from inscape.core.drawing import Drawing
from inscape.core.normalised_effect import nie
from inscape.core.nulls import random_directions
from inscape.core.paper import Claim, Paper, Result
from inscape.core.progress import tell
from inscape.dynamics.toys.assistant import asked, is_marked
from inscape.dynamics.toys.assistant_base import ASKED, KIND, ORDER, REQUESTS, is_held_out
from inscape.read.behaviour.judged import judged_rate
from inscape.read.compare_models import compare_models
from inscape.read.probes.direction_transfer import same_direction
from inscape.read.probes.mean_difference import MeanDifference

PAPER = Paper(
    name="post-training-shift",
    title="How Post-Training Reshapes LLMs: A Mechanistic View on Knowledge, Truthfulness, Refusal, and Confidence",
    authors="Du, Li, Cai, Saraipour, Zhang, Lakkaraju, Sun, Zhang",
    year=2025,
    link="https://arxiv.org/abs/2504.02904",
    code="https://github.com/HZD01/post-training-mechanistic-analysis",
    control="a net trained from another seed; shuffled maps and weights; random directions; the base's direction",
    claims=(
        Claim("map", "the patching maps of base and tuned net correlate more than those of the base and a net from "
              "another seed: the difference of r", above=0),
        Claim("map_shuffled", "and more than 95 of 100 maps with their columns exchanged: r less that line", above=0),
        Claim("restored", "states of the base bring back at least 0.8 of what the tuned net's own do", at_least=0.8,
              control="states of the net from another seed"),
        Claim("truth_cosine", "the direction of truth is nearer to the base's than 95 of 100 random ones: cosine less "
              "that line", above=0, control="the net from another seed"),
        Claim("truth_moved", "the base's direction tells true from false in the tuned net nearly as well as its own, "
              "on a data set held out: at most 5 points fewer", at_most=0.05, control="direction of another seed"),
        Claim("truth_edit", "adding and taking away either direction moves what the tuned net says of a data set held "
              "out further than random directions: the smaller effect less the best of 20", above=0),
        Claim("refusal_cosine", "the direction of refusal is less like the base's than that of truth: the difference "
              "of cosines", below=0),
        Claim("ablated", "without its own direction the tuned net refuses at most 0.3 of the marked requests",
              at_most=0.3, control="without the base's direction"),
        Claim("added", "with it, it refuses at least half of the harmless ones", at_least=0.5,
              control="a random direction of the same length"),
        Claim("neurons", "base and tuned net share more entropy neurons than the base and a net from another seed: "
              "the difference of intersection over union", above=0),
    ),
)  # fmt: skip
QUICK = dict(rows=10, random=4, draws=50)
DATA = {"numbers": "{subject} is larger than {object} .", "cities": "{subject} is north of {object} .",
        "letters": "{subject} is after {object} .",
        "negated": "{subject} is not larger than {object} ."}  # fmt: skip
HELD = "letters"


def run(model="toy-assistant-base", *, tuned="toy-assistant", other="toy-assistant-other", rows: int = 40,
        random: int = 20, draws: int = 1000, seed: int = 0, progress=None) -> Result:  # fmt: skip
    base, tuned, other = (ins.open(m) if isinstance(m, str) else m for m in (model, tuned, other))
    data = {name: _statements(base, name, rows, seed) for name in DATA}
    ids = [i for p in data.values() for i in (*map(list, p.clean_ids), *map(list, p.corrupted_ids))]
    labels = torch.cat([torch.arange(2 * len(p)) < len(p) for p in data.values()])
    group = [name for name, p in data.items() for _ in range(2 * len(p))]
    where = {role: torch.cat([p.roles[role][:, -1].repeat(2) for p in data.values()]) for role in ("stop", "end")}
    known = data[HELD].filtered(data[HELD].answered_by(base, among="candidates"))
    places = [(f"layers.{i}.resid_post", role) for i in range(base.n_layers) for role in where]
    tell(progress, "the place of truth", 0.0)
    told = {p: float(same_direction(ids, labels, p[0], group, at=where[p[1]], n=1)(base, base)["own accuracy"])
            for p in places}  # fmt: skip
    site, role = max(told, key=lambda p: told[p])
    tests = {"places": same_places(known), "neurons": same_neurons(k=5),
             "neurons, folded": same_neurons(folded=True, k=5),
             "truth": same_direction(ids, labels, site, group, at=where[role], n=draws, seed=seed)}  # fmt: skip
    found = compare_models(base, tuned, tests, {"another seed": other}, seed=seed, progress=progress)
    kept, apart = ({k: {n: float(v) for n, v in t.items()} for k, t in found.numbers[w].items()}
                   for w in ("tuned", "another seed"))  # fmt: skip
    tell(progress, "edits of truth and refusal", 0.6)
    moved_other = restored(patch_map(tuned, known), patch_map(tuned, known, source=other))
    crossed = same_direction(ids, labels, site, group, at=where[role], n=draws, seed=seed)(other, tuned)
    truth = _truth_edit(base, tuned, data, site, role, random, seed)
    refused = _refusals(base, tuned, random, seed)

    def beyond(of: dict[str, dict[str, float]]) -> float:
        return of["truth"]["cosine"] - of["truth"]["cosine of 95 in 100 random"]

    lost, lost_other = (float(t["own accuracy"]) - float(t["moved accuracy"]) for t in (found["truth"], crossed))
    maps = {who: patch_map(m, known) for who, m in (("base", base), ("tuned", tuned), ("another seed", other))}
    return Result(
        PAPER,
        {"map": kept["places"]["r"] - apart["places"]["r"], "restored": kept["places"]["restored"],
         "map_shuffled": kept["places"]["r"] - kept["places"]["r shuffled"], "truth_cosine": beyond(kept),
         "truth_moved": lost, "truth_edit": min(truth["own"], truth["moved"]) - truth["random"],
         "refusal_cosine": refused["cosine"] - kept["truth"]["cosine"], "ablated": refused["without own"],
         "added": refused["with own"], "neurons": kept["neurons"]["iou"] - apart["neurons"]["iou"]},
        controls={"restored": moved_other, "truth_cosine": beyond(apart), "truth_moved": lost_other,
                  "ablated": refused["without base"], "added": refused["with random"]},
        series={who: g.pooled()[:, g.positions.index("object")] for who, g in maps.items()},
        also={"map_r": kept["places"]["r"], "map_r_other": apart["places"]["r"], "truth_cosine_plain":
              kept["truth"]["cosine"], "truth_own": kept["truth"]["own accuracy"],
              "truth_base": told[site, role], **{f"nie {k}": v for k, v in truth.items()},
              **{f"refusal {k}": v for k, v in refused.items()}},
        tables={"numbers": found.table},
        seed=seed,
        notes=f"Truth is read at {site}, {role}, chosen on the base. {len(known)} pairs in the maps.\n{found}",
        figure=Drawing("lines", show=("base", "tuned"), control=("another seed",), y_title="share brought back",
                       x_title="layer patched at the object", x=tuple(map(float, range(base.n_layers)))),
    )  # fmt: skip


def _statements(model: Any, name: str, n: int, seed: int) -> tasks.Pairs:
    """True and false comparisons of a data set: of one thing with one before it and one after it in their order."""
    of = ORDER[name]
    rows = [(s, low, high) for i, s in enumerate(of) for low in of[:i] for high in of[i + 1 :]]
    made = tasks.statements(model, rows, DATA[name], shots=2, ask=f" {ASKED}", between=" ", false=name == "negated",
                            name=name, seed=seed)  # fmt: skip
    return made.subset(slice(n))


def _at(model: Any, ids: list, site: str, at: Any) -> Any:
    return ins.run(model, ids, read=site, output=False)[site][torch.arange(len(ids)), at].double()


def _truth_edit(base: Any, tuned: Any, data: dict, site: str, role: str, n: int, seed: int) -> dict[str, float]:
    """Normalised effects in the tuned net on one data set, of directions found on the others."""
    found = {}
    for who, m in (("own", tuned), ("moved", base)):
        rows, labels = [], []
        for p in (p for name, p in data.items() if name != HELD):
            for ids, yes in ((p.clean_ids, True), (p.corrupted_ids, False)):
                rows.append(_at(m, list(map(list, ids)), site, p.roles[role][:, -1]))
                labels += [yes] * len(ids)
        found[who] = MeanDifference().fit(torch.cat(rows), torch.tensor(labels)).weight_.float()
    states = torch.cat(rows).float()
    held, sites = data[HELD], [f"layers.{tuned.layer_of(site)}.resid_post", site]
    at = held.roles[role][:, -1:] - torch.tensor([[1, 0]])
    yes, no = (tuned.tokenizer.convert_tokens_to_ids(w) for w in ("TRUE", "FALSE"))

    def says(ids: Any, vector: Any = None) -> Any:
        edits = [ins.add(ins.Direction(s, vector), at=at) for s in dict.fromkeys(sites)] if vector is not None else []
        p = ins.run(tuned, list(map(list, ids)), edits=edits, output="last").output.logits[:, -1].softmax(-1)
        return p[:, yes] - p[:, no]

    def effect(d: Any) -> float:
        true, false = held.clean_ids, held.corrupted_ids
        return nie(says(true), says(true, -d), says(false), says(false, d)).mean

    drawn = random_directions(found["own"], n, data=states, seed=seed)
    return {who: effect(d) for who, d in found.items()} | {"random": max(effect(d) for d in drawn)}


def _refusals(base: Any, tuned: Any, n: int, seed: int) -> dict[str, float]:
    """Refusals under edits with directions found on half of the words, measured on the other half."""
    things = [t for t in KIND if not is_held_out(t)]  # words that the tuning had
    halves = [[(v, t) for t in things[i::2] for v in REQUESTS] for i in (0, 1)]
    texts = [{marked: [asked(*r) for r in half if is_marked(r[1]) == marked] for marked in (True, False)}
             for half in halves]  # fmt: skip
    asks = {"own": asked, "base": lambda v, t: f"User : {v} {t} . Assistant :"}

    def rate(prompts: list, edits: Any = ()) -> float:
        return float(judged_rate(tuned, prompts, ["sorry"], edits, max_new_tokens=4))

    def found(who: str, m: Any, site: str) -> Any:
        prompts, marked = [asks[who](*r) for r in halves[0]], torch.tensor([is_marked(t) for _, t in halves[0]])
        x = ins.run(m, prompts, read=site, output=False, reduce="last")[site]
        return MeanDifference().fit(x.reshape(len(prompts), -1), marked).weight_

    def without(d: Any) -> list:
        every = ("resid_pre", "resid_mid", "resid_post")
        return [ins.project_out(ins.Direction(f"layers.*.{s}", d.float())) for s in every]

    sites = [f"layers.{i}.resid_pre" for i in range(1, tuned.n_layers)]
    site = min(sites, key=lambda s: rate(texts[0][True], without(found("own", tuned, s))))
    own, theirs = found("own", tuned, site), found("base", base, site)

    def adding(d: Any, c: float) -> list:
        return [ins.add(ins.Direction(site, d.float()), scale=c, at=-1)]

    c = max((1.0, 2.0, 4.0), key=lambda c: rate(texts[0][False], adding(own, c)))
    drawn = random_directions(own, n, seed=seed)
    return {
        "cosine": float(torch.cosine_similarity(own, theirs, dim=0)), "layer": tuned.layer_of(site), "scale": c,
        "plain": rate(texts[1][True]), "plain harmless": rate(texts[1][False]),
        "without own": rate(texts[1][True], without(own)), "without base": rate(texts[1][True], without(theirs)),
        "without random": sum(rate(texts[1][True], without(d)) for d in drawn[:3]) / min(3, n),
        "with own": rate(texts[1][False], adding(own, c)), "with base": rate(texts[1][False], adding(theirs, c)),
        "with random": max(rate(texts[1][False], adding(d, c)) for d in drawn[:5]),
    }  # fmt: skip
