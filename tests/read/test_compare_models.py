"""Every test runs on the descendant and on the controls."""

import pytest
import torch

import inscape as ins
from inscape.read.compare_models import compare_models, shuffled_weights
from tests.common.small import gpt2


def same_head(one, other):
    a, b = (m.module.transformer.wte.weight for m in (one, other))
    return {"r": float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).detach())[0, 1])}


def test_the_tests_run_on_the_descendant_and_the_controls():
    model = gpt2()
    found = compare_models(model, model, {"head": same_head}, {"another": shuffled_weights(model, 3)})
    assert list(found.numbers) == ["tuned", "another", "shuffled weights"]
    assert found["head"]["r"] == pytest.approx(1.0, abs=1e-5)
    (row,) = found.table
    assert abs(row["another"]) < 0.1
    assert abs(row["shuffled weights"]) < 0.1
    assert str(found).splitlines()[0].split() == ["tuned", "another", "shuffled", "weights"]
    assert "head: r" in str(found)


def test_shuffled_weights_keep_their_numbers_and_nothing_else():
    model = gpt2()
    mixed = shuffled_weights(model)
    for (name, a), b in zip(model.module.named_parameters(), mixed.module.parameters(), strict=True):
        assert torch.equal(a.flatten().sort().values, b.flatten().sort().values), name
        assert (a.ndim == 1) == torch.equal(a, b)
    assert mixed.fingerprint != model.fingerprint


def test_what_says_nothing_is_refused():
    model = gpt2()
    with pytest.raises(ins.InputError, match="needs at least one test"):
        compare_models(model, model, {})
    with pytest.raises(ins.InputError, match="a control is called 'tuned'"):
        compare_models(model, model, {"head": same_head}, {"tuned": model})
    with pytest.raises(ins.InputError, match="there was no test 'tail'; there were head"):
        compare_models(model, model, {"head": same_head}, shuffled=False)["tail"]
