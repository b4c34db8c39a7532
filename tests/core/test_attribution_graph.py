"""Graph files of circuit-tracer and Neuronpedia: nothing is lost on the way, and what is no such file says why."""

import copy
import json

import pytest

import inscape as ins
from inscape.core.attribution_graph import AttributionGraph
from inscape.core.circuit import Circuit, Node, circuit_of

FILE = {  # as circuit-tracer writes it, with fields that only its page reads and one of nobody's
    "metadata": {
        "slug": "tiny", "scan": "gemma-2-2b", "transcoder_list": [], "prompt_tokens": ["<bos>", "1", " 2", "\u6fb3"],
        "prompt": "<bos>1 2\u6fb3", "node_threshold": 0.5, "schema_version": 1,
    },
    "qParams": {"pinnedIds": [], "supernodes": [["first", "0_35_3"]], "linkType": "both", "clickedId": "",
                "sg_pos": ""},
    "nodes": [
        {"node_id": "E_2_0", "feature": 0, "layer": "E", "ctx_idx": 0, "feature_type": "embedding", "token_prob": 0.0,
         "jsNodeId": "E_2-0", "clerp": "", "influence": 0.2335219383239746, "activation": None},
        {"node_id": "0_35_3", "feature": 665, "layer": "0", "ctx_idx": 3, "feature_type": "cross layer transcoder",
         "jsNodeId": "0_35-0", "clerp": "digits", "influence": 0.3, "activation": 22.125},
        {"node_id": "0_36_3", "feature": 666, "layer": 0, "ctx_idx": 3, "feature_type": "cross layer transcoder",
         "jsNodeId": "0_36-0", "clerp": "", "activation": 1},
        {"node_id": "16_-1_3", "feature": -1, "layer": "16", "ctx_idx": 3, "feature_type": "mlp reconstruction error",
         "jsNodeId": "16_-1-3", "clerp": ""},
        {"node_id": "27_7_3", "feature": 7, "layer": "27", "ctx_idx": 3, "feature_type": "logit", "jsNodeId": "L_7-3",
         "clerp": "Output \"4\"", "is_target_logit": True, "influence": None},
    ],
    "links": [
        {"source": "E_2_0", "target": "0_35_3", "weight": 24.5},
        {"source": "E_2_0", "target": "0_36_3", "weight": -1.5},
        {"source": "0_35_3", "target": "16_-1_3", "weight": 1e-07},
        {"source": "0_35_3", "target": "27_7_3", "weight": 2, "colour": "red"},
        {"source": "16_-1_3", "target": "27_7_3", "weight": 3.0},
    ],
    "notes": {"ours": [1, 2.0]},
}  # fmt: skip


def test_a_file_comes_back_as_it_was(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(FILE), encoding="utf-8")
    graph = AttributionGraph.load(tmp_path / "a.json")
    graph.save(tmp_path / "b.json")
    assert json.loads((tmp_path / "b.json").read_text(encoding="utf-8")) == FILE
    again = (tmp_path / "b.json").read_bytes()
    AttributionGraph.load(tmp_path / "b.json").save(tmp_path / "b.json")
    assert (tmp_path / "b.json").read_bytes() == again
    assert graph.tokens == ("<bos>", "1", " 2", "\u6fb3")
    assert graph.types["cross layer transcoder"] == 2
    assert "'tiny' of gemma-2-2b" in repr(graph)


def test_features_and_errors_are_parts_of_their_mlp():
    graph = AttributionGraph(FILE["metadata"], FILE["nodes"], FILE["links"], FILE["qParams"])
    circuit = graph.circuit()
    assert list(circuit.nodes) == [Node(-1), Node(0), Node(16)]
    assert circuit.edges == {
        ("embed", "0.mlp", "mlp"): 23.0, ("0.mlp", "16.mlp", "mlp"): 1e-07, ("0.mlp", "logits", ""): 2.0,
        ("16.mlp", "logits", ""): 3.0,
    }  # fmt: skip
    assert circuit.roles == {Node(0): "first"}


def test_unknown_nodes_are_kept_in_the_file_and_refused_or_dropped_in_a_circuit(tmp_path):
    file = copy.deepcopy(FILE)
    file["nodes"][1] |= {"feature_type": "lorsa"}
    (tmp_path / "a.json").write_text(json.dumps(file))
    graph = AttributionGraph.load(tmp_path / "a.json")
    graph.save(tmp_path / "b.json")
    assert json.loads((tmp_path / "b.json").read_text()) == file
    with pytest.raises(ins.InputError, match="no node of a circuit stands for 1 lorsa"):
        graph.circuit()
    assert graph.circuit(others="drop").edges[("embed", "0.mlp", "mlp")] == -1.5
    with pytest.raises(ins.InputError, match="it can be 'refuse' or 'drop'"):
        graph.circuit(others="keep")


def test_a_circuit_becomes_a_graph_and_comes_back(tmp_path):
    edges = {("embed", "0.0", "v"): 0.36, ("0.0", "1.1", "k"): -0.37, ("0.mlp", "1.1", "q"): 0.1,
             ("0.0", "0.mlp", "mlp"): 0.2, ("1.1", "logits", ""): 0.36}  # fmt: skip
    nodes = {Node(-1): 0.36, Node(0, 0): 0.37, Node(0): 0.1, Node(1, 1): 0.36}
    circuit = Circuit(nodes, edges, {Node(1, 1): "says", Node(0, 0): "writes"}, "m", "made")
    graph = AttributionGraph.of(circuit, ["a", " b", " a"], slug="hand", scan="by-hand", says=" b", n_layers=2)
    graph.save(tmp_path / "c.json")
    read = AttributionGraph.load(tmp_path / "c.json")
    assert read.as_dict() == graph.as_dict()
    back = read.circuit()
    assert (back.nodes, back.edges, back.roles) == (circuit.nodes, edges, circuit.roles)
    assert [n["clerp"] for n in read.nodes] == [
        "embedding",
        "head 0.0 (writes)",
        "MLP 0.mlp",
        "head 1.1 (says)",
        'Output " b"',
    ]
    assert {n["ctx_idx"] for n in read.nodes} == {2}
    assert not read.ambiguous
    with pytest.raises(ins.InputError, match="needs the tokens of its prompt"):
        AttributionGraph.of(circuit_of([(0, 1)]), [], slug="a", scan="b")


def test_ids_that_mean_two_nodes_are_told(tmp_path):
    file = copy.deepcopy(FILE)
    file["nodes"][3] |= {"node_id": "0_35_3"}  # an error node of layer 35, as older files call it
    file["links"] = file["links"][:2]
    (tmp_path / "a.json").write_text(json.dumps(file))
    graph = AttributionGraph.load(tmp_path / "a.json")
    assert graph.ambiguous == ("0_35_3",)
    with pytest.raises(ins.InputError, match="1 ids of this graph mean two nodes each"):
        graph.circuit()


BROKEN = [
    (lambda f: f.pop("links"), "it has no links"),
    (lambda f: f["metadata"].pop("scan"), "metadata has no 'scan'"),
    (lambda f: f["metadata"].update(scan=["a", "b"]), r"metadata.scan is \['a', 'b'\]; it is text"),
    (lambda f: f["metadata"]["prompt_tokens"].append(3), "prompt_tokens holds 3"),
    (lambda f: f["nodes"][1].update(ctx_idx="3"), r"nodes\[1\].ctx_idx is '3'; it is a whole number"),
    (lambda f: f["nodes"][1].update(ctx_idx=True), r"nodes\[1\].ctx_idx is True; it is a whole number"),
    (lambda f: f["nodes"].append([]), r"nodes\[5\] is \[\]; it is an object"),
    (lambda f: f["links"][0].update(weight=None), r"links\[0\].weight is None; it is a whole number or a number"),
    (lambda f: f["links"][0].update(target="nobody"), r"links\[0\] has an end 'nobody' that is no node_id"),
    (lambda f: f["qParams"].update(pinnedIds="all"), "qParams.pinnedIds is 'all'; it is a list"),
    (lambda f: f.update(nodes={}), "nodes and links are lists"),
]


@pytest.mark.parametrize(("harm", "said"), BROKEN, ids=[said for _, said in BROKEN])
def test_what_is_no_graph_says_why(tmp_path, harm, said):
    file = copy.deepcopy(FILE)
    harm(file)
    (tmp_path / "a.json").write_text(json.dumps(file))
    with pytest.raises(ins.FileError, match=said):
        AttributionGraph.load(tmp_path / "a.json")


def test_what_is_no_json_says_why(tmp_path):
    with pytest.raises(ins.FileError, match="there is no file"):
        AttributionGraph.load(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"metadata": NaN}')
    with pytest.raises(ins.FileError, match="NaN is no number of JSON"):
        AttributionGraph.load(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[1, 2]")
    with pytest.raises(ins.FileError, match="it has no metadata and no qParams"):
        AttributionGraph.load(tmp_path / "a.json")


def test_nodes_are_in_the_order_of_the_model():
    assert sorted([Node(1), Node(1, 0), Node(-1), Node(0)]) == [Node(-1), Node(0), Node(1, 0), Node(1)]
