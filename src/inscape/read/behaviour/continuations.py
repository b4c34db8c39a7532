"""How probable a model finds whole continuations of prompts, of one token or of several."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.progress import Progress, tell
from inscape.engine.forward import run
from inscape.models.continuation import continued
from inscape.models.model import Model


def continuation_log_probs(
    model: Model,
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    per_token: bool = False,
    rows: int = 64,
    progress: Progress = None,
) -> Float[Tensor, " n"]:
    """log P(answer | prompt) of each pair, in nats: the sum over the answer's tokens.

    The first token alone misleads where answers have several ("under" begins "understand" and "undertake").
    per_token: the mean over the tokens instead, where answers of different lengths are compared; it is no probability.
    Beginnings that pairs share are run once, so that many answers to one prompt cost one row where they are one token.
    Under edits take `engine.answer_log_probs`, which knows where a prompt ends.

    Cost: one row for every different beginning (prompt, prompt and first token, ...), `rows` at a time.
    Raises: InputError for unequal lists or none, TokenError for an answer that does not continue its prompt.
    """
    if len(prompts) != len(answers) or not prompts:
        raise InputError(
            f"{len(prompts)} prompts and {len(answers)} answers: there must be one a prompt, and one pair."
        )
    wanted: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    length = torch.zeros(len(prompts))
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids, start = continued(model.tokenizer, prompt, answer)
        length[i] = len(ids) - start
        for at in range(start, len(ids)):
            if at == 0:
                raise InputError("the prompt is empty and this tokenizer begins no text, so nothing comes before.")
            wanted.setdefault(tuple(ids[:at]), []).append((i, ids[at]))
    total = torch.zeros(len(prompts))
    contexts = sorted(wanted, key=len)
    for start in range(0, len(contexts), rows):
        some = contexts[start : start + rows]
        tell(progress, "reading continuations", start / len(contexts))
        logits = run(model, [list(ids) for ids in some], output="last").output.logits[:, -1]
        log_probs = torch.log_softmax(logits.float(), -1).cpu()
        for row, ids in enumerate(some):
            for i, token in wanted[ids]:
                total[i] += log_probs[row, token]
    return total / length if per_token else total
