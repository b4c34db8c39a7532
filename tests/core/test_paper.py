"""Claims, verdicts, and the one file of a result."""

import json

import pytest
import torch

from inscape.core.drawing import Drawing
from inscape.core.errors import FileError, PaperError
from inscape.core.interval import Interval
from inscape.core.paper import Claim, Paper, Ran, Result, counted
from inscape.core.result_file import checksum, load_result, save_result

CLAIMS = (
    Claim("above_chance", "the score is above chance", at_least=0.8, control="shuffled labels"),
    Claim("exact", "two ways give one number", at_most=1e-4),
)


def paper(**changed) -> Paper:
    known = {
        "name": "made-up", "title": "A made-up paper", "authors": "Nobody", "year": 2020, "link": "https://example.org/1",
        "claims": CLAIMS, "control": "shuffled labels",
    }  # fmt: skip
    return Paper(**known | changed)


def ran(**changed) -> Ran:
    known = {
        "date": "2025-01-02T03:04:05+00:00", "packages": {"torch": "2.9"}, "python": "3.11", "machine": "x86-64",
        "threads": 2, "commit": "abc", "seconds": 1.5, "quick": False, "model": "toy", "settings": {"n": 3},
    }  # fmt: skip
    return Ran(**known | changed)


@pytest.mark.parametrize(
    ("measured", "controls", "word"),
    [
        ({"above_chance": 0.9}, {"above_chance": 0.5}, "holds"),
        ({"above_chance": 0.8}, {"above_chance": 0.5}, "holds"),
        ({"above_chance": 0.7}, {"above_chance": 0.5}, "failed"),
        ({"above_chance": 0.7}, {}, "failed"),
        ({"above_chance": 0.9}, {"above_chance": 0.85}, "not supported"),
        ({"above_chance": 0.9}, {}, "not measured"),
        ({"above_chance": 0.9}, {"above_chance": float("nan")}, "not measured"),
        ({"above_chance": float("nan")}, {"above_chance": 0.5}, "not measured"),
        ({"above_chance": float("inf")}, {"above_chance": 0.5}, "not measured"),
        ({}, {"above_chance": 0.5}, "not measured"),
    ],
)
def test_a_verdict_follows_from_number_bound_and_control(measured, controls, word):
    verdict = Result(paper(), measured, controls=controls).verdicts[0]
    assert verdict.word == word
    assert ("so does its control" in str(verdict)) == (word == "not supported")


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "said"),
    [
        ({"at_least": 1.0}, 1.0, 0.9, "≥ 1"),
        ({"above": 1.0}, 1.1, 1.0, "> 1"),
        ({"at_most": 1.0}, 1.0, 1.1, "≤ 1"),
        ({"below": 1.0}, 0.9, 1.0, "< 1"),
        ({"at_least": 0.0, "below": 2.0}, 0.0, 2.0, "≥ 0 and < 2"),
    ],
)
def test_bounds_admit_what_they_say(bounds, inside, outside, said):
    claim = Claim("c", "t", **bounds)
    assert claim.admits(inside)
    assert not claim.admits(outside)
    assert claim.bound == said


def test_a_claim_that_was_not_measured_does_not_count_as_held():
    result = Result(paper(), {"exact": 0.0})
    assert result.summary == "1 of 2 claims hold, 1 not measured"
    assert counted(result.verdicts) == {"holds": 1, "failed": 0, "not supported": 0, "not measured": 1}


def test_an_interval_keeps_its_ends_and_its_value_decides():
    result = Result(paper(), {"above_chance": Interval(0.9, 0.7, 0.95)}, controls={"above_chance": 0.1})
    assert result.measured["above_chance"] == 0.9
    assert result.verdicts[0].interval == (0.7, 0.95)
    assert result.verdicts[0].word == "holds"


def test_tensors_become_plain_numbers():
    result = Result(
        paper(), {"exact": torch.tensor(0.0)}, series={"a": torch.ones(3), "rows": torch.eye(2), "gap": [1, None]},
        tables={"heads": [{"layer": torch.tensor(3), "name": "x", "is": True}]},
    )  # fmt: skip
    assert result.measured == {"exact": 0.0}
    assert result.series["a"] == [1.0, 1.0, 1.0]
    assert result.series["rows"] == [[1.0, 0.0], [0.0, 1.0]]
    assert result.tables["heads"] == [{"layer": 3, "name": "x", "is": True}]


def full() -> Result:
    return Result(
        paper(code="https://example.org/code"),
        {"above_chance": Interval(0.9, 0.7, 0.95), "exact": float("nan")},
        controls={"above_chance": 0.5},
        series={"by layer": [1, 2.5, float("inf")], "map": [[1, 2], [3, float("nan")]], "control": [0.1, 0.2, 0.3]},
        tables={"heads": [{"head": "L1.H0", "score": 0.25, "real": True, "why": None}]},
        seed=7,
        notes="one\ntwo",
        also={"rank": 3},
        figure=Drawing("lines", show=("by layer",), control=("control",), x_title="layer", chance=0.5),
    ).ran_as(ran())


def test_a_result_is_read_back_as_it_was_written(tmp_path):
    result = full()
    save_result(tmp_path / "r.json", result)
    again = load_result(tmp_path / "r.json")
    assert again.paper == result.paper
    assert again.ran == result.ran
    assert again.verdicts == result.verdicts
    assert again.figure == result.figure
    assert (again.seed, again.notes, again.also, again.controls) == (
        7,
        "one\ntwo",
        {"rank": 3.0},
        {"above_chance": 0.5},
    )
    assert again.intervals == {"above_chance": (0.7, 0.95)}
    assert again.tables == result.tables
    assert str(again.series) == str({**result.series, "by layer": [1.0, 2.5, float("nan")]})
    save_result(tmp_path / "again.json", again)
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "r.json").read_bytes()


def written(tmp_path, **changed) -> str:
    path = tmp_path / "r.json"
    save_result(path, full())
    document = json.loads(path.read_text()) | changed
    document["checksum"] = checksum(document)
    path.write_text(json.dumps(document))
    return str(path)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"version": 2}, "newer inscape"),
        ({"bound": 0.5}, "bound: Extra inputs"),
        ({"measured": {"above_chance": "high"}}, "measured.above_chance"),
        ({"measured": {"nothing": 1.0}}, "claims nothing called 'nothing'"),
        ({"verdicts": {"above_chance": "holds", "exact": "holds"}}, "verdicts that its own numbers do not give"),
    ],
)
def test_a_file_that_is_no_result_is_refused(tmp_path, changed, says):
    with pytest.raises(FileError, match=says):
        load_result(written(tmp_path, **changed))


def test_a_number_changed_by_hand_is_seen(tmp_path):
    path = tmp_path / "r.json"
    save_result(path, full())
    path.write_text(path.read_text().replace('"above_chance": 0.9', '"above_chance": 0.99'))
    with pytest.raises(FileError, match="changed after it was written"):
        load_result(path)


def test_files_that_are_not_there_or_not_json_are_refused(tmp_path):
    with pytest.raises(FileError, match="there is no result in"):
        load_result(tmp_path / "none.json")
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(FileError, match="damaged or is no result"):
        load_result(tmp_path / "r.json")


def test_a_result_that_no_run_made_is_not_written(tmp_path):
    with pytest.raises(PaperError, match="does not say how it came about"):
        save_result(tmp_path / "r.json", Result(paper(), {}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Claim("c", "t"), "has no bound, so nothing could fail it"),
        (lambda: Claim("c", "t", at_least=float("inf")), "a bound that is not finite"),
        (lambda: Claim("c", "t", at_least=1, above=2), "two bounds on one side"),
        (lambda: Claim("A claim", "t", at_least=1), "a short name in lower case"),
        (lambda: paper(name="Made Up"), "a short name in lower case"),
        (lambda: paper(control=" "), "has no control"),
        (lambda: paper(claims=()), "has no claims"),
        (lambda: paper(claims=CLAIMS[:1] * 2), "two claims called 'above_chance'"),
        (
            lambda: Result(paper(), {"above_chanse": 1.0}),
            "claims nothing called 'above_chanse'.*\n.*above_chance, exact",
        ),
        (lambda: Result(paper(), {}, controls={"exact": 1.0}), "and names none"),
        (lambda: Result(paper(), {}, series={"a": torch.tensor(1.0)}), "is one number"),
        (lambda: Result(paper(), {}, series={"a": torch.ones(1, 1, 1)}), "more than two axes"),
    ],
)
def test_papers_that_do_not_fit_together_are_refused(make, says):
    with pytest.raises(PaperError, match=says):
        make()
