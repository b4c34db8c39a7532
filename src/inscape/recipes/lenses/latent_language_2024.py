"""Latent language: between its layers a model may say the answer in a language that nobody asked for.

Small nets that read made-up languages a, b and c, as many translations of each, and nine times as much text in a as in
b, as much of both, or nine times as much in b: asked to translate c into b, how probable is the right word of a between
the layers? Then Gemma 3 270M, asked in prompts that hold no English, and the right word in six languages.
The design of the small nets was settled on two nets of another seed, which were read with the lens before the bounds
were written (a had 0.16 and 0.20 between the layers of the nets that read mostly a and as much of both): the bounds are
what the paper leads one to expect. Nothing of Gemma had been read with a lens.
Cost: nine nets of half a minute, and some 260 prompts of Gemma. Differs from the source: made-up languages whose shares
are known and a model of 270 million in place of Llama 2, Swallow and LLM-jp; the word of another item as a control.
"""

from dataclasses import replace
from typing import Any

import torch

import inscape as ins
from inscape.core.drawing import Drawing
from inscape.core.paper import Claim, Paper, Result
from inscape.core.progress import tell
from inscape.dynamics.parallel_languages import train_on_languages
from inscape.read.lenses.language import LanguageProfile, language_profile
from inscape.read.lenses.language_direction import language_directions
from inscape.tasks.many_languages import LanguagePrompts, cloze, definitions, nouns, translation
from inscape.tasks.parallel_languages import ParallelLanguages

PAPER = Paper(
    name="latent-language",
    title="Beyond English-Centric LLMs: What Language Do Multilingual Language Models Think in?",
    authors="Zhong, Cheng, Liu, Jiang, Wan, Chu, Murawaki, Kurohashi",
    year=2024,
    link="https://arxiv.org/abs/2408.10811",
    control="the words of another item; random sets of as many tokens",
    claims=(
        Claim("gap_to_even", "between the layers the right word of a, which nobody asked for, is more probable in nets "
              "that read mostly a than in nets that read as much of b", at_least=0.03, control="another item's word"),
        Claim("gap_to_rare", "and more probable than in nets that read mostly b", at_least=0.03,
              control="another item's word"),
        Claim("accuracy_spread", "all nets translate equally well", at_most=0.05),
        Claim("random_over_share", "random sets have about their share of the vocabulary between the layers",
              at_least=0.3, at_most=2),
        Claim("target_leads", "Gemma ends in the language it is asked for, in every task by this probability or more",
              at_least=0.05, control="another item's words"),
        Claim("english_between", "in this share of the tasks English leads the languages that no prompt shows, in two "
              "or more neighbouring layers before the last", at_least=0.5, control="another item's words"),
        Claim("random_below", "where English is most probable before the last layer, random sets of as many tokens "
              "have less than this share of it", at_most=0.1),
    ),
)  # fmt: skip
QUICK = dict(model="small", nets=1, steps=25, things=6, prompts=6)
SHARES = {"mostly a": (0.9, 0.1, 0.25), "as much of both": (0.5, 0.5, 0.25), "mostly b": (0.1, 0.9, 0.25)}
PAIRS = (("fr", "de"), ("de", "fr"), ("fr", "zh"), ("zh", "fr"))


def run(model="gemma-3-270m", *, nets: int = 3, steps: int = 400, things: int = 24, prompts: int = 48,
        seed: int = 0, progress=None) -> Result:  # fmt: skip
    made = ParallelLanguages(things=things, doings=max(3, things // 2), seed=seed)
    rows: list[dict[str, Any]] = []
    small: dict[str, Any] = {}
    for i in range(nets):
        for j, (name, shares) in enumerate(SHARES.items()):
            tell(progress, f"a net that reads {name}, {i + 1} of {nets}", 0.8 * (3 * i + j) / (3 * nets))
            net, right = train_on_languages(made, shares, steps=steps, seed=1000 * seed + i)
            small[name] = net
            rows.append({"net": name, "seed": i, "accuracy": right, **_between(net, made, seed)})
    found = {name: {key: [r[key] for r in rows if r["net"] == name] for key in ("a", "other a")} for name in SHARES}
    gap = {key: {rival: _mean(found["mostly a"][key]) - _mean(found[rival][key]) for rival in list(SHARES)[1:]}
           for key in ("a", "other a")}  # fmt: skip
    accuracies = [r["accuracy"] for r in rows]
    profile = _real(model, small["as much of both"], made, prompts, seed, progress)
    swapped = replace(profile, mass=profile.swapped, swapped=profile.mass)
    english = profile.languages[0]
    mean = {name: values.nanmean(-1).mean(0) for name, values in (("own", profile.mass), ("other", profile.swapped),
            ("random", profile.random))}  # fmt: skip
    best = int(mean["own"][:-1, 0].argmax())
    rest = list(range(1, len(profile.languages)))
    latent = [profile.latent(i) for i in range(len(profile.tasks))]
    return Result(
        PAPER,
        {
            "gap_to_even": gap["a"]["as much of both"],
            "gap_to_rare": gap["a"]["mostly b"],
            "accuracy_spread": max(accuracies) - min(accuracies),
            "random_over_share": _mean([r["random over share"] for r in rows]),
            "target_leads": _lead(profile),
            "english_between": _between_share(profile),
            "random_below": float(mean["random"][best, 0] / mean["own"][best, 0].clamp(min=1e-12)),
        },
        controls={
            "gap_to_even": gap["other a"]["as much of both"],
            "gap_to_rare": gap["other a"]["mostly b"],
            "target_leads": _lead(swapped),
            "english_between": _between_share(swapped),
        },
        series={
            english: mean["own"][:, 0],
            "asked for": torch.stack([m.nanmean(-1)[:, profile.languages.index(t.target)]
                                      for m, t in zip(profile.mass, profile.tasks, strict=True)]).mean(0),
            "mean of the others": mean["own"][:, rest].mean(1),
            f"{english}, another item's word": mean["other"][:, 0],
            f"{english}, random tokens": mean["random"][:, 0],
        },
        also={
            "english_at_best": float(mean["own"][best, 0]), "best_layer": best,
            "accuracy_real": _mean([x.accuracy for x in latent]), "accuracy_small": _mean(accuracies),
            "concepts": len(profile.concepts), **_directions(model),
        },
        seed=seed,
        notes="; ".join(map(str, latent)) + f". {profile.how}.",
        figure=Drawing("lines", show=(english, "asked for", "mean of the others"),
                       control=(f"{english}, another item's word", f"{english}, random tokens"),
                       x_title="layer", y_title="probability of the right word"),
        tables={"nets": rows, "tasks": [
            {"task": x.task, "latent": x.language or "none", "layers": ", ".join(map(str, x.layers)),
             "also": ", ".join(f"{k} ({n})" for k, n in x.also.items()), "accuracy": x.accuracy} for x in latent]},
    )  # fmt: skip


def _between(net: Any, made: ParallelLanguages, seed: int) -> dict[str, float]:
    """The right words between the layers of one net, asked for b in c; and its other numbers."""
    profile = language_profile(net, _words(made, 2), [_asked(made, "c", "b", 2, seed + 77)])
    mass, other = profile.mass[0, :-1].nanmean(-1).mean(0), profile.swapped[0, :-1].nanmean(-1).mean(0)
    per_layer = {f"a, layer {i}": float(x) for i, x in enumerate(profile.mass[0, :, 0].nanmean(-1))}
    share = float(profile.random[0, :-1].nanmean()) * profile.n_vocab
    return {"a": float(mass[0]), "b": float(mass[1]), "c": float(mass[2]), "other a": float(other[0]),
            "random over share": share, **per_layer}  # fmt: skip


def _words(made: ParallelLanguages, times: int) -> dict[str, dict[str, str]]:
    return {f"{i}.{r}": {x: f"{x}{i}" for x in made.names} for r in range(times) for i in range(made.things)}


def _asked(made: ParallelLanguages, source: str, target: str, times: int, seed: int) -> LanguagePrompts:
    rows, _ = made.prompts(times * made.things, source, target, seed=seed)
    return LanguagePrompts(f"{source} → {target}", list(rows), tuple(_words(made, times)), target, (source, target))


def _real(model: Any, net: Any, made: ParallelLanguages, n: int, seed: int, progress: Any) -> LanguageProfile:
    """The profile of a real model, or of a small net in place of one."""
    if model == "small":
        tasks = [_asked(made, x, y, 1, seed) for x, y in (("c", "b"), ("b", "c"))]
        return language_profile(net, _words(made, 1), tasks)
    model = ins.open(model, dtype=torch.float32) if isinstance(model, str) else model
    words = dict(list(nouns().items())[:n])
    tasks = [translation(words, x, y, seed=seed) for x, y in PAIRS] + [cloze(words, x, seed=seed) for x in ("fr", "zh")]
    inner = None if progress is None else lambda said, at=None: progress(said, 0.8 + 0.2 * (at or 0))
    return language_profile(model, words, tasks, seed=seed, progress=inner)


def _directions(model: Any) -> dict[str, float]:
    """French and Chinese sentences of one meaning: units that carry the language, cosines in the middle layer."""
    if model == "small":
        return {}
    model = ins.open(model, dtype=torch.float32) if isinstance(model, str) else model
    one, two = definitions("fr"), definitions("zh")
    found = language_directions(model, list(one.values()), [two[c] for c in one], names=("fr", "zh"))
    half = len(found.layers) // 2
    return {"language_units": float(found.units[half]), "language_units_shuffled": float(found.units_shuffled[half]),
            "cosine_same": float(found.same[half]), "cosine_other": float(found.other[half]),
            "retrieved": float(found.first_retrieved[half])}  # fmt: skip


def _lead(profile: LanguageProfile) -> float:
    """How far the language that is asked for leads the next after the last layer, in the task where that is least."""
    leads = []
    for mass, task in zip(profile.mass[:, -1].nanmean(-1), profile.tasks, strict=True):
        own = profile.languages.index(task.target)
        leads.append(float(mass[own] - torch.cat([mass[:own], mass[own + 1 :]]).max()))
    return min(leads)


def _between_share(profile: LanguageProfile) -> float:
    """Share of tasks whose latent language is the first one, in two neighbouring layers or more."""
    good = []
    for i in range(len(profile.tasks)):
        found = profile.latent(i)
        near = any(b - a == 1 for a, b in zip(found.layers, found.layers[1:], strict=False))
        good.append(found.language == profile.languages[0] and near)
    return _mean(good)


def _mean(values: list) -> float:
    return sum(map(float, values)) / len(values)
