"""Figures as files, PNG and SVG, without a browser."""

from typing import Any

from inscape.core.errors import InputError
from inscape.core.extra import report_package
from inscape.view.theme import THEMES, vega_config

VL_VERSION = "6.4"  # what Altair 6 writes; the page inlines the same


def png(spec: dict[str, Any], *, scale: float = 2.0, theme: str = "light") -> bytes:
    """A Vega-Lite spec as PNG bytes; `scale` 2 is sharp on a screen, 4 on paper. Nothing is loaded from anywhere.

    Raises: InputError for an unknown theme or what is no spec; MissingExtraError without `inscape[report]`.
    """
    return _convert("vegalite_to_png", spec, theme, scale=scale)


def svg(spec: dict[str, Any], *, theme: str = "light") -> str:
    """A Vega-Lite spec as SVG text, for a paper or for further drawing. Raises as `png`."""
    return _convert("vegalite_to_svg", spec, theme)


def _convert(function: str, spec: dict[str, Any], theme: str, **options: Any) -> Any:
    convert = report_package("vl_convert", "a PNG or SVG")
    chosen = next((known for known in THEMES if known.name == theme), None)
    if chosen is None:
        raise InputError(f"no theme is called {theme!r}.\n  there are {', '.join(known.name for known in THEMES)}.")
    themed = {**spec, "config": vega_config(chosen)}
    try:
        return getattr(convert, function)(themed, vl_version=VL_VERSION, allowed_base_urls=[], **options)
    except ValueError as error:
        raise InputError(f"this is not a Vega-Lite spec that can be drawn.\n  the renderer says: {error}") from error
