"""The probe of repeated random tokens is what it says, for models with and without a tokenizer."""

import torch

from inscape.tasks import repeated_probe
from tests.read.planted import even_gpt2


def test_the_probe_comes_twice_and_its_control_in_another_order() -> None:
    model = even_gpt2()
    plain, shuffled = repeated_probe(model, 8, 3), repeated_probe(model, 8, 3, shuffle=True)
    assert torch.equal(plain[:, 1:9], plain[:, 9:])
    assert not bool((shuffled[:, 1:9] == shuffled[:, 9:]).any())
    assert torch.equal(shuffled[:, 1:9].sort().values, shuffled[:, 9:].sort().values)
    assert plain[:, 0].tolist() == [1, 1, 1]
    assert all(len(set(row)) == 8 for row in plain[:, 1:9].tolist())
