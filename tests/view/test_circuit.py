"""The circuit view: everything stands where it belongs, the still picture shows the same, a page answers to clicks."""

import struct
import xml.etree.ElementTree as ET

import pytest

import inscape as ins
from inscape.core.attribution_graph import AttributionGraph
from inscape.core.circuit import Circuit, Node, circuit_of
from inscape.view.circuit import MAX_EDGES, circuit
from inscape.view.drawn import draw
from tests.common.browser import launched, opened
from tests.core.test_attribution_graph import FILE
from tests.view.small import HOSTILE

EDGES = {
    ("embed", "0.0", "v"): 0.4, ("embed", "0.3", "q"): -0.1, ("0.0", "0.mlp", "mlp"): 0.2, ("0.0", "2.1", "k"): 0.3,
    ("0.mlp", "2.1", "v"): 0.1, ("2.1", "logits", ""): 0.4, ("0.3", "logits", ""): 0.05,
}  # fmt: skip
NODES = {Node(-1): 0.4, Node(0, 0): 0.3, Node(0, 3): 0.05, Node(0): 0.1, Node(2, 1): 0.4}
MADE = Circuit(NODES, EDGES, {Node(2, 1): "says", Node(0, 0): "<b>writes"}, "m", "made by hand")
GRAPH = AttributionGraph(FILE["metadata"], FILE["nodes"], FILE["links"], FILE["qParams"])


def test_layers_go_up_and_heads_across():
    data = circuit(MADE)
    at = {n["id"]: (n["x"], n["y"]) for n in data["nodes"]}
    assert at == {
        "embed": (1.0, 0), "0.0": (0.0, 1), "0.3": (2.0, 1), "0.mlp": (3.0, 2), "2.1": (1.0, 3), "logits": (1.0, 4),
    }  # fmt: skip
    assert data["rows"] == ["", "layer 0", "", "layer 2", ""]
    assert data["columns"] == ["head 0", "head 1", "head 3", "MLP"]
    assert data["roles"] == ["<b>writes", "says"]
    assert [e["weight"] for e in data["edges"]] == sorted(EDGES.values(), key=abs, reverse=True)
    assert data["most"] == 0.4


def test_a_layer_without_heads_is_named_at_its_mlp():
    made = Circuit({Node(-1): 1.0, Node(3): 1.0}, {("embed", "3.mlp", "mlp"): 1.0, ("3.mlp", "logits", ""): 1.0})
    assert circuit(made)["rows"] == ["", "layer 3", ""]


def test_a_graph_has_its_nodes_at_the_positions_of_its_prompt():
    data = circuit(GRAPH)
    at = {n["id"]: (n["x"], n["y"]) for n in data["nodes"]}
    assert at["E_2_0"] == (0, 0)
    assert at["0_35_3"][1] == at["0_36_3"][1] == 1
    assert at["0_35_3"][0] < 3 < at["0_36_3"][0]  # two at one place stand side by side
    assert at["27_7_3"] == (3, 3)
    assert data["columns"] == FILE["metadata"]["prompt_tokens"]
    assert {n["kind"] for n in data["nodes"]} == {"embed", "feature", "error", "logits"}
    assert next(n for n in data["nodes"] if n["id"] == "0_35_3")["role"] == "first"


def test_the_strongest_edges_are_kept_of_too_many():
    nodes = {Node(layer, h): 1.0 for layer in range(2) for h in range(80)}
    edges = {(f"0.{a}", f"1.{b}", "k"): float(a + b + 1) for a in range(80) for b in range(80)}
    data = circuit(Circuit(nodes, edges))
    assert (len(data["edges"]), data["left_out"]) == (MAX_EDGES, 6400 - MAX_EDGES)
    assert data["edges"][0]["weight"] == 159.0


def test_the_still_picture_shows_every_node_and_edge():
    root = ET.fromstring(draw(MADE).svg())  # well formed, also with a role that looks like markup
    words = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"0.0", "0.3", "0.mlp", "2.1", "logits", "embed", "layer 2", "says", "<b>writes"} <= set(words)
    paths = [p for p in root.iter("{http://www.w3.org/2000/svg}path") if p.get("fill") == "none"]
    assert len(paths) == len(EDGES)
    assert len({p.get("stroke") for p in paths}) == 2  # one of them is negative
    x = {t.text: float(t.get("x")) for t in root.iter("{http://www.w3.org/2000/svg}text")}
    assert x["0.0"] < x["2.1"] < x["0.3"] < x["0.mlp"] < float(root.get("width"))


def test_it_is_saved_as_a_page_or_a_picture(tmp_path):
    drawn = MADE.draw(title="Found", about={"2.1": "finds it"})
    for kind in ("html", "svg", "png"):
        assert drawn.save(tmp_path / f"c.{kind}").stat().st_size > 1000
    assert struct.unpack(">II", (tmp_path / "c.png").read_bytes()[16:24])[0] == 2 * 760
    assert "finds it" in (tmp_path / "c.html").read_text(encoding="utf-8")
    assert set(GRAPH.draw()._repr_mimebundle_()) == {"text/html", "image/svg+xml", "text/plain"}
    with pytest.raises(ins.InputError, match=r"a circuit is drawn as .html, .svg, .png"):
        drawn.save(tmp_path / "c.pdf")


def test_what_cannot_be_drawn_says_why():
    with pytest.raises(ins.ShapeError, match="has no nodes to draw"):
        Circuit({}).draw()
    with pytest.raises(ins.ShapeError, match="are more than a page can show"):
        circuit_of([(a, b) for a in range(60) for b in range(60)]).draw()


@pytest.mark.browser
def test_a_page_of_a_circuit_answers_to_pointer_keys_and_slider(tmp_path):
    hostile = Circuit(NODES, EDGES, {Node(2, 1): HOSTILE[0]}, "m", HOSTILE[1])
    file = hostile.draw(title="Circuit").save(tmp_path / "c.html")
    with launched() as browser, opened(browser, file) as seen:
        page = seen.tab
        shown = "els => els.filter(e => e.style.display !== 'none' && !e.classList.contains('dim')).length"
        edges, node = page.locator("inscape-circuit .edge"), page.locator('inscape-circuit [data-id="0.3"]')
        assert edges.evaluate_all(shown) == 7
        node.hover()
        assert edges.evaluate_all(shown) == 2  # what it hears and what it tells
        tip = page.locator("inscape-circuit [role=tooltip]")
        tip.wait_for(state="visible")
        assert "embed (q)" in tip.inner_text()
        page.mouse.move(2, 2)
        page.locator('inscape-circuit [data-id="0.mlp"]').click()
        page.mouse.move(2, 2)
        assert edges.evaluate_all(shown) == 4  # embed, 0.0, itself, 2.1 and the logits
        assert "4 edges" in page.locator("inscape-circuit .note").inner_text()
        page.keyboard.press("Escape")
        assert edges.evaluate_all(shown) == 7
        page.locator("inscape-circuit input[type=range]").fill("5")
        assert edges.evaluate_all(shown) == 2
        page.locator("inscape-circuit input[type=range]").fill("0")
        page.locator("inscape-circuit .role").first.click()
        assert edges.evaluate_all(shown) == 3  # those of the head with that role
        node.focus()
        page.keyboard.press("Enter")
        assert page.locator("inscape-circuit .pinned").get_attribute("data-id") == "0.3"
        assert seen.complaints == []
        assert seen.requests == []
