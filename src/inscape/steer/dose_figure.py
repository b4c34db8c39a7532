"""The figure of a dose-response: what was gained and what it cost, with all controls in the same panels."""

from typing import TYPE_CHECKING, Any

from inscape.core.nulls import Intervals
from inscape.view.charts import lines
from inscape.view.panels import panels

if TYPE_CHECKING:
    from inscape.steer.dose import Dose

UNITS = {"vector": "dose (lengths of the vector)", "norm": "dose (length added)",
         "relative": "dose (share of each token's length)"}  # fmt: skip


def figure(dose: "Dose", title: str = "") -> dict[str, Any]:
    """Effect and KL above, fluency and what repeats (or is kept of other texts) below; bands are 95 % intervals."""
    lower = [
        _panel(dose, dose.fluency, "nats a token, unsteered model", "Fluency of the generated text"),
        _panel(dose, dose.repetition, "share of pairs seen before", "Repetition")
        if dose.neutral is None
        else _panel(dose, dose.neutral, "nats a token, steered model", "Loss on unrelated texts"),
    ]
    rows = [
        [
            _panel(dose, dose.effect, dose.judge, "Effect"),
            _panel(dose, dose.kl, "nats a token", "KL from the unsteered model"),
        ],
        lower,
    ]
    if dose.retention is not None:
        kept = {name: dose.retention[i].tolist() for i, name in enumerate(dose.curves)}
        rows.append([_lines(dose, kept, None, "score", "Another task")])
    return panels(rows, title=title)


def _panel(dose: "Dose", values: Intervals, y_title: str, title: str) -> dict[str, Any]:
    named = {name: values.value[i].tolist() for i, name in enumerate(dose.curves)}
    return _lines(dose, named, ("direction", (values.low[0].tolist(), values.high[0].tolist())), y_title, title)


def _lines(dose: "Dose", named: dict[str, Any], band: Any, y_title: str, title: str) -> dict[str, Any]:
    return lines(
        {"direction": named["direction"]}, x=dose.doses, band=dict([band]) if band else None,
        control={name: v for name, v in named.items() if name != "direction"} or None,
        x_title=UNITS[dose.unit], y_title=y_title, title=title, width=330, height=210,
    )  # fmt: skip
