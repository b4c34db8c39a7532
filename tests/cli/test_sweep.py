"""`inscape sweep` prints what moves the answer, and draws it."""

import json

from inscape.cli.main import main

ASK = ["w5 w9 w13 w17", "w5 w9 w40 w17", "--answer", "w3", "--wrong", "w7"]


def test_the_cells_that_move_the_answer_are_printed(folder, capsys, tmp_path):
    assert main(["sweep", folder, *ASK, "--top", "3", "--figure", str(tmp_path / "grid.png")]) == 0
    said = capsys.readouterr().out
    assert "in the other prompt" in said
    assert "layers.2.resid_post" in said
    assert "packed; 12 cells (6 without effect)" in said
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_heads_and_json(folder, capsys):
    assert main(["sweep", folder, *ASK, "--heads", "--noise", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["axes"] == ["site", "position", "head"]
    assert len(said["values"]) == 3
    assert len(said["values"][0][0]) == 4


def test_what_cannot_be_swept_is_one_line(folder, capsys, tmp_path):
    assert main(["sweep", folder, "w5 w9", "w5 w9 w13", "--answer", "w3", "--wrong", "w7"]) == 1
    assert "do not line up" in capsys.readouterr().err
    assert main(["sweep", folder, *ASK, "--figure", str(tmp_path / "grid.bmp")]) == 1
    assert "a figure is written as .png or .svg" in capsys.readouterr().err
    assert main(["sweep", folder, *ASK[:2], "--answer", "w3 w4", "--wrong", "w7"]) == 1
    assert "is 2 tokens here" in capsys.readouterr().err
