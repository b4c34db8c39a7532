"""lm-evaluation-harness run to the end on a steered model, by its own file and inside `ins.editing`.

Needs the extra `eval`, which is not among what `make` installs.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import inscape as ins
from inscape.models.toy.words import word_tokenizer
from inscape.steer.export.lm_eval import save_lm_eval
from tests.common.small import direction, gpt2_module

lm_eval = pytest.importorskip("lm_eval")
huggingface = pytest.importorskip("lm_eval.models.huggingface")
QUESTIONS = ["a b c then", "d then", "e f a b then", "c c then", "b then", "f e then"]
CHOICES = ["g h", "i", "j k l"]
EDITS = [ins.add(direction(f"layers.{i}.resid_post", i), 1.5) for i in range(3)]


@pytest.fixture
def model() -> ins.Model:
    return ins.open(gpt2_module(), tokenizer=word_tokenizer([*"abcdefghijkl", "then"], split="spaces"))


def scores(harness: Any, folder: Path, **args: Any) -> torch.Tensor:
    """[question, choice]: what lm-eval says of a multiple-choice task in a file of ours."""
    data = folder / "questions.jsonl"
    rows = [{"question": q, "choices": CHOICES, "answer": i % 3} for i, q in enumerate(QUESTIONS)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"task": "letters", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{question}}",
            "doc_to_choice": "{{choices}}", "doc_to_target": "{{answer}}", "metric_list": [{"metric": "acc"}],
            "metadata": {"version": 1.0}}  # fmt: skip
    found = lm_eval.simple_evaluate(
        model=harness, tasks=[task], log_samples=True, bootstrap_iters=0, batch_size=3, device="cpu", **args
    )
    samples = sorted(found["samples"]["letters"], key=lambda s: s["doc_id"])
    return torch.tensor([[answer[0] for answer in s["filtered_resps"]] for s in samples])


def expected(model: ins.Model, edits: list[ins.Edit]) -> torch.Tensor:
    """The same log-probabilities, one text at a time."""
    tokenizer: Any = model.tokenizer
    out = torch.zeros(len(QUESTIONS), len(CHOICES))
    for i, question in enumerate(QUESTIONS):
        for j, choice in enumerate(CHOICES):
            ids = tokenizer(f"{question} {choice}", return_tensors="pt")["input_ids"]
            n = len(choice.split())
            logs = ins.run(model, ids, edits=edits).output.logits[0, -n - 1 : -1].log_softmax(-1)
            out[i, j] = logs.gather(1, ids[0, -n:, None]).sum()
    return out


def test_their_runner_scores_the_exported_edits_as_ours_does(model: ins.Model, tmp_path: Path) -> None:
    parts: Any = (model.module, model.tokenizer)
    for part in parts:
        part.save_pretrained(tmp_path / "model")
    save_lm_eval(tmp_path / "plan.pt", model, EDITS)
    args = {"pretrained": str(tmp_path / "model"), "steer_path": str(tmp_path / "plan.pt"), "dtype": "float32"}
    got, want = scores("steered", tmp_path, model_args=args), expected(model, EDITS)
    torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-3)
    assert float((expected(model, []) - want).abs().max()) > 0.1, "the edits must matter"


def test_edits_that_no_file_holds_are_evaluated_inside_editing(model: ins.Model, tmp_path: Path) -> None:
    condition = ins.Condition(direction("layers.0.resid_post"), 0.0, at="each")  # it gives no mask: no "last" there
    edits = [ins.when(condition, EDITS[2]), ins.norm_preserving_add(direction(seed=7), 0.5)]
    harness = huggingface.HFLM(pretrained=model.module, tokenizer=model.tokenizer, batch_size=3)
    with ins.editing(model, edits):
        got = scores(harness, tmp_path)
    want = expected(model, edits)
    torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-3)
    assert float((expected(model, []) - want).abs().max()) > 0.1, "the edits must matter"
