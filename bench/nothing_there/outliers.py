"""Outliers: values and attention of a random net, in which nothing is a thousand times the rest."""

import torch

from bench.nothing_there.case import Case, found, tokens, told
from inscape.read.outliers.massive import massive
from inscape.read.outliers.sinks import detect_sinks


def massive_values(seed: int, effect: float) -> float:
    """Any value a thousand times the median of its site; planted: one of one token."""
    model, ids = told(seed), tokens(seed, 1, 8)
    if effect:
        with torch.no_grad():
            model.module.transformer.wte.weight[ids[0, 0], 3] = 2000.0
    return found(bool(massive(model, [ids], "layers.0.resid_post", control=None).found))


def sinks(seed: int, effect: float) -> float:
    """Any head that looks at one position: queries and keys are random; planted: the first key is large."""
    model, ids = told(seed), tokens(seed, 1, 16)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        attention = model.module.transformer.h[0].attn.c_attn
        attention.weight[:, :64] = 0.1 * torch.randn(32, 64, generator=g)
        attention.bias[:32] = 3 * effect
        model.module.transformer.wte.weight[ids[0, 0], :4] += 40 * effect
        attention.weight[:4, 32:64] += effect
    return found(any(sink.is_first or not effect for sink in detect_sinks(model, [ids], above=0.3)))


CASES: dict[str, Case] = {
    "massive, any in a random net": massive_values,
    "detect_sinks, any in a random net": sinks,
}
