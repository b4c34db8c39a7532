"""Statistics of paths: overlaps known by hand, planted classes found, shuffled ones not."""

import pytest
import torch

import inscape as ins
from inscape.circuits.path_stats import any_units, keep_only, path_stats, size_matched
from tests.common.small import gpt2

PLANTED = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])


def planted(noise: int = 0) -> torch.Tensor:
    """Every class has its own neuron in both layers, the first `noise` rows of each class another."""
    paths = PLANTED[:, None, None].expand(12, 2, 1).clone()
    for c in range(3):
        paths[4 * c : 4 * c + noise] = 9 - c
    return paths


def test_frequencies_and_overlaps_are_those_counted_by_hand() -> None:
    made = path_stats(torch.tensor([[[0, 1], [2, 3]], [[0, 2], [2, 3]], [[5, 6], [2, 7]], [[5, 6], [8, 9]]]),
                      torch.tensor([0, 0, 1, 1]), 10)  # fmt: skip
    assert made.frequency[0, 0].tolist()[:4] == [1.0, 0.5, 0.5, 0.0]
    assert made.frequency.sum(2).eq(2).all()
    assert float(made.overlap[0, 1]) == pytest.approx(3 / 4)
    assert float(made.overlap[0, 2]) == pytest.approx(1 / 4)
    assert made.same == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert made.different == pytest.approx((1 / 4 + 1 / 4 + 0 + 0) / 4)
    assert float(made.similarity[0, 1]) == pytest.approx(0.5 * (0 + (0.5 + 0) / 2))
    torch.testing.assert_close(made.similarity.diagonal(), torch.ones(2))


def test_planted_classes_are_found_and_shuffled_labels_are_not() -> None:
    made = path_stats(planted(1), PLANTED, 10, n=500)
    assert float(made.test.p) < 0.01
    assert made.same > 0.4
    assert float(made.control.p) > 0.05


def test_the_most_used_neurons_are_kept_and_no_more() -> None:
    made = path_stats(planted(1), PLANTED, 10)
    mask = made.most_used(0.2)
    assert mask.sum(2).eq(2).all()
    for c in range(3):
        assert bool(mask[c, :, c].all())
        assert bool(mask[c, :, 9 - c].all())
    control = any_units(mask, seed=1)
    assert control.sum(2).eq(2).all()
    assert not torch.equal(control, mask)


def test_keeping_only_some_sets_all_others_to_zero_row_by_row() -> None:
    model, ids = gpt2(), [[1, 5, 9], [2, 6, 10]]
    mask = torch.zeros(2, 3, 128, dtype=torch.bool)
    mask[0, :, :5] = mask[1, :, 100:] = True
    sites = [f"layers.{i}.mlp.act" for i in range(3)]
    edits = keep_only(mask, torch.tensor([1, 0]), sites, at=-1)
    trace = ins.run(model, ids, read=sites, edits=edits)
    for i, site in enumerate(sites):
        assert bool((trace[site][0, -1][~mask[1, i]] == 0).all())
        assert bool((trace[site][1, -1][~mask[0, i]] == 0).all())
        assert float(trace[site][0, -1].abs().sum()) > 0
        assert float(trace[site][0, 0].abs().min(-1).values) > 0
    with pytest.raises(ins.InputError, match="3 layers, and there are 2 sites"):
        keep_only(mask, torch.tensor([0, 1]), sites[:2])


def test_matched_neurons_are_of_the_same_layer_and_about_the_same_size_and_not_of_the_path() -> None:
    acts = torch.randn(5, 3, 60, generator=torch.Generator().manual_seed(0))
    paths = acts.topk(2, dim=2).indices
    other = size_matched(acts, paths, near=5, seed=0)
    assert other.shape == paths.shape
    assert not bool((other[..., None] == paths[..., None, :]).any())
    rank = acts.abs().argsort(2, descending=True)
    for r in range(5):
        for layer in range(3):
            assert all(u in rank[r, layer, :16].tolist() for u in other[r, layer].tolist())
            assert len(set(other[r, layer].tolist())) == 2


def test_too_few_of_a_class_say_so() -> None:
    for labels in (torch.zeros(4, dtype=torch.long), torch.tensor([0, 0, 0, 1])):
        with pytest.raises(ins.InputError, match="two inputs each"):
            path_stats(torch.zeros(4, 2, 1, dtype=torch.long), labels, 10)
    with pytest.raises(ins.InputError, match="above 0 and at most 1"):
        path_stats(planted(), PLANTED, 10).most_used(0.0)
