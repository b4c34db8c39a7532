"""The head atlas: which heads of a model are of which known kind, and how sure that is.

To add a kind: a function of `Probes` that gives a `Measured`, and a row in `KINDS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from inscape.circuits.heads import looking, naming, writing
from inscape.circuits.heads.measured import Measured
from inscape.circuits.heads.probes import Probes
from inscape.core.errors import InputError, InscapeError
from inscape.core.progress import Progress
from inscape.models.model import Model
from inscape.tasks.pairs import Pairs


@dataclass(frozen=True)
class Kind:
    """A known kind of head. does: what such a head does. control: what its null is made of.

    floor: the score that such a head has at least, however sure a smaller one is.
    """

    name: str
    does: str
    control: str
    measure: Callable[[Probes], Measured]
    floor: float = 0.0


OTHER_KEYS = "attention on keys drawn at random among those in sight"
OTHER_ORDER = "the same tokens, the second time in another order, or random keys where that is more"
OTHER_TARGETS = "right targets shuffled within their class"
OTHER_SIGNS = "attention beyond that on other tokens, and effect, with random signs pair by pair"

KINDS: tuple[Kind, ...] = (
    Kind("previous", "looks at the token before", OTHER_KEYS, looking.previous),
    Kind("duplicate", "looks at the same token, earlier", OTHER_ORDER, looking.duplicate),
    Kind("prefix", "looks at what followed the same token, earlier", OTHER_ORDER, looking.prefix),
    Kind("copying", "promotes the token that it looks at", OTHER_TARGETS, writing.copying),
    Kind("induction", "looks at what followed the same token, and promotes it", f"{OTHER_ORDER}; {OTHER_TARGETS}",
         writing.induction),
    Kind("successor", "promotes what comes after the token that it looks at, in its order", OTHER_TARGETS,
         writing.successor),
    Kind("mover", "looks from the end at the answer, and adds to it directly", OTHER_SIGNS, naming.mover),
    Kind("negative mover", "looks from the end at the answer, and takes from it directly", OTHER_SIGNS,
         naming.negative_mover),
    Kind("inhibition", "looks from the end at a word that comes twice, and serves the answer through later heads",
         OTHER_SIGNS, naming.inhibition),
    Kind("sink", "looks at the first position", OTHER_KEYS, looking.sink, floor=0.3),  # Gu et al. 2024, 2410.10781
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class HeadAtlas:
    """Every head, tried for every kind.

    found: kind -> what was measured. skipped: kind -> why it could not be. layers: what stands along the first axis.
    """

    layers: tuple[str, ...]
    found: dict[str, Measured]
    skipped: dict[str, str]

    def of(self, kind: str) -> Measured:
        """What was measured of a kind. Raises: InputError for one that is not there, with the reason."""
        if kind in self.skipped:
            raise InputError(f"{kind!r} could not be measured here: {self.skipped[kind]}")
        if kind not in self.found:
            raise InputError(f"no kind of head is called {kind!r} here; there are {', '.join(self.found)}.")
        return self.found[kind]

    def top(self, kind: str, n: int = 5) -> list[tuple[str, int, float, float]]:
        """The n highest scores of a kind, surest first where they are equal: (layer, head, score, p)."""
        made = self.of(kind)
        heads = made.score.shape[1]
        order = made.score.nan_to_num(-torch.inf).flatten().argsort(descending=True, stable=True)[:n].tolist()
        places = [divmod(i, heads) for i in order]
        return [(self.layers[a], h, float(made.score[a, h]), float(made.p[a, h])) for a, h in places]

    def heads(self, kind: str, alpha: float = 0.05) -> list[tuple[str, int, float, float]]:
        """The heads that are of a kind: p (corrected for all heads) at most `alpha`, the score at least the floor."""
        made, floor = self.of(kind), _floor(kind)
        return [row for row in self.top(kind, made.score.numel()) if row[3] <= alpha and row[2] >= floor]

    def kinds(self, layer: str | int, head: int, alpha: float = 0.05) -> list[str]:
        """The kinds that one head is of."""
        name = f"layers.{layer}" if isinstance(layer, int) else layer
        if name not in self.layers or not 0 <= head < next(iter(self.found.values())).score.shape[1]:
            raise InputError(f"there is no head {head} of {name!r} here; layers are {', '.join(self.layers[:3])} ...")
        at = self.layers.index(name)
        return [
            kind
            for kind, made in self.found.items()
            if float(made.p[at, head]) <= alpha and float(made.score[at, head]) >= _floor(kind)
        ]

    def __repr__(self) -> str:
        lines = [f"HeadAtlas({len(self.layers)} layers; heads at p <= 0.05, corrected for all heads)"]
        for kind in self.found:
            every = self.heads(kind)
            best = ", ".join(f"{a.removeprefix('layers.')}.{h} {score:.2f}" for a, h, score, _ in every[:4])
            lines.append(f"  {kind:15} {len(every):4d}  {best}")
        return "\n".join([*lines, *(f"  {kind:15}    -  {why}" for kind, why in self.skipped.items())])


def _floor(kind: str) -> float:
    return next(known.floor for known in KINDS if known.name == kind)


def head_atlas(
    model: Model,
    *,
    kinds: Sequence[str] | None = None,
    pairs: Pairs | None = None,
    roles: tuple[str, str] = ("io", "s2"),
    length: int = 24,
    rows: int = 8,
    draws: int = 1000,
    seed: int = 0,
    progress: Progress = None,
) -> HeadAtlas:
    """Try every head for every known kind, each beside its own control.

    A head is of a kind when its p is small: how often the best of all heads does as well under the control, so that
    having looked at all of them is counted. A kind of several parts needs all of them. Scores say how strongly: a small
    p with a small score is a head that does it a little. Names are by behaviour: "mover" says what a head does on these
    pairs, not what it is for.
    kinds: names out of `KINDS`; all when left out. What a model does not allow is skipped, with the reason: without a
        tokenizer no succession and no names, without a next token no movers, copying only where weights can be traced.
    pairs, roles: for movers and inhibition, your own pairs and which of their roles are the answer and the word that
        comes twice; `tasks.ioi` when left out. length, rows: of the probe of random tokens. draws: of every null.
    Cost: four forwards of `rows x (2 length + 1)` tokens, one of a thousand short rows for succession, a map of a few
        hundred tokens through each head's weights, and for the pairs four forwards and two patched runs a head.
    Raises: ModelError for a model without attention patterns or that does not run on tokens; InputError for a kind.
    Source: Olsson et al. 2022, arXiv:2209.11895; Wang et al. 2022, arXiv:2211.00593; Gould et al. 2023,
        arXiv:2312.09230; the controls are ours.
    """
    known = {kind.name: kind for kind in KINDS}
    unknown = [name for name in kinds or () if name not in known]
    if unknown or (kinds is not None and not kinds):
        raise InputError(
            f"no kind of head is called {', '.join(map(repr, unknown)) or '(none given)'}; "
            f"there are {', '.join(known)}."
        )
    probes = Probes(model, length, rows, draws, seed, pairs, roles, progress)
    layers: Any = probes.layers
    _ = probes.repeated  # a model that does not run on the probe has no atlas
    found, skipped = {}, {}
    for name in kinds or known:
        try:
            found[name] = known[name].measure(probes)
        except InscapeError as reason:
            if pairs is not None and isinstance(reason, InputError):
                raise
            skipped[name] = str(reason).splitlines()[0]
    return HeadAtlas(layers, found, skipped)
