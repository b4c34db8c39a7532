"""The one look of every figure and page: two palettes, one font stack, and the Vega-Lite settings made from them."""

from dataclasses import dataclass, fields
from typing import Any

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif'
MONO = 'ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace'


@dataclass(frozen=True)
class Theme:
    """One palette: surfaces, three strengths of ink, and colours that stay apart for colour-blind readers.

    The category colours are Okabe and Ito's (2008), darkened or lightened until each has a contrast of at
    least 3 to 1 with the paper; grey is left out of them, because grey always means "the control".
    """

    name: str
    paper: str
    panel: str
    rule: str
    faint: str
    quiet: str
    ink: str
    accent: str
    warm: str
    control: str
    category: tuple[str, ...]
    ramp: tuple[str, ...]
    diverging: tuple[str, ...]


LIGHT = Theme(
    name="light",
    paper="#ffffff",
    panel="#f6f7f8",
    rule="#e3e6e9",
    faint="#8a939c",
    quiet="#59636d",
    ink="#1b2127",
    accent="#0b6aa6",
    warm="#b8560b",
    control="#8a939c",
    category=("#0b6aa6", "#cf5a0a", "#008a66", "#a8558b", "#9a7400", "#2f93c9"),
    ramp=("#f3f7fa", "#cfe1ee", "#94c0dd", "#4f98c6", "#0b6aa6", "#063f66"),
    diverging=("#a84c06", "#e0904f", "#f3cfb0", "#f5f5f4", "#bcd7e8", "#5ba0cb", "#0b5a8e"),
)
DARK = Theme(
    name="dark",
    paper="#14181c",
    panel="#1b2025",
    rule="#2d343b",
    faint="#7d8791",
    quiet="#a5aeb7",
    ink="#e7eaed",
    accent="#5fb2e6",
    warm="#e8985a",
    control="#8b949d",
    category=("#5fb2e6", "#f0904a", "#35c39b", "#d990bf", "#d9b23c", "#a3cdea"),
    ramp=("#1b232a", "#1f3b50", "#24597f", "#2f7fb3", "#5fb2e6", "#c4e4f8"),
    diverging=("#f3a86c", "#b56a32", "#61412a", "#23282d", "#284a61", "#3f86b5", "#7cc4f0"),
)
THEMES = (LIGHT, DARK)


def vega_config(theme: Theme) -> dict[str, Any]:
    """Vega-Lite `config` for a theme: thin rules, no boxes, titles beside the axes, colours by role.

    A chart names roles (`style: "control"`, `range: "category"`), never colours, so that the page can swap
    the whole config when the reader turns the lights off.
    """
    text = {"font": FONT, "color": theme.ink}
    return {
        "background": theme.paper,
        "font": FONT,
        "padding": 4,
        "view": {"stroke": None},
        "mark": {"color": theme.accent},
        "axis": {
            "labelColor": theme.quiet,
            "titleColor": theme.quiet,
            "labelFontSize": 11,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "titlePadding": 10,
            "labelPadding": 5,
            "domainColor": theme.rule,
            "tickColor": theme.rule,
            "gridColor": theme.rule,
            "gridOpacity": 0.7,
            "tickSize": 4,
        },
        "axisX": {"grid": False, "labelFlush": False, "labelOverlap": "greedy", "labelSeparation": 4},
        "axisYQuantitative": {"tickCount": 5},
        "axisY": {
            "domain": False,
            "ticks": False,
            "titleAnchor": "end",
            "titleAlign": "left",
            "titleAngle": 0,
            "titleX": 0,
            "titleY": -12,
        },
        "legend": {
            "orient": "top",
            "direction": "horizontal",
            "title": None,
            "labelColor": theme.quiet,
            "titleColor": theme.quiet,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "labelLimit": 280,
            "symbolStrokeWidth": 2.5,
            "symbolBaseStrokeColor": theme.control,
            "symbolBaseFillColor": theme.control,
            "symbolSize": 120,
            "columnPadding": 18,
            "offset": 34,
            "titleOrient": "left",
            "titlePadding": 10,
            "gradientStrokeColor": "transparent",
            "layout": {"top": {"anchor": "start", "direction": "horizontal", "margin": 18}},
            "gradientLength": 140,
            "gradientThickness": 10,
        },
        "header": {"labelColor": theme.quiet, "titleColor": theme.quiet, "labelFontSize": 12},
        "title": {**text, "anchor": "start", "fontSize": 14, "fontWeight": 600, "offset": 16},
        "line": {"strokeWidth": 2.25, "strokeJoin": "round", "strokeCap": "round"},
        "range": {
            "category": list(theme.category),
            "ramp": list(theme.ramp),
            "heatmap": list(theme.ramp),
            "ordinal": list(theme.ramp),
            "diverging": list(theme.diverging),
        },
        "style": {
            "control": {"stroke": theme.control, "color": theme.control},
            "chance": {"stroke": theme.ink, "color": theme.ink, "strokeWidth": 1.5, "strokeDash": [5, 4]},
            "halo": {"stroke": theme.paper, "color": theme.paper, "opacity": 1},
            "chance-label": {"fill": theme.quiet, "color": theme.quiet, "fontSize": 11, "font": FONT},
            "cell-label": {"fill": theme.ink, "color": theme.ink, "fontSize": 11, "font": FONT},
            "cell-label-strong": {"fill": theme.paper, "color": theme.paper, "fontSize": 11, "font": FONT},
            "hover-rule": {"stroke": theme.faint, "color": theme.faint, "strokeWidth": 1},
            "interval": {"stroke": theme.ink, "color": theme.ink, "strokeWidth": 1.25},
        },
    }


def css_variables() -> str:
    """The single colours as CSS custom properties, each a `light-dark()` pair that follows `color-scheme`."""
    single = [f.name for f in fields(Theme) if f.name != "name" and isinstance(getattr(LIGHT, f.name), str)]
    pairs = [f"--ins-{name}: light-dark({getattr(LIGHT, name)}, {getattr(DARK, name)});" for name in single]
    return "\n  ".join([*pairs, f"--ins-font: {FONT};", f"--ins-mono: {MONO};"])
