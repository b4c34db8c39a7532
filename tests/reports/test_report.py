"""The report: one page for models of every kind, with reasons where a section does not apply."""

from pathlib import Path

import pytest
import torch

import inscape as ins
from inscape.reports.plan import plan
from inscape.reports.report import SECTIONS, report
from inscape.reports.sections.model import parameters_by_part
from inscape.tasks.plain_text import plain_text
from tests.common.zoo import build

pytest.importorskip("altair")
pytest.importorskip("vl_convert")


@pytest.mark.parametrize(
    ("name", "absent"),
    [("gpt2", 2), ("gemma3_text", 2), ("bert", 4), ("vit", 6), ("mamba", 4), ("deepseek_v3", 2), ("t5", 5)],
)
def test_a_report_is_one_page_and_says_what_does_not_apply(name: str, absent: int, tmp_path: Path) -> None:
    made = report(ins.open(build(name)), to=tmp_path / "report.html")
    assert made.path is not None
    page = made.path.read_text(encoding="utf-8")
    assert page == made.html
    skipped = [section for section in made.sections if section.skipped is not None]
    assert len(skipped) == absent
    assert all(section.skipped and section.skipped.endswith(".") for section in skipped), skipped
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    for section in made.sections:
        for figure in section.figures:
            assert figure.caption.endswith(".")
            assert figure.call
            assert figure.control
            assert "nan" not in figure.caption.split()


def test_progress_tells_the_cost_first_and_never_goes_back() -> None:
    told: list[tuple[str, float | None]] = []
    made = report(
        ins.open(build("gpt2")), to=None, progress=lambda m, f: told.append((m, f)), sections=["stream", "heads"]
    )
    assert told[0][0].startswith("predicted: report: about")
    fractions = [f for _, f in told if f is not None]
    assert fractions == sorted(fractions)
    assert made.path is None
    assert len(made.sections) == 2


def test_a_report_leaves_the_model_as_it_was() -> None:
    module = build("gpt2")
    ids = torch.tensor([[3, 4, 5]])
    before = module(ids).logits
    report(ins.open(module), [[5, 6, 7, 8], [9, 10, 11]], to=None, sections=["lens", "skipping", "outliers"])
    assert torch.equal(module(ids).logits, before)
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()) == 0


def test_parameters_are_counted_once_each() -> None:
    for name in ("gpt2", "gemma3_text", "bert", "vit", "mixtral", "jamba"):
        model = ins.open(build(name))
        assert sum(parameters_by_part(model).values()) == sum(p.numel() for p in model.module.parameters())


def test_a_plan_adds_up_and_knows_its_jobs() -> None:
    made = plan(ins.open(build("gpt2")))
    assert made.seconds == pytest.approx(sum(s for _, s in made.parts))
    assert made.peak_bytes > 50 * 2**20
    assert "report: about" in str(made)
    with pytest.raises(ins.InputError, match="jobs with one are report, record, sweep"):
        plan(ins.open(build("gpt2")), job="weather")
    with pytest.raises(ins.InputError, match="a plan for a sweep needs its prompts"):
        plan(ins.open(build("gpt2")), job="sweep")


def test_bad_requests_are_refused_before_any_work(tmp_path: Path) -> None:
    model = ins.open(build("gpt2"))
    with pytest.raises(ins.InputError, match=", ".join(SECTIONS)):
        report(model, to=None, sections=["weather"])
    with pytest.raises(ins.FileError, match="there is no folder"):
        report(model, to=tmp_path / "nowhere" / "report.html")
    with pytest.raises(ins.InputError, match="empty list"):
        report(model, [], to=None)
    with pytest.raises(ins.InputError, match="no tokenizer"):
        report(model, ["a text"], to=None)
    with pytest.raises(ins.InputError, match="at least two"):
        report(model, [[5]], to=None)


def test_the_plain_texts_are_a_dozen_and_stay_the_same() -> None:
    texts = plain_text()
    assert len(texts) == 12
    assert texts[:3] == plain_text(3)
    assert all(150 < len(text) < 400 for text in texts)
    with pytest.raises(ins.InputError, match="12 texts"):
        plain_text(13)
