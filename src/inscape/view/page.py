"""One self-contained HTML page: figures in sections, all they need inside, and a policy that lets nothing load."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from inscape.core.errors import InputError
from inscape.core.extra import report_package
from inscape.view.figure import Figure, Section
from inscape.view.png import VL_VERSION
from inscape.view.table import table_html
from inscape.view.text import escape, inline_json, inline_script
from inscape.view.theme import THEMES, css_variables, vega_config


def page(title: str, facts: Mapping[str, str], sections: Sequence[Section], *, lead: str = "") -> str:
    """The page as HTML text, to be written as UTF-8. The same input gives the same bytes.

    `facts` stand under the title (model, parameters, texts, time); `lead` is its one sentence. Vega comes in once, and
    only when a chart needs it. Texts are escaped; scripts are allowed by their digest and expressions are interpreted,
    so the page's policy has neither unsafe-inline nor unsafe-eval for scripts, and no network at all.

    Cost: 0.95 MB with charts, 40 kB without, plus the data; three seconds once a process to bundle Vega.
    Raises: InputError for a spec that would load from an address; MissingExtraError for charts without the extra.
    """
    charts = any(figure.kind == "vega" for section in sections for figure in section.figures)
    scripts = [inline_script(vega_bundle())] if charts else []
    scripts.append(inline_script(_shipped("inscape.js")))
    themes = {theme.name: vega_config(theme) for theme in THEMES} if charts else {}
    numbers = iter(range(1, 1_000_000))
    body = "\n".join(_section(index, section, numbers) for index, section in enumerate(sections, 1))
    links = "".join(
        f'<li{_absent(section)}><a href="#s{index}">{escape(section.title)}</a></li>'
        for index, section in enumerate(sections, 1)
    )
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>",
            f"<style>\n:root {{\n  {css_variables()}\n}}\n{_shipped('page.css')}</style>",
            "</head>",
            "<body>",
            '<div class="frame">',
            f"<header><h1>{escape(title)}</h1>" + (f'<p class="lead">{escape(lead)}</p>' if lead else ""),
            (f'<dl class="facts">{rows}</dl>' if rows else "")
            + "<noscript>The scripts inside this page draw its figures; this browser runs none.</noscript></header>",
            f'<nav aria-label="Contents"><ol>{links}</ol></nav>' if len(sections) > 1 else "",
            f"<main>\n{body}\n</main>",
            "<footer>Made with inscape. This page is complete: it loads nothing from anywhere.</footer>",
            "</div>",
            f'<script type="application/json" id="inscape-themes">{inline_json(themes)}</script>' if charts else "",
            *(f"<script>{script}</script>" for script in scripts),
            "</body>",
            "</html>",
            "",
        ]
    )


@cache
def vega_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from the installed vl-convert; kept, as it takes seconds."""
    return report_package("vl_convert", "a page with charts").javascript_bundle(vl_version=VL_VERSION)


def _shipped(name: str) -> str:
    return files("inscape.view").joinpath("web", name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str]) -> str:
    digests = [base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    # Styles are inline by nature here: SVG text and tooltips are placed by style attributes.
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _absent(section: Section) -> str:
    return "" if section.skipped is None else ' class="absent"'


def _section(index: int, section: Section, numbers: Any) -> str:
    head = f'<section id="s{index}"{_absent(section)}><h2>{escape(section.title)}</h2>'
    if section.skipped is not None:
        return f"{head}<p>Not shown: {escape(section.skipped)}</p></section>"
    says = f"<p>{escape(section.says)}</p>" if section.says else ""
    return head + says + "".join(_figure(next(numbers), figure) for figure in section.figures) + "</section>"


def _figure(index: int, figure: Figure) -> str:
    save = ""
    if figure.kind == "vega":
        kinds = (f'<button type="button" data-save="{kind}">{kind.upper()}</button>' for kind in ("png", "svg"))
        save = f'<div class="save">{"".join(kinds)}</div>'
    under = []
    if figure.control:
        under.append(f'<p class="control"><b>Control:</b> {escape(figure.control)}</p>')
    if figure.call:
        under.append(
            '<div class="call"><pre tabindex="0" aria-label="The call that makes this figure">'
            f"<code>{escape(figure.call)}</code></pre>"
            '<button type="button" data-copy>copy</button></div>'
        )
    below = f'<div class="under">{"".join(under)}</div>' if under else ""
    caption = f"<figcaption>{escape(figure.caption)}</figcaption>"
    return f'<figure id="f{index}">{save}{caption}{_drawing(figure)}{below}</figure>'


def _drawing(figure: Figure) -> str:
    if figure.kind == "table":
        return table_html(figure.data)
    if figure.kind == "vega":
        _refuse_addresses(figure.data)
        spec = {key: value for key, value in figure.data.items() if key not in ("config", "$schema")}
        label = escape(figure.caption)
        return (
            f'<div data-vega="waiting" class="scrolls"><script type="application/json">{inline_json(spec)}</script>'
            f'<div class="chart" role="figure" aria-label="{label}"></div></div>'
        )
    data = {**figure.data, "label": figure.data.get("label") or figure.caption}
    tag = {"lens": "inscape-lens", "tokens": "inscape-tokens", "circuit": "inscape-circuit"}[figure.kind]
    return f'<{tag}><script type="application/json">{inline_json(data)}</script></{tag}>'


def _refuse_addresses(spec: Any) -> None:
    """Data rows may hold anything; anywhere else a `url` or `href` would make the page load or lead away."""
    if isinstance(spec, dict):
        for key, value in spec.items():
            if key in ("url", "href"):
                raise InputError(
                    f"the chart asks for {key} {str(value)[:80]!r}, and a report page loads nothing.\n"
                    f"  put the data into the spec: Altair does it with alt.Data(values=...)."
                )
            if key not in ("values", "datasets"):
                _refuse_addresses(value)
    elif isinstance(spec, list):
        for value in spec:
            _refuse_addresses(value)
