"""The net that follows arrows: right for every number of steps, one step a layer, and of the same shape untrained."""

import pytest
import torch

import inscape as ins
from inscape.models.toy.arrows import LAYERS, REACHED, STEPS, WORDS, N, arrow_model
from inscape.models.toy.words import SPECIAL
from inscape.tasks.hops import hops


@pytest.mark.parametrize("steps", range(1, STEPS + 1))
def test_it_says_where_the_arrows_lead_and_is_one_step_further_after_every_layer(steps: int) -> None:
    model = arrow_model()
    asked = hops(24, steps, seed=steps)
    logits = ins.run(model, list(asked.texts), output="last").output.logits[:, -1]
    said = [(*SPECIAL, *WORDS)[i] for i in logits.argmax(-1).tolist()]
    assert tuple(said) == asked.answers
    assert float(logits.softmax(-1).max(-1).values.min()) > 0.99
    trace = ins.run(model, list(asked.texts), read="layers.*.resid_post", reduce="last")
    for layer in range(LAYERS):
        state = trace[f"layers.{layer}.resid_post"]
        for after in range(1, STEPS + 1):
            held = state[:, REACHED + N * after : REACHED + N * (after + 1)]
            letter = torch.tensor(["abcdefgh".index(e[after - 1]) for e in asked.ends])
            if after <= layer + 1:
                assert torch.equal(held.argmax(1), letter)
            else:
                assert float(held.abs().max()) < 1e-4


def test_one_with_random_weights_has_the_same_shape_and_knows_nothing() -> None:
    plain, random = arrow_model(), arrow_model(trained=False, seed=3)
    assert [p.shape for p in plain.module.parameters()] == [p.shape for p in random.module.parameters()]
    asked = hops(64, seed=1)
    logits = ins.run(random, list(asked.texts), output="last").output.logits[:, -1]
    said = [(*SPECIAL, *WORDS)[i] for i in logits.argmax(-1).tolist()]
    assert sum(a == b for a, b in zip(said, asked.answers, strict=True)) < 20
    assert random.fingerprint != plain.fingerprint
