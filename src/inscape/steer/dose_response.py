"""Dose and response: a direction at several strengths beside controls, judged, and what it costs measured.

1. The plain model writes on from every prompt: dose 0, and the text along which KL is measured.
2. Every other (curve, dose, prompt) is a row with a vector and a strength of its own; rows of like prompts go together,
   so that one generation makes as many texts as a batch holds, whatever their doses.
3. Each batch of texts is scored by the unsteered model (fluency), and each batch's rows are run along the plain text
   under their edits (KL; one forward). The judge sees the texts at the end.

A control has a vector of its own for every prompt (random, shuffled): its curve is the mean over many.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.directions import Directions
from inscape.core.edit import Edit
from inscape.core.edits.add import UNITS
from inscape.core.errors import EditError, InputError
from inscape.core.judges import judge_of
from inscape.core.progress import Progress, tell
from inscape.engine.predictions import token_rows
from inscape.models.model import Model
from inscape.steer.calibrate import check_model
from inscape.steer.dose import Dose
from inscape.steer.dose_curves import AT_EQUAL_KL, CONTROLS, curves_of, doses_of
from inscape.steer.dose_rows import Row, Work
from inscape.steer.judges import AnswerMass


def dose_response(
    model: Model,
    direction: Direction | Directions,
    prompts: Any,
    doses: Sequence[Any],
    judge: Any,
    *,
    unit: str = "relative",
    at: Any = None,
    goal: str = "raise",
    controls: Sequence[str] = CONTROLS,
    shuffled: Sequence[Direction | Directions] | None = None,
    neutral: Any = None,
    task: Callable[[Model, list[Edit]], Any] | None = None,
    max_new_tokens: int = 24,
    validation: float = 0.5,
    batch_rows: int = 64,
    seed: int = 0,
    progress: Progress = None,
    **generate_kwargs: Any,
) -> Dose:
    """What a direction does at each dose, what it costs, and what controls of the same size do.

    Measured at every dose, by prompt: the judge's score of the generated text; KL(unsteered || steered) in nats a
    token along what the unsteered model writes; fluency, the loss of the generated text under the unsteered model;
    repetition. Beside the direction: "random" vectors of its length, "shuffled" ones, the direction "flipped" and at
    the "wrong_layer" (half the layers further on). "random_kl", if asked for, is the same random vectors at the
    strength where their mean KL is the direction's: vectors of one length differ much in KL. Look at `.draw()`,
    `.warnings`, `.examples(dose)`, then `.best()`.

    doses: strengths of `ins.add(direction, dose, unit=unit, at=at)`; 0 is added. unit: "relative" takes a dose as the
    share of each token's length. `calibrate_strength` says where to begin: in the middle of Gemma 3 270M, whose stream
    has long massive channels, a dose of 0.013 along a sentiment direction is worth 0.1 nats a token.
    judge: of `core.judges` or `steer.judges`, any function of a text; `answer_mass` judges the next token in its place.
    goal: should the score "raise" or "lower". shuffled: directions of shuffled sides, one prompt each in turn
    (`steer.shuffles.fit_shuffles`); without them that control is left out and `.notes` says so.
    neutral: texts of something else, whose loss under steering shows what is broken there. task: a function of the
    model and edits to a score of anything else, called once a curve and dose.
    validation: the share of prompts that `.best` chooses on; the rest is for measuring. generate_kwargs: for the
    model's own generate (do_sample=True and the like; greedy without). seed: of random vectors, of which prompts are
    for validation, and of torch while sampling.
    Cost: prompts x doses x curves generated texts, `batch_rows` at a time, two forwards each; a flipped dose that is
    among the doses, and dose 0, are measured once; "random_kl" searches, some eight forwards a dose and prompt more.
    Raises: InputError for fewer than 4 prompts, doses or controls that are none; SiteError, ModelError, NotFiniteError
    for a dose that makes NaN.
    """
    made = Directions.of(direction) if isinstance(direction, Direction) else direction
    check_model(made, model)
    grid = doses_of(doses)
    if unit not in UNITS:
        raise EditError(f"unit={unit!r}: the units of a dose are {', '.join(UNITS)}.")
    if goal not in ("raise", "lower"):
        raise InputError(f"goal={goal!r}: the score should 'raise' or 'lower'.")
    if not 0 <= validation < 1:
        raise InputError(f"validation={validation}: it is the share of prompts to choose on, from 0 to below 1.")
    ids = token_rows(model, prompts)
    if len(ids) < 4:
        raise InputError(f"{len(ids)} prompts: a dose-response takes 4 at least, 20 or more to see anything.")
    chosen = judge if isinstance(judge, AnswerMass) else judge_of(judge)
    curves, notes = curves_of(model, made, controls, shuffled, len(ids), seed)
    work = Work(model, made, ids, curves, grid, unit, at, batch_rows, seed, progress)
    work.predictions.check_before(work.edits([Row(0, 0, 0)], [1.0]))
    if AT_EQUAL_KL in curves:
        notes += work.match_kl(AT_EQUAL_KL, max_new_tokens)
    texts = work.generate(max_new_tokens, generate_kwargs)
    answers = chosen.ids(model, len(ids)) if isinstance(chosen, AnswerMass) else {}
    kls, mass = work.kl(texts, answers)
    shape = (len(curves), len(grid), len(ids))
    said = [work.text(t) for t in texts]
    if isinstance(chosen, AnswerMass):
        scores = mass
    else:
        tell(progress, "judging", None)
        unique = work.unique
        found = chosen.of([said[i] for i in range(len(unique))], [row.item for row in unique])
        scores = work.laid(found)
    laid = work.laid(torch.arange(len(said))).long().tolist()
    return Dose(
        tuple(curves), grid, unit, at, made, chosen.name, goal,
        tuple(p if isinstance(p, str) else work.text(i) for p, i in zip(prompts, ids, strict=True)),
        tuple(tuple(tuple(said[i] for i in row) for row in curve) for curve in laid),
        scores.reshape(shape), kls.reshape(shape), work.fluency(texts).reshape(shape),
        work.laid(torch.tensor([repeated(t) for t in texts], dtype=torch.float64)).reshape(shape),
        work.neutral(neutral) if neutral is not None else None,
        work.task(task) if task is not None else None,
        chosen_on(len(ids), validation, seed), tuple(notes),
    )  # fmt: skip


def chosen_on(n: int, validation: float = 0.5, seed: int = 0) -> Bool[Tensor, " prompt"]:
    """Which of n prompts are for choosing; the others are for measuring, two of each at least."""
    share = torch.zeros(n, dtype=torch.bool)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    if validation:
        share[order[: min(max(2, round(validation * n)), n - 2)]] = True
    return share


def repeated(tokens: Sequence[int]) -> float:
    """Share of pairs of neighbouring tokens that came before in the same text; 0 of a text without pairs."""
    pairs = list(pairwise(tokens))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0
