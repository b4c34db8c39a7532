"""The rows of a dose-response: every (curve, dose, prompt) is measured once, in batches that mix them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.directions import Directions
from inscape.core.edit import Edit
from inscape.core.edits.add import add
from inscape.core.errors import InputError, NotConvergedError
from inscape.core.progress import Progress, tell
from inscape.engine.predictions import Predictions, batches, continuations, mean_by, sequences, token_rows
from inscape.models.model import Model
from inscape.steer.dose_curves import Vectors
from inscape.steer.kl_search import search_strength


@dataclass(frozen=True)
class Row:
    """One text: which curve's vector, which dose, which prompt (or neutral text)."""

    curve: int
    dose: int
    item: int


@dataclass(eq=False)
class Work:
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
    unique: list[Row] = field(default_factory=list)
    scales: dict[tuple[int, int], float] = field(default_factory=dict)  # (curve, dose) -> what multiplies the dose
    predictions: Predictions = field(init=False)

    def __post_init__(self) -> None:
        self.makers, self.names = list(self.curves.values()), list(self.curves)
        self.unique, self.place = self._rows(len(self.prompts))
        self.predictions = Predictions.of(self.model, {"input_ids": torch.tensor([self.prompts[0][:12]])})

    def _rows(self, n_items: int) -> tuple[list[Row], Int[Tensor, "curve dose item"]]:
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
                        rows.append(Row(*key))
                    place[c, d, item] = known[key]
        return rows, place

    def laid(self, values: Float[Tensor, " row"] | Int[Tensor, " row"]) -> Tensor:
        """One value a measured row as [curve, dose, prompt]."""
        return values[self.place]

    def strength(self, row: Row) -> float:
        sign = -1 if self.names[row.curve] == "flipped" else 1
        return sign * self.doses[row.dose] * self.scales.get((row.curve, row.dose), 1.0)

    def edits(self, rows: Sequence[Row], strengths: Sequence[float] | None = None) -> list[Edit]:
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

        def write(rows: list[Row], ids: list[list[int]]) -> list[list[int]]:
            return continuations(self.model, ids, max_new_tokens, self.edits(rows), **kwargs)

        if kwargs.get("do_sample"):
            with torch.random.fork_rng():
                torch.manual_seed(self.seed)
                return self._by_batch(write, "writing")
        return self._by_batch(write, "writing")

    def _by_batch(self, use: Callable[[list[Row], list[list[int]]], Sequence[Any]], what: str) -> list[Any]:
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

        def score(rows: list[Row], ids: list[list[int]]) -> list[float]:
            seq = sequences(self.model, ids, [texts[index[row]] for row in rows], range(len(rows)))
            losses = self.predictions.losses(self.predictions.states(seq), seq.targets)
            return mean_by(losses, seq.owner).tolist()

        return self.laid(torch.tensor(self._by_batch(score, "scoring what was written"), dtype=torch.float64))

    def kl(self, texts: list[list[int]], answers: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """KL a token along the plain text, and the judge's mass of answers after the prompt."""
        zero = self.doses.index(0.0)
        plain = {row.item: texts[i] for i, row in enumerate(self.unique) if row.dose == zero}
        base = self._base(plain)

        def compare(rows: list[Row], ids: list[list[int]]) -> list[tuple[float, float]]:
            if not answers:
                return [(kl, 0.0) for kl in self._kls(rows, ids, plain, base)]
            seq = sequences(self.model, ids, [plain[row.item] for row in rows], range(len(rows)))
            before = torch.cat([base[row.item] for row in rows])
            own = {name: sets[[row.item for row in rows]][seq.owner] for name, sets in answers.items()}
            edits, still = self.edits(rows), torch.tensor([self.strength(row) == 0 for row in rows])[seq.owner, None]
            after = self.predictions.states(seq, edits) if edits else before
            after = torch.where(still.to(after.device), before, after)  # unsteered rows among others: to the bit
            moved = self.predictions.shift(before, after, own)
            first = torch.tensor([int((seq.owner == i).nonzero()[0]) for i in range(len(rows))])
            mass = moved.share("right") if "wrong" in answers else moved.mass["right"]
            return list(zip(mean_by(moved.kl, seq.owner).tolist(), mass[first].tolist(), strict=True))

        found = torch.tensor(self._by_batch(compare, "comparing predictions"), dtype=torch.float64)
        return self.laid(found[:, 0]), self.laid(found[:, 1])

    def _kls(
        self, rows: list[Row], ids: list[list[int]], plain: dict[int, list[int]], base: dict[int, Tensor]
    ) -> list[float]:
        """The mean KL of each row; each prompt's plain predictions are made once for all of its rows."""
        out = torch.zeros(len(rows), dtype=torch.float64)
        at = [i for i, row in enumerate(rows) if self.strength(row) != 0]  # the others are unsteered: 0 to the bit
        if not at:
            return out.tolist()
        some = [rows[i] for i in at]
        seq = sequences(self.model, [ids[i] for i in at], [plain[row.item] for row in some], range(len(at)))
        start, before = {}, []
        for item in dict.fromkeys(row.item for row in some):
            start[item] = sum(map(len, before))
            before.append(base[item])
        which = torch.cat([start[row.item] + torch.arange(len(base[row.item])) for row in some])
        kl = self.predictions.kl(torch.cat(before), self.predictions.states(seq, self.edits(some)), which)
        out[torch.tensor(at)] = mean_by(kl, seq.owner)
        return out.tolist()

    def _base(self, plain: dict[int, list[int]]) -> dict[int, Tensor]:
        """Final states of the unsteered model along the text of each prompt."""
        base: dict[int, Tensor] = {}
        for group in batches(self.model, self.prompts, self.batch_rows):
            seq = sequences(self.model, [self.prompts[i] for i in group], [plain[i] for i in group], group)
            states = self.predictions.states(seq)
            for i in group:
                base[i] = states[(seq.owner == i).to(states.device)]
        return base

    def match_kl(self, name: str, max_new_tokens: int) -> list[str]:
        """Scale a curve's doses so that its mean KL is the direction's at each; returns what could not be matched.

        Along what the unsteered model writes greedily.
        """
        curve, notes = self.names.index(name), []
        groups = batches(self.model, self.prompts, self.batch_rows)
        plain: dict[int, list[int]] = {}
        for group in groups:
            some = continuations(self.model, [self.prompts[i] for i in group], max_new_tokens)
            plain |= dict(zip(group, some, strict=True))
        base = self._base(plain)

        def mean_kl(curve: int, dose: int, scale: float = 1.0) -> float:
            found = []
            for group in groups:
                rows = [Row(curve, dose, i) for i in group]
                seq = sequences(self.model, [self.prompts[i] for i in group], [plain[i] for i in group], group)
                edits = self.edits(rows, [scale * self.doses[dose]] * len(rows))
                before = torch.cat([base[i] for i in group])
                kl = self.predictions.kl(before, self.predictions.states(seq, edits))
                found += mean_by(kl, seq.owner).tolist()
            return sum(found) / len(found)

        first = 1.0
        for dose, value in enumerate(self.doses):
            if value == 0:
                continue
            tell(self.progress, f"{name}: the KL of dose {value:g}", dose / len(self.doses))
            wanted = mean_kl(0, dose)
            if not wanted > 0:
                continue
            try:
                first = search_strength(lambda s, dose=dose: mean_kl(curve, dose, s), wanted, first=first)
                self.scales[curve, dose] = first
            except NotConvergedError:
                notes.append(f"{name} at dose {value:g} never moves predictions by {wanted:.3g} nats: left as long.")
        return notes

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
