"""Behaviours without labels: planted kinds are found, rows without kinds are not sorted, and what is refused."""

import dataclasses

import pytest
import torch

import inscape as ins
from inscape.core.agreement import adjusted_mutual_information
from inscape.read.behaviour.taxonomy import BehaviourTaxonomy


def kinds(
    n: int = 600, d: int = 24, k: int = 6, noise: float = 0.25, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of six kinds around means at random, with a common mean that is much larger than they are."""
    g = torch.Generator().manual_seed(seed)
    means = torch.nn.functional.normalize(torch.randn(k, d, generator=g), dim=1)
    label = torch.randint(0, k, (n,), generator=g)
    return means[label] + noise * torch.randn(n, d, generator=g) / 2 + 10 * torch.randn(d, generator=g), label


def test_planted_kinds_are_found_in_rows_it_has_not_seen_and_shuffled_units_hold_none():
    x, label = kinds()
    taxonomy = BehaviourTaxonomy(n=6, steps=150).fit(x[:400])
    assert adjusted_mutual_information(taxonomy.predict(x[400:]), label[400:]) > 0.8
    control = BehaviourTaxonomy(n=6, steps=150, control="shuffle").fit(x[:400])
    assert taxonomy.score(x[400:]) > control.score(x[400:]) + 0.1
    assert taxonomy.stability(x, n=2) > 0.7
    noise = torch.randn(400, 24, generator=torch.Generator().manual_seed(1))
    assert BehaviourTaxonomy(n=6, steps=60).stability(noise, n=2) < 0.3


def test_k_latents_are_kept_and_the_category_is_the_largest_before():
    x, _ = kinds(n=80)
    taxonomy = BehaviourTaxonomy(n=8, k=3, steps=50, batch=64).fit(x)
    a, kept = taxonomy.activations(x), taxonomy.transform(x)
    assert torch.equal((kept != 0).sum(1), torch.full((80,), 3))
    assert torch.equal(taxonomy.predict(x), a.argmax(1))
    assert torch.equal(kept.amax(1), a.amax(1).where(a.amax(1) > 0, kept.amax(1)))
    torch.testing.assert_close(taxonomy.decoder_.norm(dim=1), torch.ones(8))


def test_the_mean_belongs_to_it():
    x, _ = kinds(n=300)
    taxonomy = BehaviourTaxonomy(n=6, steps=100).fit(x)
    assert torch.equal(taxonomy.predict(x[:7]), taxonomy.predict(x)[:7])  # not the mean of what is asked about
    torch.testing.assert_close(taxonomy.mean_, x.mean(0), rtol=1e-4, atol=1e-4)
    bare = BehaviourTaxonomy(n=6, steps=100, centre=False).fit(x)
    assert float(bare.mean_.abs().max()) == 0


def test_a_score_has_an_interval():
    x, _ = kinds(n=200)
    found = BehaviourTaxonomy(n=6, steps=50).fit(x).score(x, interval=True, by=torch.arange(200) // 4)
    assert found.low < found.value < found.high
    assert found.n_items == 50


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"n": 2, "k": 3}, "n=2, k=3"), ({"steps": 0}, "steps=0"), ({"control": "random"}, "'random' is none of a taxon")],
)
def test_impossible_settings_are_refused(settings, says):
    with pytest.raises(ins.InputError, match=says):
        BehaviourTaxonomy(**settings).fit(torch.randn(20, 4))


def test_what_cannot_be_read_is_refused():
    taxonomy = BehaviourTaxonomy(n=3, steps=5)
    with pytest.raises(ins.NotFittedError, match=r"call fit\(x\) first"):
        taxonomy.predict(torch.randn(2, 4))
    taxonomy.fit(torch.randn(20, 4))
    with pytest.raises(ins.ShapeError, match="fitted on rows of 4 units; these have 5"):
        taxonomy.predict(torch.randn(2, 5))
    with pytest.raises(ins.InputError, match="2 pairs of halves of 3 rows"):
        dataclasses.replace(taxonomy).stability(torch.randn(3, 4), n=2)
