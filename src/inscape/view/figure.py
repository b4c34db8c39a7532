"""What a page is made of: figures, each with its sentence, its control and its call, in sections."""

from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["vega", "lens", "tokens", "table", "circuit"]


@dataclass(frozen=True)
class Figure:
    """One thing to look at: `data` as its kind's builder makes it (`charts`, `lens`, `strip`, `table`, `circuit`).

    `caption` is one sentence that says what is seen; `control` says what stands beside it and must not show the same;
    `call` is the code that makes this figure alone.
    """

    kind: Kind
    data: dict[str, Any]
    caption: str
    control: str = ""
    call: str = ""


@dataclass(frozen=True)
class Section:
    """Figures that answer one question; `skipped` gives the reason when the question does not apply to this model."""

    title: str
    figures: tuple[Figure, ...] = field(default=())
    says: str = ""
    skipped: str | None = None
