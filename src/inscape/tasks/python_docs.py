"""English prose that every Python brings along: the language reference's topics, as `help()` shows them.

    The "assert" statement
    **********************

    Assert statements are a convenient way to insert debugging assertions
    into a program: ...

About 465,000 characters, read from the running Python (PSF licence); nothing of it is copied into this package. Enough
to train a small language model of bytes for some minutes; its words differ a little between versions of Python.
"""

import re
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from inscape.core.errors import InputError

N_BYTES = 256  # the vocabulary of `byte_ids`
EVERY = 10  # of the topics, one is held out
SHORTEST = 80  # characters of a paragraph: shorter ones are headings and lines of code


class Passage(NamedTuple):
    """topic: of the help it is from, the group of what must not be on two sides of a split."""

    topic: str
    text: str


def python_docs(split: str = "train") -> str:
    """The topics in the order of their names, one after the other. split: "train", "test" (every tenth) or "all".

    Raises: InputError for another split, and where this Python comes without its documentation (pydoc_data).
    """
    if split not in ("train", "test", "all"):
        raise InputError(f"split={split!r}: it can be train, test, all.")
    topics = _topics()
    chosen = [
        topics[name] for i, name in enumerate(sorted(topics)) if split == "all" or (i % EVERY == 0) == (split == "test")
    ]
    return "\n\n".join(chosen)


@cache
def python_paragraphs() -> tuple[Passage, ...]:
    """Every paragraph of prose once, on one line, in the order of the topics' names: about 300,000 characters.

    Topics quote one another; a paragraph is given with the first that has it, so that no text is on two sides.
    Raises: InputError where this Python comes without its documentation.
    """
    seen: set[str] = set()
    out = []
    for topic, whole in sorted(_topics().items()):
        for paragraph in re.split(r"\n\s*\n", whole):
            text = " ".join(paragraph.split())
            if len(text) >= SHORTEST and text not in seen:
                seen.add(text)
                out.append(Passage(topic, text))
    return tuple(out)


def _topics() -> dict[str, str]:
    try:
        from pydoc_data.topics import topics
    except ModuleNotFoundError as error:
        raise InputError(
            "this Python comes without pydoc_data, the texts of help().\n  install its standard library in full, or "
            "train on texts of your own."
        ) from error
    return topics


def byte_ids(text: str) -> Int[Tensor, " n"]:
    """A text as its UTF-8 bytes, ids below 256."""
    return torch.tensor(list(text.encode()))


def windows(ids: Int[Tensor, " n"], step: int, *, size: int = 16, width: int = 64, seed: int = 0) -> Int[Tensor, "b w"]:
    """The batch of a step: `size` stretches of `width` ids, drawn anywhere by seed and step."""
    generator = torch.Generator().manual_seed((seed << 32) + step)
    start = torch.randint(len(ids) - width, (size, 1), generator=generator)
    return ids[start + torch.arange(width)]
