"""Affine maps at sites of one model: one scale and one shift a unit, as an artefact that is saved, composed, merged."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from inscape.core.direction import same_model
from inscape.core.edit import Edit, meant_for
from inscape.core.edits.affine import affine
from inscape.core.edits.strength import Strengths
from inscape.core.errors import FileError, InputError, ShapeError, SiteError
from inscape.core.tensor_file import read_tensors, write_tensors
from inscape.models.model import Model
from inscape.steer.merge import Merged, merge_edits
from inscape.train.history import History

VERSION = 1


@dataclass(frozen=True, eq=False, repr=False)
class AffineSteer:
    """z := w z + b for every unit of some sites, what `fit_affine` finds.

    weight, bias: by site, of the shape of its units, float32. source: where they came from, in a line. model: the
    fingerprint of the model they are for. pool, method: of the fit. history: of its training, where there was one;
    penalties: (l1, group) of it, in units of the loss.
    """

    weight: Mapping[str, Tensor]
    bias: Mapping[str, Tensor]
    source: str = ""
    model: str = ""
    method: str = ""
    pool: str = "mean"
    history: History | None = None
    penalties: tuple[float, float] = (0.0, 0.0)
    steps: tuple["AffineSteer", ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.weight or set(self.weight) != set(self.bias):
            raise InputError("AffineSteer takes a weight and a bias for each of its sites, of one at least.")
        for site, w in self.weight.items():
            if w.shape != self.bias[site].shape:
                raise ShapeError(f"{site}: weights {tuple(w.shape)} and biases {tuple(self.bias[site].shape)} differ.")

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self.weight)

    def edits(self, strength: Strengths = 1.0, *, model: Model | None = None, **places: Any) -> list[Edit]:
        """One edit a site that is changed anywhere: (1 - t) z + t (w z + b), t the strength.

        strength: a number, one a row or a schedule. 0 changes nothing, to the bit; beyond [0, 1] the maps are carried
        on, with one warning. model: refused where the maps are for another one. Raises: ModelError.
        """
        if model is not None:
            self.check(model)
        if self.steps:
            return [edit for one in self.steps for edit in one.edits(strength, **places)]
        changed = self.support()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="affine at .* is outside", category=UserWarning)
            made = [meant_for(affine(site, w, self.bias[site], strength, **places), self.model)
                    for site, w in self.weight.items() if bool(changed[site].any())]  # fmt: skip
        if isinstance(strength, (int, float)) and not 0 <= strength <= 1:
            warnings.warn(f"a strength of {strength:g} is outside [0, 1]: the maps are carried on past what they were "
                          "fitted for.", stacklevel=2)  # fmt: skip
        return made

    def support(self) -> dict[str, Bool[Tensor, "*units"]]:
        """Which units are changed: all others are left exactly as they are."""
        return {site: (w != 1) | (self.bias[site] != 0) for site, w in self.weight.items()}

    @property
    def changed(self) -> float:
        """Share of the units of all sites that are changed."""
        found = torch.cat([mask.flatten() for mask in self.support().values()])
        return float(found.double().mean())

    def select(self, *sites: str) -> "AffineSteer":
        """The maps of some sites. Raises: SiteError."""
        odd = next((site for site in sites if site not in self.weight), None)
        if odd is not None or not sites:
            raise SiteError(f"no map at {odd!r}.\n  there are maps at {', '.join(self.sites)}.")
        kept = [site for site in self.weight if site in sites]
        return replace(self, weight={s: self.weight[s] for s in kept}, bias={s: self.bias[s] for s in kept}, steps=())

    def compose(self, other: "AffineSteer") -> "AffineSteer":
        """First these maps, then the other's; the order matters. At strengths below 1 both go part of their own way.

        Raises: ModelError for maps of two models; ShapeError for maps of unlike units.
        """
        model = same_model(self.model, other.model)
        weight, bias = dict(self.weight), dict(self.bias)
        for site, w in other.weight.items():
            if site in weight and weight[site].shape != w.shape:
                raise ShapeError(f"{site}: maps of {tuple(weight[site].shape)} and {tuple(w.shape)} units.")
            before = bias[site] if site in weight else torch.zeros_like(w)
            weight[site] = w * weight[site] if site in weight else w
            bias[site] = w * before + other.bias[site]
        both = (*(self.steps or (self,)), *(other.steps or (other,)))
        return AffineSteer(
            weight, bias, f"{self.source}; then {other.source}", model, "composed", self.pool, steps=both
        )

    def merge(self, model: Model, strength: Strengths = 1.0, *, inputs: Any = None) -> Merged:
        """The maps in the weights of the norm or linear layer beside each site, where that is exact: `merge_edits`.

        Raises: ModelError for another model; EditError where a site has no such layer.
        """
        return merge_edits(model, self.edits(strength, model=model), inputs=inputs)

    def check(self, model: Model) -> None:
        """Raises: ModelError where the maps are for another model."""
        model.check_meant(self.model, "these maps are")

    def save(self, path: str | Path) -> None:
        """Write them as one safetensors file. Raises: InputError for composed maps: save each."""
        if self.steps:
            raise InputError("composed maps are several: save each, and compose them after loading.")
        about = {"kind": "affine maps", "version": VERSION, "sites": list(self.sites), "source": self.source,
                 "model": self.model, "method": self.method, "pool": self.pool,
                 "penalties": list(self.penalties)}  # fmt: skip
        tensors = {f"weight.{site}": w for site, w in self.weight.items()}
        tensors |= {f"bias.{site}": b for site, b in self.bias.items()}
        write_tensors(path, tensors, {"inscape": json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path) -> "AffineSteer":
        """Read what `save` wrote. Raises: FileError for anything else."""
        tensors, about = read_tensors(path, "affine maps", VERSION)
        sites = about.get("sites")
        names = [f"{kind}.{site}" for site in sites for kind in ("weight", "bias")] if isinstance(sites, list) else []
        if not names or not all(name in tensors for name in names):
            raise FileError(f"{str(path)!r} is damaged: its list of sites and its maps do not fit together.")
        weight, bias = ({site: tensors[f"{kind}.{site}"] for site in sites or ()} for kind in ("weight", "bias"))
        l1, group = about.get("penalties", (0.0, 0.0))
        said, of, method, pool = (str(about.get(name, "")) for name in ("source", "model", "method", "pool"))
        return cls(weight, bias, said, of, method, pool, penalties=(float(l1), float(group)))

    def __repr__(self) -> str:
        return f"AffineSteer({self.source or self.method}, {self.changed:.0%} of the units of {len(self.sites)} sites)"
