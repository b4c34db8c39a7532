"""Directions at several sites of one model: what steering at many layers takes and what fitting them gives."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from inscape.core.control_vector import load_control_vector, save_control_vector
from inscape.core.direction import Direction, same_model
from inscape.core.errors import FileError, InputError, SiteError
from inscape.core.site import Site, SiteTable
from inscape.core.tensor_file import read_tensors, write_tensors

VERSION = 1
_LAYER = re.compile(r"(.*?layers\.)(\d+)\.(.+)")


@dataclass(frozen=True, eq=False, repr=False)
class Directions(Mapping[str, Direction]):
    """One direction a site, all for one model: a mapping from site names to `Direction`.

    `directions["layers.5.resid_post"]` is a `Direction`; iterating gives site names, in the order given (what inscape
    fits is in the order of a forward pass). `-d`, `a + b`, `a - b` and `2 * d` act site by site; both sides of a sum
    have the same sites. `select("layers.[4-9].resid_post")` keeps some sites.

    by_site: site name to the direction there; `Directions.of(a, b)` makes it of directions.
    Raises: SiteError for a name that is not its direction's site, for sites that differ or are not here;
    ModelError for directions of two models; InputError for none.
    """

    by_site: Mapping[str, Any]
    __array_ufunc__: ClassVar[None] = None

    def __post_init__(self) -> None:
        if not isinstance(self.by_site, Mapping) or not self.by_site:
            raise InputError(
                "Directions takes a mapping from site names to directions, of one at least.\n"
                "  write Directions({d.site: d}) or Directions.of(d, e)."
            )
        for site, direction in self.by_site.items():
            if not isinstance(direction, Direction):
                raise InputError(f"{site} has a {type(direction).__name__}: every value must be a Direction.")
            if direction.site != site:
                raise SiteError(
                    f"the direction under {site!r} lives at {direction.site!r}.\n"
                    "  to use it elsewhere, say so: dataclasses.replace(direction, site=...)."
                )
        object.__setattr__(self, "by_site", MappingProxyType(dict(self.by_site)))
        _ = self.model

    @classmethod
    def of(cls, *directions: Direction) -> "Directions":
        """Of directions at different sites. Raises: SiteError for two at one site."""
        sites = [d.site for d in directions]
        twice = next((s for s in sites if sites.count(s) > 1), None)
        if twice is not None:
            raise SiteError(f"two directions live at {twice}: Directions holds one a site; add them up first.")
        return cls({d.site: d for d in directions})

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self.by_site)

    @property
    def model(self) -> str:
        """Fingerprint of the model they are for; "" when none of them knows."""
        found = ""
        for direction in self.by_site.values():
            found = same_model(found, direction.model)
        return found

    @property
    def source(self) -> str:
        """Where they came from, in one line; several sources are joined."""
        return "; ".join(dict.fromkeys(d.source for d in self.by_site.values() if d.source))

    def select(self, *patterns: str | Site) -> "Directions":
        """Those at the sites that match a pattern. Raises: SiteError naming the nearest when one matches nothing."""
        names = SiteTable(Site(site) for site in self.by_site)
        try:
            return Directions({site: self.by_site[site] for site in names.match(*patterns)})
        except SiteError:
            raise self._absent(", ".join(map(str, patterns))) from None

    def moved(self, site: str = "", layers: int = 0) -> "Directions":
        """The same vectors at another site of their layers, or so many layers further on.

        `d.moved("mlp_out")` takes what was found at `layers.k.resid_post` to `layers.k.mlp_out` (the rest of the name
        behind the layer's number); `d.moved(layers=4)` takes the vectors of layers 2 to 5 to 6 to 9.
        Raises: SiteError for a site that is in no layer, or a layer before the first.
        """
        made = []
        for direction in self.values():
            found = _LAYER.fullmatch(direction.site)
            if found is None or int(found[2]) + layers < 0:
                why = "is in no layer" if found is None else f"cannot go {-layers} layers back"
                raise SiteError(f"{direction.site!r} {why}: moved() takes directions from layer to layer.")
            name = f"{found[1]}{int(found[2]) + layers}.{site or found[3]}"
            made.append(Direction(name, direction.vector, direction.source, direction.model))
        return Directions.of(*made)

    def meant_for(self, model: Any) -> "Directions":
        """The same vectors, said to be for this model too: see `Direction.meant_for`."""
        return Directions.of(*(d.meant_for(model) for d in self.values()))

    def __getitem__(self, site: str | Site) -> Direction:
        if str(site) not in self.by_site:
            raise self._absent(str(site))
        return self.by_site[str(site)]

    def __contains__(self, site: object) -> bool:
        return str(site) in self.by_site

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_site)

    def __len__(self) -> int:
        return len(self.by_site)

    def __neg__(self) -> "Directions":
        return _of(-d for d in self.values())

    def __mul__(self, factor: Any) -> "Directions":
        return _of(d * factor for d in self.values())

    __rmul__ = __mul__

    def __add__(self, other: Any) -> "Directions":
        self._same_sites(other)
        return _of(d + other[site] for site, d in self.items())

    def __sub__(self, other: Any) -> "Directions":
        self._same_sites(other)
        return _of(d - other[site] for site, d in self.items())

    def save(self, path: str | Path) -> None:
        """Write them as one safetensors file: a vector a site, and the rest as metadata."""
        items = [{"site": d.site, "source": d.source, "model": d.model} for d in self.values()]
        about = {"kind": "directions", "version": VERSION, "items": items}
        write_tensors(path, {d.site: d.vector for d in self.values()}, {"inscape": json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path) -> "Directions":
        """Read what `save` wrote; FileError says what is wrong with anything else."""
        tensors, about = read_tensors(path, "directions", VERSION)
        items = about.get("items")
        if not isinstance(items, list) or not all(isinstance(i, dict) and i.get("site") in tensors for i in items):
            raise FileError(f"{str(path)!r} is damaged: its list of sites and its vectors do not fit together.")
        return _of(
            Direction(i["site"], tensors[i["site"]], str(i.get("source", "")), str(i.get("model", ""))) for i in items
        )

    def save_gguf(self, path: str | Path, *, model_hint: str = "") -> None:
        """Write them as a control vector for llama.cpp and repeng: see `core.control_vector` for its layer numbers.

        Directions at `layers.<k>.resid_post`, k from 1 (block 0 cannot be steered there); scale them first, since
        the file holds vectors alone. model_hint: the model's type ("gemma3"), a note that nobody checks.
        Raises: SiteError for other sites, ShapeError, NotFiniteError, FileError.
        """
        save_control_vector(path, self.values(), model_hint=model_hint)

    @classmethod
    def load_gguf(cls, path: str | Path) -> "Directions":
        """Read a control vector of llama.cpp, repeng or ours: `direction.k` is at `layers.k.resid_post`.

        Raises: FileError for anything that is not one, or is damaged.
        """
        return _of(load_control_vector(path))

    def __repr__(self) -> str:
        shown = self.sites if len(self) <= 4 else (*self.sites[:2], "...", self.sites[-1])
        return f"Directions({self.source or 'no source'} at {len(self)} sites: {', '.join(shown)})"

    def _absent(self, name: str) -> SiteError:
        return SiteError(f"no direction at {name!r}.\n  there are directions at {', '.join(self.sites)}.")

    def _same_sites(self, other: Any) -> None:
        if not isinstance(other, Directions):
            raise InputError(
                f"Directions and a {type(other).__name__} cannot be added.\n"
                "  add two Directions of the same sites, or one of them: directions[site] + direction."
            )
        if odd := sorted(set(self) ^ set(other)):
            raise SiteError(
                f"these Directions are at different sites: {', '.join(odd[:5])} {'are' if odd[1:] else 'is'} in one "
                "only.\n  keep the sites that both have, with .select(...)."
            )


def _of(directions: Iterable[Direction]) -> Directions:
    return Directions({d.site: d for d in directions})
