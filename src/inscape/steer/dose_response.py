"""Dose and response: a direction at several strengths beside controls, judged, and what it costs measured.

1. The plain model writes on from every prompt: dose 0, and the text along which KL is measured.
2. Every other (curve, dose, prompt) is a row with a vector and a strength of its own; rows of like prompts go together,
   so that one generation makes as many texts as a batch holds, whatever their doses.
3. Each batch of texts is scored by the unsteered model (fluency), and each batch's rows are run along the plain text
   under their edits (KL; one forward). The judge sees the texts at the end.

A control has a vector of its own for every prompt (random, shuffled): its curve is the mean over many.
"""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.directions import Directions
from inscape.core.edit import Edit
from inscape.core.edits.add import UNITS, add
from inscape.core.errors import EditError, InputError, ShapeError
from inscape.core.judges import judge_of
from inscape.core.nulls import random_directions
from inscape.core.progress import Progress, tell
from inscape.engine.predictions import Predictions, batches, continuations, mean_by, sequences, token_rows
from inscape.models.model import Model
from inscape.steer.calibrate import check_model
from inscape.steer.dose import Dose
from inscape.steer.judges import AnswerMass

CONTROLS = ("random", "shuffled", "flipped", "wrong_layer")
Vectors = dict[str, Tensor]  # site -> vector


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
    the "wrong_layer" (half the layers further on). Look at `.draw()`, `.warnings`, `.examples(dose)`, then `.best()`.

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
    among the doses, and dose 0, are measured once.
    Raises: InputError for fewer than 4 prompts, doses or controls that are none; SiteError, ModelError, NotFiniteError
    for a dose that makes NaN.
    """
    made = Directions.of(direction) if isinstance(direction, Direction) else direction
    check_model(made, model)
    grid = _doses(doses)
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
    curves, notes = _curves(model, made, controls, shuffled, len(ids), seed)
    work = _Work(model, made, ids, curves, grid, unit, at, batch_rows, seed, progress)
    work.predictions.check_before(work.edits([_Row(0, 0, 0)], [1.0]))
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
    share = torch.zeros(len(ids), dtype=torch.bool)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
    if validation:
        share[order[: min(max(2, round(validation * len(ids))), len(ids) - 2)]] = True
    laid = work.laid(torch.arange(len(said))).long().tolist()
    return Dose(
        tuple(curves), grid, unit, at, made, chosen.name, goal,
        tuple(p if isinstance(p, str) else work.text(i) for p, i in zip(prompts, ids, strict=True)),
        tuple(tuple(tuple(said[i] for i in row) for row in curve) for curve in laid),
        scores.reshape(shape), kls.reshape(shape), work.fluency(texts).reshape(shape),
        work.laid(torch.tensor([repeated(t) for t in texts], dtype=torch.float64)).reshape(shape),
        work.neutral(neutral) if neutral is not None else None,
        work.task(task) if task is not None else None,
        share, tuple(notes),
    )  # fmt: skip


def repeated(tokens: Sequence[int]) -> float:
    """Share of pairs of neighbouring tokens that came before in the same text; 0 of a text without pairs."""
    pairs = list(pairwise(tokens))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


@dataclass(frozen=True)
class _Row:
    """One text: which curve's vector, which dose, which prompt (or neutral text)."""

    curve: int
    dose: int
    item: int


@dataclass(eq=False)
class _Work:
    """All rows of a dose-response, each measured once, and how they lie in [curve, dose, item]."""

    model: Model
    direction: Directions
    prompts: list[list[int]]
    curves: dict[str, Callable[[int], Vectors]]
    doses: tuple[float, ...]
    unit: str
    at: Any
    batch_rows: int
    seed: int
    progress: Progress
    unique: list[_Row] = field(default_factory=list)
    predictions: Predictions = field(init=False)

    def __post_init__(self) -> None:
        self.makers, self.names = list(self.curves.values()), list(self.curves)
        self.unique, self.place = self._rows(len(self.prompts))
        self.predictions = Predictions.of(self.model, {"input_ids": torch.tensor([self.prompts[0][:12]])})

    def _rows(self, n_items: int) -> tuple[list[_Row], Int[Tensor, "curve dose item"]]:
        """Rows to measure, and which of them stands at each curve, dose and item."""
        zero, known, rows = self.doses.index(0.0), {}, []
        place = torch.zeros(len(self.names), len(self.doses), n_items, dtype=torch.long)
        for c, name in enumerate(self.names):
            for d, dose in enumerate(self.doses):
                curve, at = c, d
                if name == "flipped" and -dose in self.doses:
                    curve, at = 0, self.doses.index(-dose)
                if dose == 0:
                    curve, at = 0, zero
                for item in range(n_items):
                    key = (curve, at, item)
                    if key not in known:
                        known[key] = len(rows)
                        rows.append(_Row(*key))
                    place[c, d, item] = known[key]
        return rows, place

    def laid(self, values: Float[Tensor, " row"] | Int[Tensor, " row"]) -> Tensor:
        """One value a measured row as [curve, dose, prompt]."""
        return values[self.place]

    def strength(self, row: _Row) -> float:
        return (-1 if self.names[row.curve] == "flipped" else 1) * self.doses[row.dose]

    def edits(self, rows: Sequence[_Row], strengths: Sequence[float] | None = None) -> list[Edit]:
        """Edits of a batch: at every site that any row steers, one vector and one strength a row."""
        doses = [self.strength(row) for row in rows] if strengths is None else list(strengths)
        vectors = [self.makers[row.curve](row.item) if dose else {} for row, dose in zip(rows, doses, strict=True)]
        out = []
        for site in dict.fromkeys(site for v in vectors for site in v):
            shape = next(v[site] for v in vectors if site in v)
            table = torch.stack([v.get(site, torch.zeros_like(shape)) for v in vectors])
            scale = torch.tensor([dose if site in v else 0.0 for v, dose in zip(vectors, doses, strict=True)])
            out.append(add(Direction(site, table, "one a row"), scale, unit=self.unit, at=self.at))
        return out

    def generate(self, max_new_tokens: int, kwargs: dict[str, Any]) -> list[list[int]]:
        """The new tokens of every row."""

        def write(rows: list[_Row], ids: list[list[int]]) -> list[list[int]]:
            return continuations(self.model, ids, max_new_tokens, self.edits(rows), **kwargs)

        if kwargs.get("do_sample"):
            with torch.random.fork_rng():
                torch.manual_seed(self.seed)
                return self._by_batch(write, "writing")
        return self._by_batch(write, "writing")

    def _by_batch(self, use: Callable[[list[_Row], list[list[int]]], Sequence[Any]], what: str) -> list[Any]:
        """Something of every row, by batches of rows whose prompts are alike."""
        out: list[Any] = [None] * len(self.unique)
        groups = batches(self.model, [self.prompts[row.item] for row in self.unique], self.batch_rows)
        for k, group in enumerate(groups):
            tell(self.progress, f"{what}, {len(self.unique)} rows", k / len(groups))
            rows = [self.unique[i] for i in group]
            for i, one in zip(group, use(rows, [self.prompts[row.item] for row in rows]), strict=True):
                out[i] = one
        return out

    def fluency(self, texts: list[list[int]]) -> Float[Tensor, "curve dose prompt"]:
        """Loss a token of what was generated, under the unsteered model."""
        index = {row: i for i, row in enumerate(self.unique)}

        def score(rows: list[_Row], ids: list[list[int]]) -> list[float]:
            seq = sequences(self.model, ids, [texts[index[row]] for row in rows], range(len(rows)))
            losses = self.predictions.losses(self.predictions.states(seq), seq.targets)
            return mean_by(losses, seq.owner).tolist()

        return self.laid(torch.tensor(self._by_batch(score, "scoring what was written"), dtype=torch.float64))

    def kl(self, texts: list[list[int]], answers: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """KL a token along the plain text, and the judge's mass of answers after the prompt."""
        zero = self.doses.index(0.0)
        plain = {row.item: texts[i] for i, row in enumerate(self.unique) if row.dose == zero}
        base: dict[int, Tensor] = {}
        for group in batches(self.model, self.prompts, self.batch_rows):
            seq = sequences(self.model, [self.prompts[i] for i in group], [plain[i] for i in group], group)
            states = self.predictions.states(seq)
            for i in group:
                base[i] = states[(seq.owner == i).to(states.device)]

        def compare(rows: list[_Row], ids: list[list[int]]) -> list[tuple[float, float]]:
            seq = sequences(self.model, ids, [plain[row.item] for row in rows], range(len(rows)))
            before = torch.cat([base[row.item] for row in rows])
            own = {name: sets[[row.item for row in rows]][seq.owner] for name, sets in answers.items()}
            edits = self.edits(rows)
            moved = self.predictions.shift(before, self.predictions.states(seq, edits) if edits else before, own)
            first = torch.tensor([int((seq.owner == i).nonzero()[0]) for i in range(len(rows))])
            mass = torch.zeros(len(moved))
            if answers:
                mass = moved.share("right") if "wrong" in answers else moved.mass["right"]
            return list(zip(mean_by(moved.kl, seq.owner).tolist(), mass[first].tolist(), strict=True))

        found = torch.tensor(self._by_batch(compare, "comparing predictions"), dtype=torch.float64)
        return self.laid(found[:, 0]), self.laid(found[:, 1])

    def neutral(self, texts: Any) -> Float[Tensor, "curve dose text"]:
        """Loss a token of unrelated texts under steering, as if the model had written them."""
        ids = token_rows(self.model, texts, "neutral")
        if min(map(len, ids)) < 2 or len(ids) < 2:
            raise InputError("neutral texts have two tokens or more each, and there are two of them or more.")
        rows, place = self._rows(len(ids))
        out = torch.zeros(len(rows), dtype=torch.float64)
        groups = batches(self.model, [ids[row.item] for row in rows], self.batch_rows)
        for k, group in enumerate(groups):
            tell(self.progress, f"reading {len(rows)} unrelated texts", k / len(groups))
            some = [rows[i] for i in group]
            first, rest = [ids[row.item][:1] for row in some], [ids[row.item][1:] for row in some]
            seq = sequences(self.model, first, rest, range(len(some)))
            losses = self.predictions.losses(self.predictions.states(seq, self.edits(some)), seq.targets)
            out[torch.tensor(group)] = mean_by(losses, seq.owner)
        return out[place]

    def task(self, task: Callable[[Model, list[Edit]], Any]) -> Float[Tensor, "curve dose"]:
        """Another task's score under each curve and dose; of the vectors that differ by prompt, the first."""
        rows, place = self._rows(1)
        found = []
        for k, row in enumerate(rows):
            tell(self.progress, "the other task", k / len(rows))
            dose = self.strength(row)
            edits = [
                add(Direction(site, v, self.names[row.curve]), dose, unit=self.unit, at=self.at)
                for site, v in (self.makers[row.curve](0).items() if dose else ())
            ]
            found.append(float(torch.as_tensor(task(self.model, edits), dtype=torch.float64).mean()))
        return torch.tensor(found, dtype=torch.float64)[place][..., 0]

    def text(self, ids: Sequence[int]) -> str:
        if self.model.tokenizer is None:
            return " ".join(map(str, ids))
        return self.model.tokenizer.decode(list(ids), skip_special_tokens=True)


def _doses(doses: Sequence[Any]) -> tuple[float, ...]:
    """In order, 0 among them."""
    try:
        found = sorted({float(d) for d in doses} | {0.0})
    except (TypeError, ValueError) as error:
        raise InputError(f"doses={doses!r}: give numbers, such as [0.05, 0.1, 0.2].") from error
    if len(found) < 2 or not all(abs(d) < float("inf") for d in found):
        raise InputError(f"doses={doses!r}: give one finite number at least that is not 0.")
    return tuple(found)


def _curves(
    model: Model, made: Directions, controls: Sequence[str], shuffled: Any, n: int, seed: int
) -> tuple[dict[str, Callable[[int], Vectors]], list[str]]:
    """By curve, the vectors of each prompt; and what was left out."""
    if wrong := [c for c in controls if c not in CONTROLS]:
        raise InputError(f"controls={wrong}: there are {', '.join(map(repr, CONTROLS))}.")
    own = {site: d.vector.detach().float().cpu() for site, d in made.items()}
    if any(bool((v == 0).all()) or not bool(torch.isfinite(v).all()) for v in own.values()):
        raise ShapeError("a direction of length zero, or not finite, points nowhere.")
    curves: dict[str, Callable[[int], Vectors]] = {"direction": lambda _: own}
    notes = []
    for control in controls:
        if control == "random":
            drawn = {s: random_directions(v, 64, seed=seed + 7919 * i) for i, (s, v) in enumerate(own.items())}
            curves["random"] = lambda item, drawn=drawn: {s: v[item % 64] for s, v in drawn.items()}
        elif control == "flipped":
            curves["flipped"] = lambda _: own
        elif control == "wrong_layer":
            moved = _moved_layers(model, own)
            if moved is None:
                notes.append("no wrong-layer control: these sites have no counterpart at another layer.")
            else:
                curves["wrong_layer"] = lambda _, moved=moved: moved
        elif shuffled is None:
            notes.append(
                "no shuffled control: give shuffled=fit_shuffles(...) with the texts that the direction is from."
            )
        else:
            several = [_fitting(one, own) for one in shuffled]
            if len(several) < min(8, n):
                warnings.warn(
                    f"{len(several)} shuffles: few shuffles keep some of the direction by chance; give 20.",
                    stacklevel=3,
                )
            curves["shuffled"] = lambda item, several=several: several[item % len(several)]
    return curves, notes


def _fitting(given: Direction | Directions, own: Vectors) -> Vectors:
    made = Directions.of(given) if isinstance(given, Direction) else given
    if missing := [s for s in own if s not in made]:
        raise InputError(
            f"a shuffled direction lacks {missing[0]}, where the direction is: fit them at the same sites."
        )
    return {s: made[s].vector.detach().float().cpu() for s in own}


def _moved_layers(model: Model, own: Vectors) -> Vectors | None:
    """The same vectors half the layers further on, round the end; with vectors everywhere each layer gets another's."""
    out: Vectors = {}
    for site, vector in own.items():
        found = re.search(r"(?<=layers\.)\d+", site)
        if found is None:
            return None
        layer = (int(found[0]) + model.n_layers // 2) % model.n_layers
        there = f"{site[: found.start()]}{layer}{site[found.end() :]}"
        if there == site or there not in model.sites:
            return None
        out[there] = vector
    return out
