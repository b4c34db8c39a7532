"""Two models of the same tokens: may the states of one stand in the other, and at which site?"""

from typing import Any

from inscape.circuits.pairing import Pairing
from inscape.core.errors import InputError, ModelError
from inscape.models.fingerprint import tokenizer_fingerprint
from inscape.models.model import Model

DEPTHS = ("same", "relative")


def site_in(other: Model, model: Model, site: str) -> str:
    """The site of `other` at the same share of the depth as a site of `model`: its own name where both are as deep.

    Layer i of n stands for layer round(i (m - 1) / (n - 1)) of m. Raises: SiteError where `other` has no such site.
    """
    block = next((b for b in model.blocks if site.startswith(f"{b.name}.")), None)
    if block is None or model.n_layers == other.n_layers:
        name = site
    else:
        at = model.layer_of(site) * (other.n_layers - 1) / max(1, model.n_layers - 1)
        name = other.blocks[round(at)].name + site.removeprefix(block.name)
    if name not in other.sites:
        raise other.sites.unknown(name)
    return name


def check_comparable(model: Model, other: Model, *, depth: str = "same") -> None:
    """Raises: InputError for another tokenizer or unknown `depth`; ModelError for another width or number of layers."""
    if depth not in DEPTHS:
        raise InputError(f"depth={depth!r}: it can be {' or '.join(DEPTHS)}.")
    mine, theirs = (_tokens(m) for m in (model, other))
    if mine != theirs:
        raise InputError(
            "the two models have different tokenizers, so that a position of one is no position of the other.\n"
            "  compare models of one family; for others compare what they say, or their similarity over whole texts."
        )
    wide, other_wide = (_width(m) for m in (model, other))
    if wide != other_wide:
        raise ModelError(
            f"the streams of the two models are {wide} and {other_wide} wide: a state of one does not fit the other."
        )
    if depth == "same" and model.n_layers != other.n_layers:
        raise ModelError(
            f"the two models have {model.n_layers} and {other.n_layers} layers, so that a layer of one is no layer of "
            "the other.\n  depth='relative' takes the layer at the same share of the depth."
        )


def check_source(model: Model, source: Model, depth: str, both: Pairing, edited: bool) -> None:
    """Raises: as `check_comparable`; InputError where patches cannot come from a second model."""
    if edited or both.source is None or both.base.tokens is None:
        raise InputError(
            "source= says where patches come from: it takes a clean and a corrupted prompt of tokens, and no edit=."
        )
    check_comparable(model, source, depth=depth)


def _tokens(model: Model) -> Any:
    if model.tokenizer is not None:
        return tokenizer_fingerprint(model.tokenizer)
    return getattr(model.config, "vocab_size", None)


def _width(model: Model) -> int | None:
    text = getattr(model.config, "get_text_config", lambda: model.config)()
    found = getattr(text, "hidden_size", None) or getattr(text, "n_embd", None)
    return found if isinstance(found, int) else None
