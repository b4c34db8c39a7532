"""Directions know the model that they were found in, and every run compares it."""

import copy
from pathlib import Path

import pytest
import torch

import inscape as ins
from inscape.core.errors import ModelError
from tests.common.small import direction, gpt2, gpt2_module

IDS = torch.tensor([[1, 5, 9, 13, 17, 21]])


def changed_copy() -> torch.nn.Module:
    """A net of the same shape and other weights."""
    module = copy.deepcopy(gpt2_module())
    with torch.no_grad():
        next(module.parameters()).mul_(1.5)
    return module


def test_a_direction_of_another_model_is_refused_wherever_it_is_used(tmp_path: Path) -> None:
    """Of the same width, so that nothing else would notice."""
    here, other = gpt2(), ins.open(changed_copy())
    found = direction().meant_for(here)
    uses = [
        ins.add(found), ins.project_out(found), ins.clamp(found, 0, 1), ins.norm_preserving_add(found),
        ins.when(ins.Condition(found), ins.add(direction())), ins.when(ins.Condition(direction()), ins.add(found)),
    ]  # fmt: skip
    ins.save_edits(tmp_path / "edits.safetensors", uses)
    for edit in (*uses, *ins.load_edits(tmp_path / "edits.safetensors")):
        ins.run(here, IDS, edits=[edit])
        with pytest.raises(ModelError, match=f"is for the model {here.fingerprint}, this one is {other.fingerprint}"):
            ins.run(other, IDS, edits=[edit])
        with pytest.raises(ModelError, match=r"say so: direction\.meant_for"):
            ins.generate(other, IDS, [edit], max_new_tokens=2)


def test_one_that_means_the_same_in_another_model_says_so() -> None:
    here, other = gpt2(), ins.open(changed_copy())
    found = direction().meant_for(here)
    wanted = ins.run(other, IDS, edits=[ins.add(direction())]).output.logits
    assert torch.equal(ins.run(other, IDS, edits=[ins.add(found.meant_for(other))]).output.logits, wanted)
    assert ins.Directions.of(found).meant_for("").model == ""


def test_a_direction_goes_on_being_for_the_model_that_is_trained() -> None:
    model = ins.open(changed_copy())
    found = direction().meant_for(model)
    with torch.no_grad():
        next(model.module.parameters()).add_(1.0)
    assert model.fingerprint != found.model
    ins.run(model, IDS, edits=[ins.add(found)])
