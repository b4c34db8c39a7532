"""The circuit view as a still picture, SVG or PNG: for a paper, a README, or a notebook that runs no scripts."""

from collections.abc import Mapping
from typing import Any

from inscape.core.extra import report_package
from inscape.view.text import escape
from inscape.view.theme import FONT, THEMES, Theme

LEFT, TOP, FOOT = 64, 34, 34
ENTER = {"q": -0.3, "k": 0.0, "v": 0.3}  # where an edge comes in, in widths of the node


def circuit_svg(data: Mapping[str, Any], *, width: int = 760, theme: str = "light") -> str:
    """SVG text of what `view.circuit.circuit` made. Wider than asked where its columns need more room."""
    look = next((t for t in THEMES if t.name == theme), THEMES[0])
    place = _Places(data, width)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{place.width:.0f}" height="{place.height:.0f}" '
        f'viewBox="0 0 {place.width:.0f} {place.height:.0f}" font-family="{escape(FONT)}" font-size="11.5">',
        f'<rect width="100%" height="100%" fill="{look.paper}"/>',
    ]
    for row, name in enumerate(data["rows"]):
        if name:
            y = place.y(row)
            parts.append(f'<path d="M{LEFT - 6} {y:.1f}H{place.width - 8:.0f}" stroke="{look.rule}"/>')
            parts.append(_text(name, 4.0, y, look.faint, "start"))
    for column, name in enumerate(data["columns"]):
        if name and not column % place.each:
            parts.append(_text(str(name)[:14], place.x(float(column)), place.height - 14, look.faint))
    at = {node["id"]: node for node in data["nodes"]}
    for edge in reversed(data["edges"]):
        parts.append(_edge(edge, at[edge["from"]], at[edge["to"]], place, data["most"], look))
    for node in data["nodes"]:
        parts.append(_node(node, place, data["roles"], look))
    parts += _legend(data["roles"], look)
    return "\n".join([*parts, "</svg>"])


def circuit_png(data: Mapping[str, Any], *, width: int = 760, theme: str = "light", scale: float = 2.0) -> bytes:
    """The same as PNG bytes. Raises: MissingExtraError without `inscape[report]`."""
    return report_package("vl_convert", "a PNG").svg_to_png(circuit_svg(data, width=width, theme=theme), scale=scale)


class _Places:
    def __init__(self, data: Mapping[str, Any], width: int) -> None:
        xs = [float(node["x"]) for node in data["nodes"]]
        first, last = min(0, *xs), max(len(data["columns"]) - 1, *xs)
        self.dense = len(data["nodes"]) > 120
        widest = 12.0 if self.dense else max(self.node_width(n) for n in data["nodes"])
        gap = max((width - LEFT - widest - 16) / max(1, last - first), 26 if self.dense else widest + 14)
        self.across = min(gap, 190) if last > first else 0.0
        self.width = max(width, LEFT + widest + self.across * (last - first) + 16)
        self.start = LEFT + (self.width - LEFT - self.across * (last - first)) / 2 - first * self.across
        self.high = max(node["y"] for node in data["nodes"])
        self.step = min(92.0, max(44.0, 560 / (self.high + 1)))
        self.height = TOP + 16 + self.high * self.step + 30 + FOOT
        self.each = max(1, round(44 / max(1.0, self.across) + 0.49))

    def x(self, column: float) -> float:
        return self.start + column * self.across

    def y(self, row: int) -> float:
        return TOP + 16 + (self.high - row) * self.step

    def label(self, node: Mapping[str, Any]) -> str:
        name = str(node["name"])
        return "" if self.dense and node["kind"] != "head" else name if len(name) <= 16 else f"{name[:15]}\u2026"

    def node_width(self, node: Mapping[str, Any]) -> float:
        name = self.label(node)
        return max(34.0, 16 + 6.6 * len(name)) if name else 12.0

    def node_height(self, node: Mapping[str, Any]) -> int:
        return 24 if self.label(node) else 12


def _edge(
    edge: Mapping[str, Any], a: Mapping[str, Any], b: Mapping[str, Any], place: _Places, most: float, look: Theme
) -> str:
    share = abs(edge["weight"]) / most
    x1, y1 = place.x(float(a["x"])), place.y(a["y"]) - place.node_height(a) / 2
    x2 = place.x(float(b["x"])) + ENTER.get(edge["through"], 0.0) * place.node_width(b)
    y2 = place.y(b["y"]) + place.node_height(b) / 2
    bend = max(18.0, (y1 - y2) * 0.45)
    over = a["x"] == b["x"] and a["y"] + 1 < b["y"]  # round what stands between, towards the middle
    side = min(90.0, 34.0 + 8 * (b["y"] - a["y"])) * (-1 if x1 > place.width / 2 else 1) if over else 0.0
    hue = look.warm if edge["weight"] < 0 else look.accent
    path = f"M{x1:.1f} {y1:.1f}C{x1 + side:.1f} {y1 - bend:.1f} {x2 + side:.1f} {y2 + bend:.1f} {x2:.1f} {y2:.1f}"
    thick, dense = 0.75 + 4.25 * share, 0.3 + 0.55 * share
    stroke = f'stroke="{hue}" stroke-width="{thick:.2f}" stroke-opacity="{dense:.2f}" stroke-linecap="round"'
    return f'<path d="{path}" fill="none" {stroke}/>'


def _node(node: Mapping[str, Any], place: _Places, roles: list[str], look: Theme) -> str:
    name, w = place.label(node), place.node_width(node)
    h = place.node_height(node)
    x, y = place.x(node["x"]), place.y(node["y"])
    hue = look.category[roles.index(node["role"]) % len(look.category)] if node["role"] else look.faint
    fill = look.panel if node["kind"] in ("embed", "logits") else look.paper
    dash = ' stroke-dasharray="2.5 2.5"' if node["kind"] == "error" else ""
    tint = f'<rect x="{x - w / 2:.1f}" y="{y - h / 2:.1f}" width="{w:.1f}" height="{h}" rx="{_round(node, h)}" '
    box = f'{tint}fill="{fill}" stroke="{hue}" stroke-width="{1.75 if node["role"] else 1.25}"{dash}/>'
    wash = f'{tint}fill="{hue}" fill-opacity="0.14"/>' if node["role"] else ""
    return box + wash + (_text(name, x, y, look.ink) if name else "")


def _round(node: Mapping[str, Any], h: int) -> int:
    return 4 if node["kind"] == "mlp" else h // 2


def _legend(roles: list[str], look: Theme) -> list[str]:
    out, x = [], 4.0
    for i, role in enumerate(roles):
        hue = look.category[i % len(look.category)]
        out.append(f'<rect x="{x:.1f}" y="8" width="10" height="10" rx="3" fill="{hue}"/>')
        out.append(_text(role, x + 16, 13.0, look.quiet, "start"))
        x += 34 + 6.4 * len(role)
    return out


def _text(words: str, x: float, y: float, fill: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}" fill="{fill}">{escape(words)}</text>'
