"""Texts cut into sentences, with the model's state of each: the rows that kinds of behaviour are found in."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.progress import Progress, tell
from inscape.engine.forward import run
from inscape.engine.inputs import tokenizer_of
from inscape.models.model import Model

CUT = r"(?<=[.!?])\s+"
OF = ("own", "predicting", "before")


@dataclass(frozen=True, eq=False)
class Sentences:
    """Sentences of texts, one after the other. item: the text each is of; prefix: all before it, the prompt included.

    states: one row a sentence.
    """

    text: tuple[str, ...]
    prefix: tuple[str, ...]
    item: Int[Tensor, " n"]
    states: Float[Tensor, "n d"]


def sentence_states(
    model: Model,
    prompts: Sequence[str],
    texts: Sequence[str],
    site: str,
    *,
    of: str = "own",
    cut: str = CUT,
    join: str = " ",
    batch: int = 16,
    progress: Progress = None,
) -> Sentences:
    """Cut what was said to each prompt into sentences and read one state a sentence at a site.

    of: "own", the mean over the sentence's tokens; "predicting", over those that predict them (one earlier); "before",
    the one that predicts its first token: what the model is about to do. cut: where sentences part, a pattern of what
    lies between; join: what is put between prompt and text.
    Cost: one forward a text, stopped at the site. Raises: InputError for lists of unlike length, another `of`, no
    sentences, or a tokenizer that does not say where its tokens are.
    """
    if of not in OF:
        raise InputError(f"of={of!r} is none of {', '.join(map(repr, OF))}.")
    if isinstance(prompts, str) or len(prompts) != len(texts):
        raise InputError(f"{len(prompts)} prompts and {len(texts)} texts: give what was said to each prompt.")
    if not getattr(tokenizer_of(model), "is_fast", False):
        raise InputError("sentences are found by where tokens are in the text, which only a fast tokenizer says.")
    found: list[tuple[str, str, int]] = []
    states: list[Tensor] = []
    for start in range(0, len(texts), batch):
        tell(progress, "reading sentences", start / len(texts))
        whole = [
            f"{p}{join}{t}" for p, t in zip(prompts[start : start + batch], texts[start : start + batch], strict=True)
        ]
        trace = run(model, whole, read={"x": site})
        x, mask = trace["x"].float().cpu(), trace.mask
        assert mask is not None
        for row, text in enumerate(whole):
            offsets = tokenizer_of(model)(text, return_offsets_mapping=True)["offset_mapping"]
            real = x[row][mask[row].cpu().bool()]
            for a, b in _stretches(text, len(prompts[start + row]) + len(join), cut):
                own = [i for i, (s, e) in enumerate(offsets) if e > s and s < b and e > a]
                if not own:
                    continue
                at = {"own": own, "predicting": [max(0, i - 1) for i in own], "before": [max(0, own[0] - 1)]}[of]
                states.append(real[at].mean(0))
                found.append((text[a:b], text[:a].rstrip(), start + row))
    if not found:
        raise InputError("no text holds a sentence.")
    said, prefix, item = zip(*found, strict=True)
    return Sentences(said, prefix, torch.tensor(item), torch.stack(states))


def _stretches(text: str, begin: int, cut: str) -> list[tuple[int, int]]:
    """Where the sentences of text[begin:] lie."""
    ends = [(m.start(), m.end()) for m in re.compile(cut).finditer(text, begin)]
    starts = [begin, *(e for _, e in ends)]
    stops = [*(s for s, _ in ends), len(text.rstrip())]
    return [(a, b) for a, b in zip(starts, stops, strict=True) if text[a:b].strip()]
