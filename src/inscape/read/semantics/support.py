"""Which concept, present in the stream, pushes which word: by taking the concept's direction away and running on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.edit import Edit, make_edit
from inscape.core.errors import InputError, ShapeError
from inscape.core.progress import Progress
from inscape.engine.cells import Cell, run_cells
from inscape.engine.unembed import unembedding
from inscape.models.model import Model
from inscape.read.semantics.concepts import reading_directions

CONTROLS = ("random", "shrink")


@dataclass(frozen=True, eq=False)
class Support:
    """What each concept gives to each target, one array [layer, concept, target] a row of the inputs, in logits.

    values: logit of the target in the plain run less that with the concept taken away at the layer: above 0, the
    concept supports it. control: the same for a change of equal length that has nothing to do with the concept.
    logits: of the targets in the plain run. concepts, targets: token ids, row by row. how: the way the runs went.
    """

    layers: tuple[str, ...]
    values: tuple[Float[Tensor, "layer _ target"], ...]
    control: tuple[Float[Tensor, "layer _ target"], ...] | None
    logits: tuple[Float[Tensor, " target"], ...]
    concepts: tuple[Int[Tensor, " _"], ...]
    targets: tuple[Int[Tensor, " target"], ...]
    how: str = ""

    def __len__(self) -> int:
        return len(self.values)

    def strongest(self, row: int, target: int = 0) -> tuple[int, int]:
        """(layer, concept) that supports a target most, the target itself left out."""
        value = self.values[row][..., target].clone()
        value[:, self.concepts[row] == self.targets[row][target]] = -torch.inf
        at = int(value.argmax())
        return at // value.shape[1], at % value.shape[1]


def support_matrix(
    model: Model,
    inputs: Any,
    concepts: Sequence[Any],
    targets: Any,
    *,
    layers: Sequence[str] | None = None,
    position: int = -1,
    control: str | None = "random",
    seed: int = 0,
    progress: Progress = None,
) -> Support:
    """S_l(u -> v) = logit_v(clean) - logit_v(u's direction projected out of h_l at the position), for all u, v and l.

    Directed: what u does for v is not what v does for u. A direction is the one that u's score is read from at the end
    (`reading_directions`), which says most about late layers; the last of them is all direct, earlier ones go through
    what is computed after. Choose it to ask which associations carry an answer; `spurious_spans` asks which words do.

    inputs: texts or rows of token ids. concepts: token ids, a list a row. targets: token ids, k a row [row, k]. layers:
    resid_post of every layer when None. position: where concepts are taken away; targets are read at the last token.
    control: "random", a change as long as the concept's, along a random direction that is new for each concept and
        layer; "shrink", the state made as much shorter as taking the concept away makes it (its direction kept).
    Cost: layers x concepts runs a row, restarted at their layer (see `engine.cells.run_cells`); the control doubles it.
    Raises: ShapeError where lists are not one a row, InputError for no concepts, ModelError as `reading_directions`.
    Source: arXiv:2510.06107, in our operational form; the ablation of the authors' public code never runs.
    """
    if control not in (None, *CONTROLS):
        raise InputError(f"control={control!r}: it can be 'random', 'shrink' or None.")
    each = [torch.as_tensor(c, dtype=torch.long).reshape(-1) for c in concepts]
    wanted = torch.as_tensor(targets, dtype=torch.long)
    wanted = wanted[:, None] if wanted.ndim == 1 else wanted
    n_rows = 1 if isinstance(inputs, str) else len(inputs)
    if len(each) != n_rows or len(wanted) != n_rows:
        raise ShapeError(
            f"{n_rows} inputs, {len(each)} lists of concepts, {len(wanted)} of targets: one of each a row."
        )
    if not all(len(c) for c in each):
        raise InputError(f"row {next(i for i, c in enumerate(each) if not len(c))} has no concepts to take away.")
    names = tuple(layers or [f"{block.name}.resid_post" for block in model.blocks])
    unembed = unembedding(model)
    known = torch.cat(each).unique()
    unit = torch.nn.functional.normalize(reading_directions(model, known, unembed), dim=-1)
    of = {int(t): unit[i] for i, t in enumerate(known)}
    draw = torch.Generator().manual_seed(seed)
    cells, null = [], []
    for row, ids in enumerate(each):
        for site in names:
            for token in ids.tolist():
                cells.append(Cell((taken_away(site, of[token], at=position),), row))
                other = torch.nn.functional.normalize(torch.randn(unit.shape[1], generator=draw), dim=0)
                if control == "random":
                    null.append(Cell((along_another(site, of[token], other, at=position),), row))
                elif control == "shrink":
                    null.append(Cell((shrunk(site, of[token], at=position),), row))
    ran = run_cells(model, inputs, [*cells, *null], tokens=wanted, measure=lambda logits, _: logits.float(),
                    progress=progress)  # fmt: skip
    assert ran.measured is not None
    assert ran.base_measured is not None
    base, sizes = ran.base_measured, [len(names) * len(ids) for ids in each]
    drops = ran.measured.split([*sizes, *(sizes if null else [])])
    shaped = [base[i % n_rows] - drop.reshape(len(names), len(each[i % n_rows]), -1) for i, drop in enumerate(drops)]
    return Support(names, tuple(shaped[:n_rows]), tuple(shaped[n_rows:]) if null else None, tuple(base), tuple(each),
                   tuple(wanted), ran.how)  # fmt: skip


def taken_away(site: str, unit: Float[Tensor, " d"], **places: Any) -> Edit:
    """x without what lies along a unit direction."""
    return make_edit(site, lambda x: x - _along(x, unit) * unit.to(x), "concept taken away", **places)


def along_another(site: str, unit: Float[Tensor, " d"], other: Float[Tensor, " d"], **places: Any) -> Edit:
    """A change exactly as long as `taken_away` makes, along another unit direction."""
    return make_edit(site, lambda x: x - _along(x, unit).abs() * other.to(x), "as long, elsewhere", **places)


def shrunk(site: str, unit: Float[Tensor, " d"], **places: Any) -> Edit:
    """x as long as `taken_away` leaves it, in its own direction."""

    def fn(x: Tensor) -> Tensor:
        less = (x - _along(x, unit) * unit.to(x)).norm(dim=-1, keepdim=True)
        return x * less / x.norm(dim=-1, keepdim=True).clamp(min=1e-30)

    return make_edit(site, fn, "as short", **places)


def _along(x: Tensor, unit: Tensor) -> Tensor:
    return (x * unit.to(x)).sum(-1, keepdim=True)
