"""Which stretch of a prompt an answer hangs on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.progress import Progress, tell
from inscape.engine.forward import run
from inscape.models.model import Model


@dataclass(frozen=True)
class SpanEffect:
    """Words `start` to `stop` (not counting it) of the prompt, and by how much the answer's probability falls without.

    other: the same for a token that was not said, drawn once: what any change of the prompt does.
    """

    start: int
    stop: int
    text: str
    drop: float
    other: float


def spurious_spans(
    model: Model,
    prompt: str,
    answer: int | None = None,
    *,
    words: Sequence[int] = (3, 5, 7),
    how: str = "delete",
    mask: str = "...",
    rows: int = 64,
    seed: int = 0,
    progress: Progress = None,
) -> list[SpanEffect]:
    """Stretches of a few words, by how much of the answer's probability at the last position goes with them.

    `drop = p(answer | prompt) - p(answer | prompt without the words)`, the largest first. A stretch on which a wrong
    answer hangs is what misled; its being there says nothing about how, which `support_matrix` asks.
    answer: a token id; the model's own when None. how: "delete", or "mask" puts `mask` in the place of every word, so
        that the others keep their distance. The last word always stays: it asks.
    Cost: one row a stretch, `rows` at a time, the head at one position each.
    Raises: InputError for a prompt that is too short for every width, or another `how`.
    Source: arXiv:2510.06107; the authors' public code reads the first positions' logits in place of the answer's.
    """
    if how not in ("delete", "mask"):
        raise InputError(f"how={how!r}: it can be 'delete' or 'mask'.")
    said = prompt.split(" ")
    at = [(i, i + n) for n in words for i in range(len(said) - n)]
    if not at or min(words) < 1:
        raise InputError(
            f"the prompt has {len(said)} words, and the last stays: no stretch of {tuple(words)} is in it."
        )
    filled = [[*said[:i], *([mask] * (j - i) if how == "mask" else []), *said[j:]] for i, j in at]
    texts = [prompt, *(" ".join(one) for one in filled)]
    found = []
    other = -1
    for start in range(0, len(texts), rows):
        tell(progress, "prompts without a stretch", start / len(texts))
        p = torch.softmax(run(model, texts[start : start + rows], output="last").output.logits[:, -1].float(), -1)
        if start == 0:
            answer = int(p[0].argmax()) if answer is None else answer
            weight = torch.ones(p.shape[1])
            weight[answer] = 0
            other = int(torch.multinomial(weight, 1, generator=torch.Generator().manual_seed(seed)))
        found.append(p[:, [int(answer or 0), other]].cpu())
    p: Float[Tensor, "text two"] = torch.cat(found)
    drops = p[:1] - p[1:]
    out = [SpanEffect(i, j, " ".join(said[i:j]), float(d[0]), float(d[1])) for (i, j), d in zip(at, drops, strict=True)]
    return sorted(out, key=lambda span: -span.drop)
