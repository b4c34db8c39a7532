"""Lenses on a net whose early layers know nothing of what it will say, and where one of them does."""

from math import comb

import torch

import inscape as ins
from bench.nothing_there.case import Case, above, found, paired, said, texts, tokens, told
from inscape.read.lenses.candidates import candidate_lens
from inscape.read.lenses.compare import compare_lenses
from inscape.read.lenses.language import language_profile
from inscape.read.lenses.language_direction import language_directions
from inscape.read.lenses.logit import logit_lens
from inscape.read.lenses.patching import patch_lens
from inscape.read.lenses.token_set import WordSets
from inscape.read.lenses.token_set_lens import TokenSetReading, token_set_lens
from inscape.read.lenses.tuned import TunedLens
from inscape.tasks.many_languages import LanguagePrompts

LAYER = "layers.1.resid_post"  # the one before the last


def logit(seed: int, effect: float) -> float:
    """The rank of what will be said beside that of what another token will say."""
    read = logit_lens(told(seed, effect), tokens(seed, 4, 12), LAYER, seed=seed)
    assert read.control is not None
    return paired(-read.rank[0].double().log().flatten(), -read.control[0].double().log().flatten(), seed)


def _set(seed: int, effect: float) -> TokenSetReading:
    """One prompt and one set of four tokens, random or with what will be said."""
    model, ids = told(seed, 4 * effect), tokens(seed, 1, 2)
    drawn = torch.randperm(200, generator=torch.Generator().manual_seed(seed))[:4] + 4
    if effect:
        drawn[0] = said(model, ids)[0]
    return token_set_lens(model, ids, {"set": drawn.unique().tolist()}, LAYER, seed=seed)


def set_mass(seed: int, effect: float) -> float:
    read = _set(seed, effect)
    return found(bool(read.mass[0, 0, 0, 0] > read.random_high[0, 0, 0, 0]))


def set_rank(seed: int, effect: float) -> float:
    return float(_set(seed, effect).rank_p[0, 0, 0, 0])


def set_swapped(seed: int, effect: float) -> float:
    """Each prompt's own set beside another's."""
    model, ids = told(seed, effect), tokens(seed, 24, 2)
    own = said(model, ids) if effect else tokens(seed + 500, 24, 1)[:, 0]
    read = token_set_lens(model, ids, {"set": [[int(t)] for t in own]}, LAYER, n_random=1, seed=seed)
    assert read.swapped is not None
    return paired(read.mass[0, 0, :, 0].log(), read.swapped[0, 0, :, 0].log(), seed)


def candidates(seed: int, effect: float) -> float:
    """Each prompt's first candidate beside the same after another prompt."""
    model, ids = told(seed, effect), tokens(seed, 16, 2)
    own = said(model, ids) if effect else tokens(seed + 500, 16, 1)[:, 0]
    other = tokens(seed + 900, 16, 1)[:, 0]
    asked = [[f" w{int(a)}", f" w{int(b)}"] for a, b in zip(own.clamp(min=4), other, strict=True)]
    read = candidate_lens(model, texts(ids), asked, LAYER, seed=seed)
    assert read.swapped is not None
    return paired(read.log_prob[0, :, 0], read.swapped[0, :, 0], seed)


def compared(seed: int, effect: float) -> float:
    """A tuned lens on held-out inputs, among 19 that were fitted to other positions' ends."""
    model, ids = told(seed, effect), tokens(seed, 28, 9)
    last = "layers.2.resid_post"
    trace = ins.run(model, ids[:20], read=[LAYER, last])
    states = {name: trace[name].flatten(0, 1) for name in (LAYER, last)}

    def fitted(control: str | None, at: int) -> TunedLens:
        return TunedLens(steps=0, start="least_squares", penalty=0.1, control=control, seed=at).fit(states, model)

    lenses = {"own": fitted(None, 0)} | {f"{i}": fitted("shuffle", i) for i in range(1, 20)}
    kl = compare_lenses(model, ids[20:], lenses, LAYER, n=20).kl.value[:, 0]
    return above(float(kl[0]), kl[1:], "less")


def patched(seed: int, effect: float) -> float:
    """What another prompt makes of a state, beside what it makes of another position's."""
    model, ids = told(seed), tokens(seed, 16, 3)
    asked = said(model, ids) if effect else tokens(seed + 500, 16, 1)[:, 0]
    read = patch_lens(model, ids, "w5 w6 w7", LAYER, answers=asked.tolist(), seed=seed)
    assert read.log_prob is not None
    assert read.control_log_prob is not None
    return paired(read.log_prob[0], read.control_log_prob[0], seed)


def language(seed: int, effect: float) -> float:
    """Does a language count in the layer before the last?"""
    model, ids = told(seed, effect), tokens(seed, 16, 2)
    drawn = (said(model, ids).tolist() if effect else []) + tokens(seed + 500, 80, 1)[:, 0].tolist()
    drawn = list(dict.fromkeys(drawn))
    names = [f"c{i}" for i in range(16)]
    first = said(model, ids).tolist() if effect else drawn[:16]
    spare = [t for t in drawn if t not in first]
    sets = {c: {"a": (first[i],), "b": (spare[i], spare[16 + i])} for i, c in enumerate(names)}
    task = LanguagePrompts("task", tuple(ids), tuple(names), "b", ("b",))
    profile = language_profile(model, WordSets(sets, {}), [task], LAYER, seed=seed)
    return found(bool(profile.counts(0, n=500, seed=seed)[0, 0]))


def _languages(seed: int, effect: float) -> tuple[list[list[int]], list[list[int]]]:
    """Sixteen sentences in each of two languages, of the same words, or the second with three of its own everywhere."""
    one, two = tokens(seed, 16, 5), tokens(seed + 500, 16, 5)
    if effect:
        two[:, :3] = torch.tensor([250, 251, 252])
    return one.tolist(), two.tolist()


def language_units(seed: int, effect: float) -> float:
    """Units whose means lie apart, among 19 deals of the sentences to the languages."""
    model = told(seed)
    made = [language_directions(model, *_languages(seed, effect), LAYER, seed=i) for i in range(19)]
    return above(float(made[0].units[0]), [float(m.units_shuffled[0]) for m in made])


def language_retrieved(seed: int, effect: float) -> float:
    """Translations that lie nearest, by the binomial law of one in sixteen."""
    one, _ = _languages(seed, 0)
    two = tokens(seed + 500, 16, 5).tolist()
    if effect:
        two = [[*a[:3], *b[3:]] for a, b in zip(one, two, strict=True)]
    hits = round(16 * float(language_directions(told(seed), one, two, LAYER).first_retrieved[0]))
    return sum(comb(16, i) * 15 ** (16 - i) for i in range(hits, 17)) / 16**16


CASES: dict[str, Case] = {
    "logit_lens, rank beside another position's token": logit,
    "token_set_lens, mass above random_high": set_mass,
    "token_set_lens, rank_p of the best token": set_rank,
    "token_set_lens, mass beside another prompt's set": set_swapped,
    "candidate_lens, beside the same after another prompt": candidates,
    "compare_lenses, TunedLens among 19 of shuffled ends": compared,
    "patch_lens, beside another position's state": patched,
    "language_profile, does a language count": language,
    "language_directions, units against 19 deals": language_units,
    "language_directions, translations found first": language_retrieved,
}
