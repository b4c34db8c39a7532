"""Where to steer: every site at the same KL, and the one that does most."""

import pytest
import torch

import inscape as ins
from inscape.core.errors import InputError, NotConvergedError
from inscape.steer.judges import answer_mass
from inscape.steer.where import choose_site
from tests.common.small import direction, gpt2

PROMPTS = [[5, 9, 13], [7, 3], [2, 2, 8, 30], [40, 41]]
SITES = [f"layers.{i}.resid_post" for i in range(3)]
WANTED = answer_mass([17])


def directions(model: ins.Model) -> ins.Directions:
    """Random at two layers; at the last, the row of the head that makes token 17 likely."""
    row = model.module.get_output_embeddings().weight[17].detach()  # type: ignore[operator]
    return ins.Directions.of(direction(SITES[0]), direction(SITES[1], 1), ins.Direction(SITES[2], row, "to 17"))


def test_the_site_that_does_most_for_one_kl_is_chosen() -> None:
    model = gpt2()
    given = directions(model)
    found = choose_site(model, given, PROMPTS, WANTED, 0.05, max_new_tokens=2)
    assert found.best == SITES[2]
    assert found.sites == tuple(SITES)
    for row in found.rows():
        d, dose = given[row["site"]], row["strength"]
        assert dose == ins.calibrate_strength(model, d, PROMPTS, 0.05, unit="relative", max_new_tokens=2).gamma
        mass = [
            torch.stack([ins.run(model, [p], edits=edits).output.logits[0, -1].softmax(-1)[17] for p in PROMPTS])
            for edits in ([], [ins.add(d, dose, unit="relative")])
        ]
        assert row["change"] == pytest.approx(float((mass[1] - mass[0]).mean()), abs=1e-5)
    lowered = choose_site(model, given, PROMPTS, WANTED, 0.05, goal="lower", max_new_tokens=2)
    assert lowered.best == min(found.rows(), key=lambda row: row["change"])["site"]


def test_as_many_sites_as_asked_for_are_tried_from_first_to_last() -> None:
    model = gpt2()
    found = choose_site(model, directions(model), PROMPTS, WANTED, 0.05, n_sites=2, max_new_tokens=1)
    assert found.sites == (SITES[0], SITES[2])
    with pytest.raises(InputError, match="n_sites=0: one at least"):
        choose_site(model, directions(model), PROMPTS, WANTED, 0.05, n_sites=0)


def test_a_budget_that_no_site_reaches_is_said() -> None:
    model = gpt2()
    with pytest.raises(NotConvergedError, match=r"at none of layers\.0\.resid_post, .* does the KL reach 1000 nats"):
        choose_site(model, directions(model), PROMPTS, WANTED, 1000.0, max_new_tokens=1)
