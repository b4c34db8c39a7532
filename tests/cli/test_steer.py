"""`inscape steer`: its files, what it prints, the prompts it takes afterwards, and what it refuses."""

import io
import json
from pathlib import Path

import pytest
import torch

import inscape as ins
from inscape.cli.main import main
from inscape.cli.steer import texts_of
from inscape.core.errors import InputError
from inscape.core.judges import judge_of
from inscape.reports.steering import Steering, steering_report
from inscape.steer.dose import Dose

GOOD = [f"w{a} w{b} w30" for a in range(2, 6) for b in (7, 8, 9)]
BAD = [f"w{a} w{b} w40" for a in range(2, 6) for b in (7, 8, 9)]
PROMPTS = [f"w{a} w{a + 1}" for a in range(10, 18)]
EASY = {"doses": (0.5,), "max_new_tokens": 4, "site": "layers.1.resid_post", "position": "last"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("texts")
    for name, texts in (("good", GOOD), ("bad", BAD), ("prompts", PROMPTS)):
        (root / f"{name}.txt").write_text("\n".join(texts))
    return [str(root / f"{name}.txt") for name in ("good", "bad", "prompts")]


@pytest.fixture(scope="module")
def found(folder: str) -> Steering:
    return steering_report(folder, GOOD, BAD, PROMPTS, judge=judge_of(len, "length"), **EASY)


def command(folder: str, files: list[str], to: Path, *more: str) -> list[str]:
    said = ["steer", folder, files[0], files[1], "--prompts", files[2], "--contains", "w3", "--dose", "0.5"]
    return [*said, "--site", "layers.1.resid_post", "--max-new-tokens", "4", "--to", str(to), *more]


def test_one_command_writes_the_direction_the_dose_the_edits_and_the_page(folder, files, tmp_path, capsys) -> None:
    assert main(command(folder, files, tmp_path / "new" / "folder", "--kl-budget", "50")) == 0
    out = capsys.readouterr().out
    assert "measured on other prompts" in out
    assert "random control" in out
    made = tmp_path / "new" / "folder"
    direction = ins.Direction.load(made / "direction.safetensors")
    assert direction.model == ins.open(folder).fingerprint
    assert torch.equal(ins.Directions.load_gguf(made / "direction.gguf")[direction.site].vector, direction.vector)
    dose = Dose.load(made / "dose.safetensors")
    assert dose.curves == ("direction", "random", "shuffled", "flipped", "wrong_layer")
    html = (made / "report.html").read_text()
    assert html.count("<figure") >= 3
    assert "Content-Security-Policy" in html
    numbers = json.loads((made / "numbers.json").read_text())
    assert numbers["site"] == direction.site
    if (made / "edits.safetensors").exists():
        (edit,) = ins.load_edits(made / "edits.safetensors")
        assert edit.site == direction.site


def test_json_is_all_that_is_printed_when_it_is_asked_for(folder, files, tmp_path, capsys) -> None:
    assert main(command(folder, files, tmp_path, "--json")) == 0
    said = capsys.readouterr()
    assert set(json.loads(said.out)) >= {"site", "dose", "measured", "warnings", "files"}


def test_prompts_are_tried_afterwards_with_a_dose_that_can_be_changed(
    folder, files, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("w5 w6\n:dose much\n:dose 0.7\nw5 w6\n\n:quit\nw9\n"))
    assert main(command(folder, files, tmp_path, "--try")) == 0
    out = capsys.readouterr().out
    assert out.count("unsteered: w5 w6") == 2
    assert "'much' is no number: write :dose 0.2" in out
    assert "dose 0.7: w5 w6" in out
    assert "w9" not in out.split(":quit or Ctrl-D ends")[1]


def test_the_direction_is_that_of_the_texts_that_were_not_kept_aside(found, folder) -> None:
    assert found.quality.n == (4, 4)
    assert "8 texts from 8" in found.direction.source
    assert found.dose.prompts == tuple(PROMPTS)
    assert found.best.on == "other prompts"
    assert found.numbers()["measured"]["effect"]["n"] == 4


def test_the_page_says_what_speaks_against_it(found) -> None:
    assert found.warnings
    assert "What speaks against it" in found.html


def test_without_a_site_the_best_of_all_layers_is_taken_and_the_profile_is_on_the_page(folder) -> None:
    how = {k: v for k, v in EASY.items() if k != "site"}
    found = steering_report(folder, GOOD, BAD, PROMPTS, judge=judge_of(len, "length"), **how)
    assert len(found.quality.sites) == 3
    assert found.direction.site == found.quality.best
    assert "Where the sides differ" in found.html


def test_a_dose_beyond_the_budget_is_not_taken(folder) -> None:
    strict = steering_report(folder, GOOD, BAD, PROMPTS, judge=judge_of(len, "length"), kl_budget=1e-9, **EASY)
    assert strict.best.dose == 0
    assert strict.edits == []
    assert "no dose within a KL of 1e-09 changes the score as it should." in strict.warnings


def test_few_texts_and_two_judges_and_empty_files_are_refused(folder, files, tmp_path, capsys) -> None:
    with pytest.raises(ins.InputError, match="3 positive and 12 negative texts: 8 a side at least"):
        steering_report(folder, GOOD[:3], BAD, PROMPTS)
    assert main(command(folder, files, tmp_path, "--regex", "w4")) == 1
    assert "--contains and --regex are two judges" in capsys.readouterr().err
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n\n")
    with pytest.raises(InputError, match="holds no text"):
        texts_of(str(empty))


def test_texts_are_lines_or_separated_by_blank_lines(tmp_path) -> None:
    (tmp_path / "lines").write_text("one\ntwo \n")
    (tmp_path / "blank").write_text("one\nmore\n\ntwo\n")
    assert texts_of(str(tmp_path / "lines")) == ["one", "two"]
    assert texts_of(str(tmp_path / "blank")) == ["one\nmore", "two"]
