"""`inscape papers`: what it prints, writes and refuses."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from inscape.cli.main import main
from inscape.core.errors import MissingExtraError
from inscape.recipes import catalogue

MADE_UP = Path(__file__).parents[1] / "recipes" / "made_up"


@pytest.fixture(autouse=True)
def recipes(tmp_path, monkeypatch) -> Path:
    """The catalogue holds a copy of the made-up paper only, and runs write into an empty folder."""
    folder = Path(shutil.copytree(MADE_UP, tmp_path / "recipes"))
    monkeypatch.setattr(catalogue, "HERE", folder)
    monkeypatch.chdir(tmp_path)
    return folder


def said(capsys, *argv: str, code: int = 0) -> str:
    assert main(["papers", *argv]) == code
    out = capsys.readouterr()
    return out.err if code else out.out


def test_the_list_has_every_paper_and_whether_it_was_run(capsys):
    assert re.search(r"table-lookup +lookups +2020 +not run +Looking Things Up in Tables", said(capsys, "list"))
    said(capsys, "run", "table-lookup")
    assert "1 of 4 hold" in said(capsys, "list")


def test_an_empty_catalogue_says_so(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(catalogue, "HERE", tmp_path / "nothing")
    assert said(capsys, "list") == "no paper is here yet.\n"


def test_show_before_a_run_has_the_claims_and_how_to_measure_them(capsys):
    out = said(capsys, "show", "table-lookup")
    assert "https://example.org/table-lookup" in out
    assert "Claims that a table of squares can be looked up" in out
    assert re.search(r"made of +ins.Site, core.nulls.share", out)
    assert re.search(r"control +the same table with its keys shuffled", out)
    assert re.search(r"not measured +≥ 0.9 +nearly every square is found \(control: shuffled keys\)", out)
    assert "inscape papers run table-lookup makes one" in out


def test_show_after_a_run_has_numbers_controls_verdicts_and_versions(capsys):
    said(capsys, "run", "table-lookup")
    out = said(capsys, "show", "table-lookup")
    assert re.search(r"holds +1 \[0.981, 1\] +0 +≥ 0.9 +nearly every square", out)
    assert re.search(r"not supported +1 +1 +> 0.5", out)
    assert re.search(r"failed +1.9e-05 +< 0 ", out)
    assert re.search(r"not measured +≤ 0", out)
    assert "1 of 4 claims hold, 1 failed, 1 not supported, 1 not measured" in out
    assert "it holds, but so does its control" in out
    assert re.search(r"run +\d{4}-\d\d-\d\d, seed 0, .* s on ", out)
    assert re.search(r"with +inscape .*torch .*Python", out)
    assert "also      keys 200" in out
    assert "note      nothing was looked up in earnest" in out
    assert "table-lookup.png" in out


def test_show_of_changed_claims_warns(capsys, recipes):
    said(capsys, "run", "table-lookup")
    path = recipes / "lookups" / "table_lookup_2020.py"
    path.write_text(path.read_text().replace("at_least=0.9", "at_least=0.8"))
    assert "the claims have changed since this run" in said(capsys, "show", "table-lookup")
    shown = json.loads(said(capsys, "show", "table-lookup", "--json"))
    assert not shown["is_current"]
    assert {claim["verdict"] for claim in shown["claims"]} == {"not measured"}


def test_a_quick_run_says_that_its_numbers_mean_nothing_and_leaves_the_record_alone(capsys, recipes, tmp_path):
    out = said(capsys, "run", "table-lookup", "--quick")
    assert "(quick settings)" in out
    assert "the numbers say nothing about the paper" in out
    assert (tmp_path / "inscape-results" / "table-lookup.quick.json").exists()
    assert not list((recipes / "results").glob("*.json"))


def test_settings_reach_the_recipe_and_results_can_be_shown_from_their_folder(capsys, tmp_path):
    out = said(capsys, "run", "table-lookup", "--to", "mine", "--seed", "4", "--set", "keys=7", "--json")
    made = json.loads(out)
    assert made["run"]["settings"] == {"keys": 7, "seed": 4}
    assert made["written"] == str(tmp_path / "mine" / "table-lookup.seed-4.keys-7.json")
    said(capsys, "run", "table-lookup", "--to", "mine")
    assert "1 of 4 claims hold" in said(capsys, "show", "table-lookup", "--from", "mine")
    assert "no full run is recorded in elsewhere" in said(capsys, "show", "table-lookup", "--from", "elsewhere")


def test_json_has_what_the_tables_have(capsys):
    said(capsys, "run", "table-lookup")
    (listed,) = json.loads(said(capsys, "list", "--json"))
    shown = json.loads(said(capsys, "show", "table-lookup", "--json"))
    assert listed == shown
    right = shown["claims"][0]
    assert (right["measured"], right["control"], right["verdict"]) == (1.0, 0.0, "holds")
    assert right["bounds"] == {"at_least": 0.9}
    assert shown["run"]["packages"]["torch"]


def test_search_by_words_finds_and_says_when_there_is_nothing(capsys, monkeypatch):
    assert "table-lookup" in said(capsys, "search", "square")

    def missing(query):
        raise MissingExtraError("needs the extra: pip install 'inscape[demo]'.")

    monkeypatch.setattr(catalogue, "by_meaning", missing)
    assert "no paper is about 'quantum foam'" in said(capsys, "search", "quantum", "foam")
    assert "inscape[demo]" in said(capsys, "search", "quantum", "--meaning", code=1)


def test_search_falls_back_to_meaning(capsys, monkeypatch):
    monkeypatch.setattr(catalogue, "by_meaning", lambda query: [(catalogue.entry("table-lookup"), 0.5)])
    assert "table-lookup" in said(capsys, "search", "quantum")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["show", "table-lokup"], "the nearest names are table-lookup"),
        (["run", "table-lokup"], "the nearest names are table-lookup"),
        (["run", "table-lookup", "--model", "gpt2"], "takes no 'model'"),
        (["run", "table-lookup", "--set", "kyes=3"], "takes no 'kyes'"),
        (["run", "table-lookup", "--set", "keys"], "write name=value"),
        (["search"], "nothing to search for"),
    ],
)
def test_errors_say_what_to_do(argv, says, capsys):
    assert says in said(capsys, *argv, code=1)


def test_a_damaged_result_is_an_error_and_no_verdict(capsys, recipes):
    said(capsys, "run", "table-lookup")
    path = recipes / "results" / "table-lookup.json"
    path.write_text(path.read_text().replace('"right": 1.0', '"right": 0.99'))
    assert "changed after it was written" in said(capsys, "show", "table-lookup", code=1)


@pytest.mark.parametrize("command", [["list"], ["search"], ["show", "x"], ["run", "x"]])
def test_every_command_explains_itself(command, capsys):
    out = said(capsys, command[0], "--help")
    assert "--json" in out
    assert "--debug" in out


def test_listing_and_searching_import_no_torch():
    code = (
        "import sys\nfrom inscape.cli.main import main\n"
        "assert main(['papers', 'list']) == 0\n"
        "from inscape.recipes import catalogue\nassert isinstance(catalogue.by_words('patching'), list)\n"
        "assert not {'torch', 'transformers', 'numpy', 'altair'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
