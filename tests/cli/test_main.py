"""The commands: what they print, what they say when something is wrong, and what they leave unimported."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import inscape as ins
from inscape.cli import console
from inscape.cli.main import build, main
from tests.common.small import direction

COMMANDS = ("sites", "run", "generate", "record", "sweep", "steer", "report", "plan")


def test_help_lists_every_command_and_succeeds(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(command in said for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_takes_json_and_debug(command, capsys):
    assert main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert "--json" in said
    assert "--debug" in said
    assert "MODEL" in said


def test_the_package_runs_as_a_module(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["inscape", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("inscape", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == ins.__version__


def test_version_is_the_package_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == ins.__version__


@pytest.mark.parametrize(
    "argv",
    [
        ["nope"],
        ["sites"],
        ["run", "m", "--unknown", "1"],
        ["generate", "m", "t", "--max-new-tokens", "x"],
        ["generate", "m", "t", "--max-new-tokens", "0"],
    ],
)
def test_wrong_usage_is_exit_code_2_with_a_hint(argv, capsys):
    assert main(argv) == 2
    assert "--help" in capsys.readouterr().err


def test_sites_prints_plain_lines_where_there_is_no_terminal(folder, capsys):
    assert main(["sites", folder, "layers.1.*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("layers.1.resid_post") and "batch pos d_model" in line for line in lines)
    assert not any(line.startswith("layers.0.") for line in lines)
    assert not any("\x1b" in line for line in lines)


def test_sites_verify_says_what_was_proven(folder, capsys):
    assert main(["sites", folder, "layers.1.resid_post", "--verify", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["counts"] == {"proven": 1}
    assert said["bit_equal"] is True


def test_run_gives_the_figures_of_the_trace(folder, capsys, tmp_path):
    file = tmp_path / "values.safetensors"
    argv = [
        "run",
        folder,
        "w3 w4 w5",
        "w6",
        "--read",
        "layers.*.resid_post",
        "--read",
        "embed",
        "--save",
        str(file),
        "--json",
    ]
    assert main(argv) == 0
    said = json.loads(capsys.readouterr().out)
    assert [row["site"] for row in said["sites"]] == ["embed", *(f"layers.{i}.resid_post" for i in range(3))]
    trace = ins.run(ins.open(folder), ["w3 w4 w5", "w6"], read="layers.2.resid_post")
    real = trace["layers.2.resid_post"][trace.mask]
    row = said["sites"][-1]
    assert row["shape"] == [2, 3, 32]
    assert row["mean_norm"] == pytest.approx(float(real.norm(dim=-1).mean()), rel=1e-5)
    assert row["min"] == pytest.approx(float(real.min()))
    assert row["max"] == pytest.approx(float(real.max()))
    saved = load_file(file)
    assert torch.equal(saved["layers.2.resid_post"], trace["layers.2.resid_post"])
    assert torch.equal(saved["mask"], trace.mask)


def test_generate_applies_the_edits_of_a_file(folder, capsys, tmp_path):
    edits = [ins.add(direction("layers.1.resid_post"), scale=30.0)]
    file = tmp_path / "edits.safetensors"
    ins.save_edits(file, edits)
    assert main(["generate", folder, "w3 w4", "--edits", str(file), "--max-new-tokens", "4", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    expected = ins.generate(ins.open(folder), ["w3 w4"], edits=edits, max_new_tokens=4)
    assert said["generated"][0]["tokens"] == expected.tokens[0].tolist()


def test_generate_prints_the_text_with_what_was_added(folder, capsys):
    assert main(["generate", folder, "w3 w4", "--max-new-tokens", "2"]) == 0
    assert capsys.readouterr().out.startswith("w3 w4")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run", "{}", "w3", "--read", "layers.1.resid_pst"], "layers.1.resid_post"),
        (["run", "{}"], "no text to run"),
        (["run", "{}", "w3", ""], "text 2 of 2 is empty, so there is nothing to run"),
        (["generate", "{}", " "], "text 1 of 1 is empty, so there is nothing to go on from"),
        (["run", "{}", "w3", "--edits", "nowhere.safetensors"], "nowhere.safetensors"),
        (["generate", "{}"], "no text to go on from"),
        (["generate", "{}", "w3", "--edits", "nowhere.safetensors"], "nowhere.safetensors"),
        (["report", "{}", "nowhere.txt"], "nowhere.txt"),
        (["report", "{}", "--section", "nope"], "a report has no section 'nope'; there are model, lens"),
        (["sites", "./no-such-folder"], "no-such-folder"),
        (["run", "{}", "w3", "--save", "no/such/folder/x.safetensors"], "there is no folder no/such/folder"),
    ],
)
def test_our_errors_are_a_message_without_traceback_and_exit_code_1(argv, message, folder, capsys):
    assert main([part.replace("{}", folder) for part in argv]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_a_report_of_some_sections(folder, tmp_path, capsys):
    page = tmp_path / "page.html"
    argv = ["report", folder, "--text", "w3 w4 w5", "--section", "model,stream", "--to", str(page), "--json"]
    assert main(argv) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == page.stat().st_size
    whole = ins.report(ins.open(folder), ["w3 w4 w5"], sections=["model", "stream"], to=None)
    titles = [section.title for section in whole.sections]
    assert len(titles) == 2
    assert all(title in page.read_text() for title in titles)


def test_debug_lets_the_error_through(folder):
    with pytest.raises(ins.SiteError):
        main(["run", folder, "w3", "--read", "nope", "--debug"])


def test_an_unexpected_error_is_one_line_and_the_way_to_its_traceback(folder, monkeypatch, capsys):
    def fails(*args, **kwargs):
        raise ZeroDivisionError("by nothing\nat all")

    monkeypatch.setattr("inscape.cli.sites.open_model", fails)
    assert main(["sites", folder]) == 1
    said = capsys.readouterr().err
    assert said == (
        "inscape: unexpected ZeroDivisionError: by nothing\n  the same command with --debug shows where it happened.\n"
    )
    with pytest.raises(ZeroDivisionError):
        main(["sites", folder, "--debug"])


def test_an_interrupt_is_exit_code_130(folder, monkeypatch, capsys):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(console, "open_model", stop)
    monkeypatch.setattr("inscape.cli.sites.open_model", stop)
    assert main(["sites", folder]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_json_has_no_nan_and_knows_dataclasses_and_paths(capsys):
    console.print_json(
        {"a": float("nan"), "b": Path("x"), "c": ins.Site("embed"), "d": torch.tensor([1.5, float("inf")])}
    )
    said = json.loads(capsys.readouterr().out)
    assert said["a"] is None
    assert said["b"] == "x"
    assert said["c"]["name"] == "embed"
    assert said["d"] == [1.5, None]


def test_progress_off_a_terminal_is_one_line_a_message(capsys):
    with console.progress("opening") as tell:
        tell("loading", 0.1)
        tell("loading", 0.5)
        tell("done", 1.0)
    assert capsys.readouterr().err == "loading\ndone\n"


def test_help_imports_no_torch_and_nothing_heavy():
    code = (
        "import sys; from inscape.cli.main import main; main(['--help']); main(['run', '--help'])\n"
        "heavy = {'torch', 'transformers', 'numpy', 'safetensors', 'pydantic', 'altair'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_shows_names_and_shapes_whole_and_wraps_the_words(width, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    meaning = "queries as the scores use them, after q-norm and rotary " * 2
    console.print_table(
        ["site", "shape", "meaning"],
        [["layers.17.attn.head_out", "batch pos kv_head d_head", meaning], ["[bold]", "", "[/x]"]],
    )
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert all(len(line) <= width for line in lines)
    assert lines[1].startswith("layers.17.attn.head_out  batch pos kv_head d_head  queries")
    assert lines[-1].split() == ["[bold]", "[/x]"]


def test_numbers_stand_under_one_another(capsys):
    console.print_table(["site", "max"], [["a", "1"], ["bb", "1000"]], numbers=["max"])
    assert capsys.readouterr().out == "site   max\na        1\nbb    1000\n"


def test_nothing_but_our_own_lines_is_said_on_opening(folder, capsys):
    assert main(["sites", folder]) == 0
    assert capsys.readouterr().err == f"loading the weights of {folder}\nloading the tokenizer of {folder}\n"


def test_json_is_all_there_is_on_both_streams(folder, capsys):
    assert main(["run", folder, "w3", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["model"] == folder
    assert err == ""


def test_every_command_is_there():
    assert {name for name in build() if not name.startswith("-")} == {*COMMANDS, "store", "papers"}


def test_record_goes_on_and_store_looks_after_it(folder, capsys, tmp_path):
    texts, to = tmp_path / "texts.txt", str(tmp_path / "acts")
    texts.write_text("w3 w4 w5\nw6 w7\n\nw8 w9 w10 w11\n")
    argv = ["record", folder, str(texts), "--to", to, "--dtype", "bfloat16"]
    assert main([*argv, "--worker", "1/2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) | {"store": "", "plan": {}} == {
        "store": "", "rows": 0, "complete": False, "plan": {},
    }  # fmt: skip
    assert main(argv) == 0
    said = capsys.readouterr()
    assert "9 rows of 3 samples" in said.out
    assert "record: 9 rows of 9 tokens" in said.err
    assert main([*argv, "--reduce", "last"]) == 1
    assert "is a store of something else" in capsys.readouterr().err
    assert main(["store", "show", to]) == 0
    assert "a writer took" in capsys.readouterr().out
    assert main(["store", "verify", to]) == 0
    (shard,) = (tmp_path / "acts" / "shards").iterdir()
    shard.write_bytes(shard.read_bytes()[:-1])
    assert main(["store", "verify", to, "--quick"]) == 1
    said = capsys.readouterr()
    assert "it was cut" in said.out
    assert "inscape store repair" in said.err
    assert main(["store", "repair", to]) == 0
    assert main(argv) == 0
    assert main(["store", "verify", to, "--json"]) == 0
    assert main(["record", folder, str(texts), "--to", to, "--worker", "2/2"]) == 1
    assert "write i/n" in capsys.readouterr().err


def test_plan_predicts_a_report(folder, capsys):
    assert main(["plan", folder, "--text", "w3 w4 w5 w6", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["seconds"] > 0
