"""A circuit that was drawn: a page to click in, a picture to print, and what a notebook shows of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inscape.core.attribution_graph import AttributionGraph
from inscape.core.circuit import Circuit
from inscape.core.durable import disk_errors, written
from inscape.core.errors import InputError
from inscape.view.circuit import circuit
from inscape.view.circuit_svg import circuit_png, circuit_svg
from inscape.view.figure import Figure, Section
from inscape.view.page import page
from inscape.view.text import escape

KINDS = (".html", ".svg", ".png")


@dataclass(frozen=True, eq=False)
class Drawn:
    """A circuit view: `save` writes it, a notebook shows it. data: as `view.circuit.circuit` makes it."""

    data: Mapping[str, Any]
    title: str
    says: str = ""

    def html(self) -> str:
        """One page that loads nothing from anywhere."""
        return page(self.title, {}, [Section("", (self.figure(),))])

    def figure(self) -> Figure:
        """For a report's page."""
        said = (
            f"{len(self.data['nodes'])} nodes, layers upwards; {len(self.data['edges'])} edges, as thick as they weigh."
        )
        return Figure("circuit", dict(self.data), self.says or said)

    def svg(self, *, width: int = 760, theme: str = "light") -> str:
        return circuit_svg(self.data, width=width, theme=theme)

    def save(self, path: str | Path) -> Path:
        """Write `.html` (to click in), `.svg` or `.png` (still), whole or not at all. Raises: InputError for others."""
        path = Path(path)
        if path.suffix.lower() not in KINDS:
            raise InputError(f"{str(path)!r}: a circuit is drawn as {', '.join(KINDS)}.")
        kind = path.suffix.lower()
        made = circuit_png(self.data) if kind == ".png" else (self.svg() if kind == ".svg" else self.html()).encode()
        with (
            disk_errors(str(path), lambda: "choose a folder that is there and has room."),
            written(path, replace=True) as file,
        ):
            file.write(made)
        return path

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """The page in a frame of its own; the still picture where a notebook shows no pages."""
        tall = 240 + 80 * len(self.data["rows"])
        frame = f'<iframe srcdoc="{escape(self.html())}" style="width:100%;height:{tall}px;border:0"></iframe>'
        return {"text/html": frame, "image/svg+xml": self.svg(), "text/plain": f"Drawn({self.title})"}


def draw(
    given: Circuit | AttributionGraph, *, title: str = "", says: str = "", about: Mapping[str, str] | None = None
) -> Drawn:
    """A circuit or an attribution graph as a view: layers upwards, edges as thick as they weigh, roles coloured.

    Hover a node for its neighbours, click it for all that is up and down the stream from it, and slide the weaker edges
    away. title, says: heading and caption. about: node -> what its tooltip says.
    Raises: ShapeError where there is nothing to draw, or too much.
    """
    named = title or (given.about if isinstance(given, Circuit) else str(given.metadata["slug"])) or "Circuit"
    return Drawn(circuit(given, label=named, about=about), named, says)
