"""docs/papers.md is what the recipes and their results say now."""

import shutil
from pathlib import Path

from inscape.recipes import catalogue, running
from tests.docs import papers

MADE_UP = Path(__file__).parents[1] / "recipes" / "made_up"


def test_the_page_of_papers_is_made_of_the_result_files_as_they_are():
    assert papers.PAGE.read_text() == papers.page(), "python -m tests.docs.papers writes it"


def test_a_paper_on_the_page_has_claims_numbers_controls_verdicts_and_its_figure(tmp_path, monkeypatch):
    folder = Path(shutil.copytree(MADE_UP, tmp_path / "recipes"))
    monkeypatch.setattr(catalogue, "HERE", folder)
    assert "1 papers, 0 of them with a recorded run" in papers.page()
    assert "No full run is recorded yet." in papers.page()
    running.run("table-lookup")
    page = papers.page()
    assert "Of 4 claims in these, 1 hold, 1 failed, 1 hold on their control too, and 1 were not measured." in page
    assert "| nearly every square is found | ≥ 0.9 | 1 [0.981, 1] | 0 (shuffled keys) | holds |" in page
    assert "| a look costs less than nothing | < 0 | 1.9e-05 |  | failed |" in page
    assert "results/table-lookup.png)" in page
    assert "nothing was looked up in earnest" in page


def test_without_a_recipe_the_page_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "HERE", tmp_path)
    assert "None is here yet." in papers.page()
