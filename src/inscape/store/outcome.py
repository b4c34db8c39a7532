"""What a record cost, beside what was predicted: one small file a writer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inscape.core.durable import written

FOLDER = "outcome"


def keep_outcome(store: Path, writer: str, plan: Any, measured: Mapping[str, Any]) -> None:
    """Write the prediction (a `RecordPlan`, or None) and the outcome of one writer."""
    (store / FOLDER).mkdir(exist_ok=True)
    predicted = None if plan is None else {k: getattr(plan, k) for k in ("seconds", "bytes", "peak_bytes", "rows")}
    with written(store / FOLDER / f"{writer}.json", replace=True) as file:
        file.write(json.dumps({"predicted": predicted, "measured": dict(measured)}, indent=1).encode() + b"\n")


def outcomes(store: Path) -> list[dict[str, Any]]:
    """Prediction and outcome of every writer that came to its end."""
    return [json.loads(p.read_bytes()) for p in sorted((store / FOLDER).glob("[!.]*.json"))]
