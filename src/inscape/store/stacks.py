"""Whose positions a site has: of the tokens, of an encoder's or a decoder's, or of a tower that reads no tokens."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from inscape.core.errors import InputError
from inscape.engine.planning import point_of
from inscape.models.model import Model

_ENCODERS = re.compile(r"\.cross\.(k|v)$")  # what a decoder keeps of every position of the encoder


@dataclass(frozen=True)
class Stack:
    """counted: "source", the tokens that the model or its encoder reads; "target", those of a decoder beside an
    encoder; "" for a tower whose positions are no tokens. runs_decoder: does the decoder beside an encoder run?"""

    counted: str
    runs_decoder: bool = False


def stack_of(model: Model, sites: Sequence[str]) -> Stack:
    """The one stack that these sites are of. Raises InputError when they are of several."""
    beside = model.is_encoder_decoder
    found: dict[str, str] = {}
    decoder = False
    for site in sites:
        prefix = _prefix(model, site)
        decoder |= beside and prefix in model.main_prefixes
        if beside:
            counted = "source" if prefix == "encoder." or _ENCODERS.search(site) else "target"
        else:
            counted = "source" if prefix in (*model.main_prefixes, "encoder.") else ""
        found.setdefault(counted, site)
    if len(found) > 1:
        a, b = found.values()
        raise InputError(
            f"{a} and {b} have positions of their own each: one row cannot stand for both.\n"
            "  make two records, in two folders; their samples have the same numbers."
        )
    return Stack(next(iter(found), "source"), decoder)


def _prefix(model: Model, site: str) -> str:
    """The prefix of the stack a site belongs to; a module outside the blocks belongs where its root is."""
    point = point_of(model, site)
    if point.prefix or not site.startswith("@"):
        return point.prefix
    roots = {s.blocks.rpartition(".")[0]: s.prefix for s, _ in model.resolved.stacks if s.prefix}
    inside = [root for root in roots if root and f"{point.path}.".startswith(f"{root}.")]
    return roots[max(inside, key=len)] if inside else ""
