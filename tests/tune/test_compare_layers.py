"""A layer beside the others and beside exchanged answers, on answers that were in no tuning."""

import pytest
import torch

import inscape as ins
from inscape.core.errors import InputError
from inscape.tasks.acronym import spelling
from inscape.tasks.tokens import Tokens
from inscape.train import answer_batches
from inscape.tune.compare_layers import Round, compare_layers
from inscape.tune.layers import tune_layers

WORDS = ["man", "sun", "cat", "dog", "bag", "bed", "hat"]
KINDS = {"first": torch.arange(7) < 5, "second": torch.arange(7) >= 5}


def made():
    model = ins.open("toy-acronym")
    ids = torch.tensor([Tokens(model).one("moon apple night:", f" {word}") for word in WORDS])
    prompts, _ = spelling(WORDS)

    def ask(rows):
        out = ins.run(model, [prompts[i] for i in rows], output="last").output
        return out.logits[:, -1, ids].argmax(-1)

    lists, right = spelling([*WORDS[:3]] * 4, seed=1)
    return model, ask, Round(lists, right, torch.tensor([3]), torch.tensor([4, 5, 6]), torch.arange(3))


def test_its_numbers_are_those_of_tuning_by_hand_and_the_model_is_as_before():
    model, ask, one = made()
    kept = {name: x.clone() for name, x in model.module.state_dict().items()}
    due = torch.arange(7)
    found = compare_layers(model, "layers.1", [one], ask, due, KINDS, steps=4, patience=99, lr=3e-3)
    assert all(torch.equal(x, kept[name]) for name, x in model.module.state_dict().items())
    before = ask(one.test)
    assert torch.equal(found.before, before)
    assert set(found.layers) == {block.name for block in model.blocks}
    for block in model.blocks:
        batches = answer_batches(model.tokenizer, one.prompts, one.answers, size=32)
        with tune_layers(model, block.name, batches, steps=4, lr=3e-3):
            after = ask(one.test)
        gain = (after == due[4:]).double() - (before == due[4:]).double()
        assert found.layers[block.name]["first"] == pytest.approx(float(gain[:1].mean()))
        assert found.layers[block.name]["second"] == pytest.approx(float(gain[1:].mean()))
        if block.name == "layers.1":
            assert torch.equal(found.gain(), gain)
    assert set(found.after) == {"tuned", "exchanged"}
    assert 1 <= found.rank("second") <= len(model.blocks)
    assert found.steps == 4


def test_what_cannot_be_compared_says_why():
    model, ask, one = made()
    due = torch.arange(7)
    with pytest.raises(InputError, match=r"names 4 layers, to be tuned in 1 rounds: give one layer"):
        compare_layers(model, "layers.*", [one], ask, due, KINDS)
    with pytest.raises(InputError, match=r"round 0 has no item that is 'none', of 1 held out and 3 tested"):
        compare_layers(model, "layers.1", [one], ask, due, {"none": torch.zeros(7, dtype=torch.bool)})
