import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import inscape.view.page as page_file
from inscape.core.errors import InputError
from inscape.view.figure import Figure, Section
from inscape.view.page import page
from inscape.view.text import escape, inline_json, inline_script, visible
from inscape.view.theme import DARK, LIGHT, Theme
from tests.view.small import HOSTILE, one_of_each

WEB = Path(page_file.__file__).parent / "web"


class Outline(HTMLParser):
    """The elements a page really has, so that an escape that failed is seen as an element and not as text."""

    def __init__(self):
        super().__init__()
        self.tags, self.addresses, self.scripts = [], [], []
        self._script = None

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._script = [] if tag == "script" else None
        self.addresses += [
            value for name, value in attrs if name in ("src", "href", "action", "poster", "data", "srcset")
        ]

    def handle_data(self, data):
        if self._script is not None:
            self._script.append(data)

    def handle_endtag(self, tag):
        if tag == "script" and self._script is not None:
            self.scripts.append("".join(self._script))
            self._script = None


@pytest.fixture(scope="module")
def made():
    return page("Inside " + HOSTILE[0], {"Model": HOSTILE[1], HOSTILE[2]: HOSTILE[3]}, one_of_each(), lead=HOSTILE[4])


@pytest.fixture(scope="module")
def outline(made):
    parser = Outline()
    parser.feed(made)
    return parser


def test_no_text_becomes_markup(outline):
    # two lens and strip data, two chart specs, the themes, and two programs: nothing that a token brought along
    assert len(outline.scripts) == 2 + 2 + 1 + 2
    assert not any(script.strip() == "alert(1)" for script in outline.scripts)
    assert "b" in outline.tags  # the word "Control:"
    assert outline.tags.count("b") == 2


def test_the_page_can_be_written_as_utf8_and_has_no_raw_control_characters(made):
    made.encode("utf-8")
    body = made[made.index("<body>") : made.index("<script>")]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", body)


def test_vega_comes_in_once(made):
    assert made.count("window.vegaEmbed=") == 1


def test_a_page_without_charts_has_no_vega_and_is_small():
    made = page("Nothing", {}, [Section("Experts", skipped="none here")])
    assert "vegaEmbed=" not in made
    assert len(made) < 80_000


def test_a_page_with_charts_and_little_data_is_below_three_megabytes(made):
    assert len(made.encode("utf-8")) < 3_000_000


def test_nothing_refers_to_another_address(made, outline):
    assert all(address.startswith("#") for address in outline.addresses)
    assert not re.search(r"@import|url\(|<link|<iframe|<img", made.split("<script>")[0])
    assert "$schema" not in made.split("<script>")[0]


def test_the_policy_allows_only_the_scripts_that_are_there(made, outline):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', made)[1]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert re.findall("script-src[^;]*unsafe-inline", policy) == []
    assert policy.count("'sha256-") == 2


def test_the_same_input_gives_the_same_page(made):
    again = page("Inside " + HOSTILE[0], {"Model": HOSTILE[1], HOSTILE[2]: HOSTILE[3]}, one_of_each(), lead=HOSTILE[4])
    assert again == made


def test_a_section_that_does_not_apply_says_why(made):
    assert "Not shown: this model has none &lt;of them&gt;." in made


def test_a_chart_that_would_load_data_is_refused():
    spec = {"mark": "bar", "layer": [{"data": {"url": "https://example.org/x.csv"}}]}
    with pytest.raises(InputError, match=r"a report page loads nothing"):
        page("x", {}, [Section("s", (Figure("vega", spec, "c"),))])


def test_a_row_of_data_may_be_called_url():
    spec = {"mark": "bar", "data": {"values": [{"url": "x"}]}}
    assert "url" in page("x", {}, [Section("s", (Figure("vega", spec, "c"),))])


@given(st.text(st.characters(exclude_categories=()), max_size=40))
def test_any_text_survives_json_inside_a_script(text):
    inside = inline_json({"token": text})
    assert inside.isascii()
    assert "<" not in inside
    assert json.loads(inside)["token"] == text


@given(st.text(st.characters(exclude_categories=()), max_size=40))
def test_any_text_is_escaped_to_something_that_can_be_encoded(text):
    escaped = escape(text)
    escaped.encode("utf-8")
    assert not set(escaped) & set("<>\"'\x00\u202e")


def test_what_is_not_finite_becomes_null():
    assert inline_json([float("nan"), float("inf"), 1.5]) == "[null,null,1.5]"


def test_emoji_keep_their_joiners_and_overrides_are_spelled_out():
    assert visible("\U0001f469\u200d\U0001f52c") == "\U0001f469\u200d\U0001f52c"
    assert visible("a\u202eb") == "a<U+202E>b"


def test_a_script_cannot_end_early():
    assert "</script" not in inline_script('x = "</script>"')
    assert "<!--" not in inline_script('x = "<!--"')


def test_the_bundle_was_built_from_the_sources_that_are_here():
    digest = hashlib.sha256()
    for source in sorted(WEB.glob("*.ts"), key=lambda path: path.name):
        digest.update(f"{source.name}\n".encode() + source.read_bytes())
    built = (WEB / "inscape.js").read_text()
    assert digest.hexdigest() in built.splitlines()[0], "run `npm run build` in web/"
    assert len(built) < 60_000


def test_the_elements_fall_back_to_the_same_colours_as_the_page():
    built = (WEB / "inscape.js").read_text()
    for name in ("paper", "panel", "rule", "faint", "quiet", "ink", "accent", "warm"):
        assert f"--ins-{name}, light-dark({getattr(LIGHT, name)}, {getattr(DARK, name)})" in built


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_every_theme_can_be_read(theme: Theme):
    for ink, least in (("ink", 12), ("quiet", 4.5), ("faint", 3), ("accent", 4.5), ("control", 3)):
        assert contrast(getattr(theme, ink), theme.paper) >= least, ink
    for colour in theme.category:
        assert contrast(colour, theme.paper) >= 3, colour


def contrast(a: str, b: str) -> float:
    """WCAG 2 contrast ratio of two hex colours."""
    light = []
    for colour in (a, b):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        light.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(light) + 0.05) / (min(light) + 0.05)
