"""Depth: layers that are used alike, tokens that none looks back at, conditions that differ by noise."""

import torch
from torch import Tensor

from bench.nothing_there.case import Case, found, paired, tokens, told
from inscape.core.nulls import bootstrap
from inscape.read.depth.compare import compare_profiles
from inscape.read.depth.concept import DepthProfile, profile_of
from inscape.read.depth.downstream import downstream_effects
from inscape.read.depth.erasure import residual_erasure
from inscape.read.depth.lens_profile import lens_profile
from inscape.read.depth.report import half_difference
from inscape.read.depth.settling import depth_score


def _profile(seed: int, effect: float) -> DepthProfile:
    """Four sites, the last of which knows a yes or no; words and embedding never do."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(60) % 2
    states = {f"{i}": torch.randn(60, 6, generator=g) for i in range(4)}
    states["3"][:, 0] += 3 * effect * y
    words, embedding = (torch.randn(60, 6, generator=g) for _ in range(2))
    return profile_of(states, y, words=words, embedding=embedding, cv=2, seed=seed)


def acquired(seed: int, effect: float) -> float:
    """Does the best site's whole interval lie above words, embedding and all shuffled scores?"""
    return found(_profile(seed, effect).acquired)


def of_shift(number: str) -> Case:
    """Two conditions of one profile, the second with more noise or none: the interval of the change leaves out 0."""

    def case(seed: int, effect: float) -> float:
        one, two = _profile(seed, 1), _profile(seed + 5000, 1 - effect)
        shift = compare_profiles({"one": one, "two": two}, n=100, seed=seed)["two"]
        return found(getattr(shift, number).excludes(0.0))

    return case


def _effects(seed: int, effect: float) -> Tensor:
    """Effects of six layers on thirty items: alike, or growing with the layer."""
    size = torch.rand(30, 6, generator=torch.Generator().manual_seed(seed))
    return size * (1 + effect * torch.arange(6))


def score(seed: int, effect: float) -> float:
    """The interval of the mean layer leaves out the middle."""
    return found(depth_score(_effects(seed, effect), n=1000, seed=seed).excludes(2.5))


def halves(seed: int, effect: float) -> float:
    """The interval of the first half minus the second leaves out 0."""
    return found(bootstrap(half_difference(_effects(seed, effect)), n=500, seed=seed).excludes(0.0))


def settled(seed: int, effect: float) -> float:
    """Overlap of the lens before the last layer with what is said, beside that of another token."""
    made = lens_profile(told(seed, effect), tokens(seed, 8, 5).tolist(), k=5, seed=seed)
    assert made.control is not None
    return paired(made.overlap[:, 1], made.control[:, 1], seed)


def future(seed: int, effect: float) -> float:
    """Do later tokens mind that the first layer is skipped at earlier ones? Planted: attention carries what it adds."""
    model = told(seed)
    if effect:
        _look_back(model)
    made = downstream_effects(model, tokens(seed, 1, 6).tolist(), tokens="future", control=None, splits=2, seed=seed)
    return found(float(made.reach_per_input.max()) > 1e-5)


def erased(seed: int, effect: float) -> float:
    """Is the token before the last needed after the first layer? Planted: attention carries it."""
    model = told(seed)
    if effect:
        _look_back(model)
    made = residual_erasure(model, tokens(seed, 2, 4).tolist(), control=None, seed=seed)
    return found(float(made.kl[:, 0].max()) > 1e-5)


@torch.no_grad()
def _look_back(model: object) -> None:
    """The second layer's attention is even over all tokens, and the first layer's MLP writes what it then adds up."""
    first, second = model.module.transformer.h[:2]  # type: ignore[attr-defined]
    first.mlp.c_fc.weight.normal_(generator=torch.Generator().manual_seed(0))
    first.mlp.c_proj.weight.normal_(generator=torch.Generator().manual_seed(1))
    width = len(second.attn.c_proj.weight)
    second.attn.c_attn.weight[:, 2 * width :] = torch.eye(width)
    second.attn.c_proj.weight.copy_(torch.eye(width))


CASES: dict[str, Case] = {
    "depth_profile, acquired": acquired,
    "compare_profiles, change of the peak": of_shift("peak"),
    "compare_profiles, change at the best site": of_shift("best"),
    "depth_score, interval without the middle": score,
    "halves of a depth report, interval without 0": halves,
    "lens_profile, overlap beside another token": settled,
    "downstream_effects, on later tokens without attention": future,
    "residual_erasure, of a token that none looks at": erased,
}
