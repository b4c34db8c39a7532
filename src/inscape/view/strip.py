"""The data of the token strip: running text, each token coloured by one of several values."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from inscape.core.errors import ShapeError
from inscape.view.numbers import row


def strip(
    tokens: Sequence[str],
    values: Mapping[str, Iterable[Any]],
    *,
    units: Mapping[str, str] | None = None,
    label: str = "",
) -> dict[str, Any]:
    """Data for a `Figure("tokens", ...)`: each named list of values is one way to colour; one below zero has two hues.

    Choose it for one number a token (norm, attention received, a latent's activation); choose `lens` for one a layer.
    Raises: ShapeError without values, or when a list is not as long as the tokens.
    """
    if not tokens or not values:
        raise ShapeError(
            "a token strip needs tokens and at least one list of values.\n  skip the section with its reason."
        )
    series = []
    for name, given in values.items():
        line = row(given, f"values {name!r}", len(tokens))
        short = [None if value is None else float(f"{value:.5g}") for value in line]
        signed = any(value is not None and value < 0 for value in line)
        series.append({"name": name, "values": short, "signed": signed, "unit": (units or {}).get(name, "")})
    return {"tokens": [str(token) for token in tokens], "values": series, "label": label}
