"""`python -m inscape.dynamics.toys NAME`: train a toy net, check it, and write its files into the package."""

import sys
from pathlib import Path

from cyclopts import App

from inscape.core.errors import InscapeError
from inscape.dynamics.toys.making import make, toy_named
from inscape.models.toy import TOYS
from inscape.models.toy.toy import SHIPPED

app = App(help=__doc__)


@app.default
def main(name: str, *, seed: int = 0, steps: int | None = None, to: Path | None = None) -> int:
    """Train NAME and write it to the folder `to`: `models/toy/weights/NAME` of this package when none is given."""
    try:
        toy = toy_named(name, TOYS)
        folder = to or SHIPPED / toy.key
        found = make(toy, to=folder, seed=seed, steps=steps, progress=_line)
    except InscapeError as error:
        print(error, file=sys.stderr)
        return 1
    for key, check in found.items():
        print(f"{key:24} {check.value:.4f}")
    print(f"{sum(p.stat().st_size for p in folder.iterdir()):,} bytes in {folder}")
    return 0


def _line(message: str, fraction: float | None = None) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(app())
