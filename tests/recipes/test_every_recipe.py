"""What holds for every recipe, found by looking: new ones are tested before anyone writes a test for them.

The made-up recipe beside this file goes through the same checks, so that they run before there is a real one.
"""

import shutil
import time
from pathlib import Path

import pytest

from bench.drift import alike
from inscape.core.result_file import load_result
from inscape.recipes import catalogue, running
from tests.common.recipe_rules import broken_rules, recipe_files

MADE_UP = Path(__file__).parent / "made_up"
FOLDERS = (catalogue.PACKAGE, MADE_UP)
ENTRIES = [entry for folder in FOLDERS for entry in catalogue.entries(folder)]
CPU_SECONDS = 30.0  # of QUICK: 15 s of two threads

every = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)


def test_every_file_of_a_theme_is_found():
    for folder in FOLDERS:
        strays = {p.name for p in recipe_files(folder)} - {e.source.path.name for e in catalogue.entries(folder)}
        assert not strays, f"{strays} in {folder}: recipes are called <idea>_<year>.py"
    themes = {entry.source.path.parent for entry in catalogue.entries()}
    assert not [theme.name for theme in themes if not (theme / "__init__.py").exists()], "a theme is a package"


@every
def test_its_file_is_named_after_the_year_and_its_docstring_says_cost_and_difference(entry):
    assert entry.source.path.stem.endswith(f"_{entry.paper.year}")
    assert "Cost:" in entry.source.about
    assert "Differs from the source" in entry.source.about


@every
def test_some_claim_is_measured_beside_a_control(entry):
    """Bounds and the sentence about the control are asked for by Claim and Paper themselves."""
    assert any(claim.control for claim in entry.paper.claims)


@every
def test_it_is_claims_and_calls(entry):
    assert broken_rules(entry.source.path.read_text()) == []


@every
def test_it_runs_without_arguments_and_takes_a_seed(entry):
    assert "seed" in entry.source.parameters
    assert all(entry.source.parameters.values()), "every argument of run has a default"
    assert entry.source.quick.keys() <= entry.source.parameters.keys()


@every
def test_its_quick_run_measures_every_claim_in_seconds_and_can_be_read_back(entry, tmp_path):
    start = time.process_time()
    kept = running.run(entry, quick=True, to=tmp_path)
    spent = time.process_time() - start
    assert set(kept.result.measured) == {claim.name for claim in entry.paper.claims}
    assert set(kept.result.controls) >= {claim.name for claim in entry.paper.claims if claim.control}
    again = load_result(kept.path)
    assert again.verdicts == kept.result.verdicts
    assert kept.path.name == f"{entry.name}.quick.json"
    assert kept.figure is not None
    assert kept.figure.read_bytes().startswith(b"\x89PNG")
    assert spent <= CPU_SECONDS, f"QUICK took {spent:.0f} s of processor time"


def test_every_recorded_result_is_of_a_full_run_of_the_recipe_as_it_stands(tmp_path):
    folder = shutil.copytree(MADE_UP, tmp_path / "recipes")
    made_up = running.run(catalogue.entry("table-lookup", folder)).path
    for path in (made_up, *sorted((catalogue.PACKAGE / "results").glob("*.json"))):
        check_recorded(path)


def check_recorded(path: Path) -> None:
    entry = catalogue.entry(path.stem, path.parents[1])
    result = load_result(path)
    assert entry.is_current(result), "the claims have changed since the run: run it again"
    assert result.ran is not None
    assert not result.ran.quick
    module = entry.module()
    defaults = running.effective(module.run, {})
    assert result.ran.model == str(defaults.pop("model", ""))
    assert {k: str(v) for k, v in result.ran.settings.items()} == {k: str(v) for k, v in defaults.items()}
    assert entry.figure() is not None, "the run also drew a figure"


def test_no_two_recipes_are_copies_of_each_other():
    """`python -m bench.drift` prints the most alike pair; half the same would be one recipe with two names."""
    for share, a, b in alike([entry.source.path for entry in ENTRIES]):
        assert share < 0.5, f"{a.stem} and {b.stem} share {share:.0%}: what they share moves down"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("class Net(torch.nn.Module): pass", "a module of its own (Net)"),
        ("class Net(Module): pass", "a module of its own (Net)"),
        ("def run():\n    loss.backward()", "line 2: a training loop (loss.backward)"),
        ("step = torch.optim.Adam(p)", "a training loop (torch.optim"),
        ("from torch.optim import Adam", "a training loop (torch.optim.Adam)"),
        ("m.register_forward_hook(f)", "a hook (register_forward_hook)"),
        ("m._forward_hooks[0] = f", "a hook (_forward_hooks)"),
        ("import matplotlib.pyplot as plt", "draws (matplotlib.pyplot)"),
        ("from inscape.view import charts", "draws (inscape.view.charts)"),
        ("import argparse", "parses arguments (argparse)"),
        ("import sys\nsys.argv[1]", "reads the command line"),
        ("print(1)", "prints"),
        ("from inscape.recipes.lenses import tuned_lens_2023", "imports a recipe"),
        ("import inscape.recipes.lenses.tuned_lens_2023", "imports a recipe"),
    ],
)
def test_a_recipe_that_brings_its_own_parts_is_seen(source, says):
    assert any(says in broken for broken in broken_rules(source)), broken_rules(source)


def test_calls_of_parts_are_no_parts():
    assert (
        broken_rules("import inscape as ins\nfrom inscape.train.fit import fit\nfit(m, b, l, steps=3)\nx.norm()") == []
    )


def test_a_result_names_the_commit_it_began_with_and_says_when_code_changed_meanwhile(monkeypatch, tmp_path) -> None:
    folder = shutil.copytree(MADE_UP, tmp_path / "recipes")
    said = iter(["abc", "def", "abc", "abc", "abc+", "def"])
    monkeypatch.setattr(running, "_commit", lambda: next(said))
    found = [running.run(catalogue.entry("table-lookup", folder)).result.ran.commit for _ in range(3)]
    assert found == ["abc+", "abc", "abc+"]
