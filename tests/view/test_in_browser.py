"""The page in a real browser with the network off: it draws, it answers to pointer and keys, it asks for nothing."""

import pytest

from inscape.view.figure import Figure, Section
from inscape.view.page import page
from tests.common.browser import launched, opened
from tests.view.small import one_of_each, small_lens

pytestmark = pytest.mark.browser

DRAWN = "() => !document.querySelector('[data-vega=waiting]')"
COLOURS = """element => {
  const canvas = element.shadowRoot.querySelector("canvas");
  const pen = canvas.getContext("2d");
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height).data;
  const seen = new Set();
  for (let i = 0; i < pixels.length; i += 4) seen.add(pixels.slice(i, i + 4).join());
  return seen.size;
}"""


@pytest.fixture(scope="module")
def browser():
    with launched() as started:
        yield started


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page("A page", {"Model": "tiny"}, one_of_each()), encoding="utf-8")
    return path


def words_file(folder, n_tokens: int):
    path = folder / "lens.html"
    data = small_lens(n_tokens, 6, ("one", " two", " three"))
    path.write_text(page("Lens", {}, [Section("Lens", (Figure("lens", data, "Words."),))]), encoding="utf-8")
    return path


def test_a_page_draws_everything_and_asks_for_nothing(browser, file):
    with opened(browser, file) as seen:
        seen.tab.wait_for_function(DRAWN)
        seen.tab.wait_for_timeout(200)
        assert seen.tab.eval_on_selector_all("[data-vega]", "all => all.map(one => one.dataset.vega)") == ["drawn"] * 2
        assert seen.tab.locator(".chart svg path").count() > 4
        assert seen.tab.eval_on_selector("inscape-lens", COLOURS) > 20
        assert seen.tab.locator("inscape-tokens span[data-at]").count() == 6
        assert seen.complaints == []
        assert seen.requests == []


def test_hovering_a_cell_shows_its_guesses(browser, file):
    with opened(browser, file) as seen:
        canvas = seen.tab.locator("inscape-lens canvas")
        canvas.hover(position={"x": 100, "y": 12})
        tip = seen.tab.locator("inscape-lens [role=tooltip]")
        tip.wait_for(state="visible")
        assert "layer 3" in tip.text_content()
        assert "80 %" in tip.text_content()
        assert "final answer </script><script>alert(1)</script> is at rank 1" in tip.text_content()
        seen.tab.mouse.move(5, 5)
        tip.wait_for(state="hidden")


def test_arrow_keys_walk_the_grid_and_say_where_they_are(browser, file):
    with opened(browser, file) as seen:
        grid = seen.tab.locator("inscape-lens [role=application]")
        assert "4 layers by 6 tokens" in grid.get_attribute("aria-label")
        grid.focus()
        for key in ("ArrowLeft", "Home", "ArrowRight", "ArrowDown"):
            seen.tab.keyboard.press(key)
        assert seen.tab.locator("inscape-lens [aria-live]").text_content().startswith("layer 2, token <!--<script>")
        seen.tab.keyboard.press("Escape")
        assert seen.tab.locator("inscape-lens [role=tooltip]").is_hidden()


def test_hovering_a_token_or_a_chart_shows_its_values(browser, file):
    with opened(browser, file) as seen:
        seen.tab.locator("inscape-tokens span[data-at='3']").hover()
        assert "position 3" in seen.tab.locator("inscape-tokens [role=tooltip]").text_content()
        seen.tab.wait_for_function(DRAWN)
        chart = seen.tab.locator(".chart svg").first
        chart.scroll_into_view_if_needed()
        chart.hover(position={"x": 300, "y": 150})
        tip = seen.tab.locator("#vg-tooltip-element.visible")
        tip.wait_for()
        assert "untrained" in tip.text_content()
        assert seen.complaints == []


def test_colours_follow_the_dark_mode_of_the_reader(browser, file):
    with opened(browser, file, dark=True) as seen:
        seen.tab.wait_for_function(DRAWN)
        assert seen.tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 28)"
        corner = "e => [...e.shadowRoot.querySelector('canvas').getContext('2d').getImageData(1, 1, 1, 1).data]"
        assert seen.tab.eval_on_selector("inscape-lens", corner) == [20, 24, 28, 255]
        seen.tab.emulate_media(color_scheme="light")
        seen.tab.wait_for_timeout(1000)
        assert seen.tab.eval_on_selector("inscape-lens", corner) == [255, 255, 255, 255]
        assert "#59636d" in seen.tab.locator(".chart svg").first.evaluate("svg => svg.outerHTML")
        errors = [line for line in seen.complaints if "getImageData" not in line]  # our own reading of pixels
        assert errors == []


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_never_scrolls_sideways(browser, file, width):
    with opened(browser, file, width=width) as seen:
        seen.tab.wait_for_function(DRAWN)
        assert seen.tab.evaluate("document.documentElement.scrollWidth") <= width


def test_hundreds_of_tokens_begin_as_an_overview_on_a_canvas_no_larger_than_the_window(browser, tmp_path):
    with opened(browser, words_file(tmp_path, 900)) as seen:
        grid = seen.tab.locator("inscape-lens")
        assert grid.get_by_role("button", name="Overview").get_attribute("aria-pressed") == "true"
        grid.locator("canvas").hover(position={"x": 200, "y": 10})
        assert "positions" in grid.locator("[role=tooltip]").text_content()
        grid.get_by_role("button", name="Words").click()
        seen.tab.wait_for_timeout(200)
        assert grid.locator("canvas").evaluate("canvas => canvas.width") <= 1200
        assert grid.locator(".scroll").evaluate("pane => pane.scrollWidth") > 20_000
        grid.locator(".scroll").focus()
        seen.tab.keyboard.press("ArrowLeft")  # enters at the last token, which scrolls into view
        seen.tab.wait_for_timeout(200)
        assert grid.locator(".scroll").evaluate("pane => pane.scrollLeft") > 20_000
        assert seen.complaints == []


def test_the_colour_can_be_entropy_or_rank(browser, file):
    with opened(browser, file) as seen:
        grid = seen.tab.locator("inscape-lens")
        picture = "e => e.shadowRoot.querySelector('canvas').toDataURL()"
        looks = set()
        for name in ("Probability", "Entropy", "Rank of the answer"):
            grid.get_by_role("button", name=name).click()
            seen.tab.wait_for_timeout(150)
            looks.add(grid.evaluate(picture))
        assert len(looks) == 3


SAID = "() => ['copied', 'selected'].includes(document.querySelector('button[data-copy]').textContent)"


def test_a_call_can_be_copied_or_is_selected(browser, file):
    with opened(browser, file) as seen:
        button = seen.tab.locator("button[data-copy]")
        button.click()
        seen.tab.wait_for_function(SAID)  # the clipboard answers when it likes


def test_a_figure_can_be_saved_from_the_page(browser, file):
    with opened(browser, file) as seen:
        seen.tab.wait_for_function(DRAWN)
        for kind in ("png", "svg"):
            with seen.tab.expect_download() as download:
                seen.tab.locator(f"button[data-save={kind}]").first.click()
            assert download.value.suggested_filename == f"f4.{kind}"
        assert seen.complaints == []
