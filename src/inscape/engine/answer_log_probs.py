"""How probable an answer is after its prompt, word for word, while edits act as they would in a generation."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.edit import Edits, listed
from inscape.core.errors import InputError
from inscape.core.progress import Progress, tell
from inscape.engine.predictions import Predictions, batches, sequences, short
from inscape.models.continuation import continued
from inscape.models.model import Model


def answer_log_probs(
    model: Model,
    prompts: Sequence[str],
    answers: Sequence[str] | str,
    edits: Edits = (),
    *,
    batch_rows: int = 64,
    progress: Progress = None,
) -> Float[Tensor, " n"]:
    """log P(answer | prompt) of each pair, in nats: what sampling at temperature 1 would come to, without a sample.

    The answer counts as generated: "newest" and "generated" edits act on its tokens as in `ins.generate`, and what is
    decided about a prompt is decided at its end. answers: one a prompt, or one text for all.
    Cost: a forward a pair, scores at the answer's tokens alone.
    Raises: InputError for unequal lists or none; TokenError for an answer that does not continue its prompt; SiteError
    for edits that no score would see.
    """
    wanted = [answers] * len(prompts) if isinstance(answers, str) else list(answers)
    if isinstance(prompts, str) or len(prompts) != len(wanted) or not wanted:
        raise InputError(f"{len(prompts)} prompts and {len(wanted)} answers: there must be one a prompt, and one pair.")
    pairs = [continued(model.tokenizer, p, a) for p, a in zip(prompts, wanted, strict=True)]
    if not all(start for _, start in pairs):
        raise InputError("a prompt is empty and this tokenizer begins no text, so nothing comes before.")
    before, after = [ids[:start] for ids, start in pairs], [ids[start:] for ids, start in pairs]
    listed_edits, total = listed(edits), torch.zeros(len(pairs))
    predictions: Predictions | None = None
    for i, rows in enumerate(groups := batches(model, before, batch_rows)):
        tell(progress, "reading answers", i / len(groups))
        made = sequences(model, [before[r] for r in rows], [after[r] for r in rows], rows)
        if predictions is None:
            predictions = Predictions.of(model, short(made))
            predictions.check_before(listed_edits)
        nats = predictions.losses(predictions.states(made, listed_edits), made.targets)
        total.index_add_(0, made.owner, -nats)
    return total
