"""The trained detector: planted differences that it must find, random labels that it must not, and what it shares."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import inscape as ins
from inscape.core.readout_file import save_readout
from inscape.read.readouts import load_readout
from inscape.read.signatures import (
    LOSNet,
    SignatureBaseline,
    Signatures,
    cross_validated,
    detect,
    signature_baselines,
)
from inscape.read.signatures.detection import area
from inscape.read.signatures.heuristics import entropy, min_k
from tests.read.signatures.made import drawn, signatures

SMALL = {"width": 16, "heads": 2, "epochs": 25, "patience": 25}


def planted(n: int = 200, seed: int = 0) -> tuple[Signatures, torch.Tensor]:
    """Yes where the *second* most probable token is nearly as probable as the first; the token that came is the top."""
    g = torch.Generator().manual_seed(seed)
    yes = torch.arange(n) % 2 == 0
    scores = torch.randn(n, 6, 30, generator=g) * 0.3
    first = torch.randint(0, 30, (n, 6), generator=g)
    second = (first + 1 + torch.randint(0, 28, (n, 6), generator=g)) % 30
    scores.scatter_(2, first[..., None], 5.0)
    scores.scatter_(2, second[..., None], torch.where(yes, 4.7, 1.0)[:, None, None].expand(n, 6, 1))
    scores.scatter_add_(2, first[..., None], torch.where(yes, 0.9, 0.0)[:, None, None].expand(n, 6, 1))
    return signatures(scores, first), yes


def test_it_finds_in_the_distributions_what_the_token_alone_does_not_tell() -> None:
    x, yes = planted()
    held, truth = planted(seed=1)
    whole = LOSNet(**SMALL).fit(x, yes)
    assert whole.score(held, truth) > 0.95
    assert float((whole.predict(held) == truth).float().mean()) > 0.9
    proba = whole.predict_proba(held)
    assert bool(((proba >= 0) & (proba <= 1)).all())
    assert torch.equal(proba > 0.5, whole.predict(held))
    assert whole.transform(held).shape == (200, 16)


def test_shuffled_labels_teach_nothing() -> None:
    x, yes = planted(100)
    held, truth = planted(seed=1)
    null = [
        LOSNet(width=16, heads=2, epochs=5, control="shuffle", seed=s).fit(x, yes).score(held, truth) for s in range(4)
    ]
    assert 0.15 < sum(null) / 4 < 0.85
    y = torch.rand(100, generator=torch.Generator().manual_seed(3)) < 0.5
    found = cross_validated(LOSNet(width=16, heads=2, epochs=5), x, y, n_folds=3)
    assert found.p > 0.01


def test_it_learns_min_k_and_entropy_as_numbers() -> None:
    x, held = drawn(400, seed=0, k=40), drawn(200, seed=1, k=40)
    for heuristic, least in ((min_k, 0.4), (entropy, 0.8)):
        net = LOSNet(width=32, heads=4, epochs=30, patience=30, kind="regress").fit(x, heuristic(x))
        assert net.score(held, heuristic(held)) > least
        with pytest.raises(ins.InputError, match="learned numbers"):
            net.predict_proba(held)
    interval = net.score(held, entropy(held), interval=True)
    assert interval.low < interval.value < interval.high


def test_the_ablations_are_settings_and_read_only_what_they_say() -> None:
    x, yes = planted(60)
    other = drawn(60, seed=5)
    for settings in (
        {"inputs": ("actual", "rank")}, {"inputs": ("actual", "rank"), "body": "mlp"}, {"inputs": ("actual",)},
        {"rank_encoding": "onehot"}, {"mask_padding": False}, {"control": "steps"}, {"body": "mlp"},
    ):  # fmt: skip
        net = LOSNet(**{**SMALL, "epochs": 2, **settings}).fit(x, yes)
        assert net.decision(other.padded(6, truncate=True)).shape == (60,)
    alone = LOSNet(**{**SMALL, "epochs": 2}, inputs=("actual",)).fit(x, yes)
    changed = replace(x, top=torch.rand_like(x.top.float()).half(), rank=(x.rank + 3) % 30)
    torch.testing.assert_close(alone.decision(changed), alone.decision(x))


def test_padding_is_not_read_when_it_is_masked() -> None:
    x = drawn(40, ragged=True)
    y = torch.arange(40) % 2 == 0
    net = LOSNet(**{**SMALL, "epochs": 2}, n_max=20).fit(x, y)
    torch.testing.assert_close(net.decision(x.padded(20)), net.decision(x), atol=1e-5, rtol=1e-4)
    flat = LOSNet(**{**SMALL, "epochs": 2}, n_max=20, body="mlp").fit(x, y)
    torch.testing.assert_close(flat.decision(x.padded(20)), flat.decision(x), atol=1e-5, rtol=1e-4)


def test_the_same_seed_gives_the_same_net_and_a_second_fit_forgets_the_first() -> None:
    x, yes = planted(80)
    other, labels = planted(80, seed=4)
    a = LOSNet(**{**SMALL, "epochs": 3}).fit(x, yes).decision(other)
    twice = LOSNet(**{**SMALL, "epochs": 3}).fit(other, ~labels).fit(x, yes)
    assert torch.equal(a, twice.decision(other))
    assert not any(isinstance(v, type(x)) for v in vars(twice).values())  # no data kept


def test_a_saved_net_says_the_same_and_is_refused_on_another_model_when_that_is_asked(tmp_path: Path) -> None:
    x, yes = planted(60)
    net = LOSNet(width=16, heads=2, epochs=2).fit(replace(x, model="abc"), yes)
    save_readout(tmp_path / "net.safetensors", net)
    again = load_readout(tmp_path / "net.safetensors", model="abc")
    assert torch.equal(again.decision(x), net.decision(x))
    assert again.curve_ == tuple(net.curve_)
    with pytest.raises(ins.ModelError, match="another model"):
        load_readout(tmp_path / "net.safetensors", model="abd")
    assert torch.equal(load_readout(tmp_path / "net.safetensors").decision(x), net.decision(x))  # to transfer it
    baseline = SignatureBaseline("min_k").fit(x, yes)
    save_readout(tmp_path / "b.safetensors", baseline)
    assert torch.equal(load_readout(tmp_path / "b.safetensors").decision(x), baseline.decision(x))


def test_the_best_epoch_is_kept_and_patience_ends_the_training() -> None:
    x, yes = planted(80)
    net = LOSNet(width=16, heads=2, epochs=200, patience=3).fit(x, yes)
    assert len(net.curve_) < 200
    assert len(net.curve_) - 1 - max(range(len(net.curve_)), key=net.curve_.__getitem__) == 3


def test_baselines_learn_which_way_round_they_go() -> None:
    x = drawn(300)
    y = x.log_prob.mean(1) > x.log_prob.mean(1).median()
    for name, baseline in signature_baselines(x).items():
        score = baseline.fit(x, y).score(x, y)
        assert score >= 0.49, name
        turned = SignatureBaseline(name).fit(x, ~y).score(x, ~y)
        assert turned == pytest.approx(score, abs=1e-6)
    assert SignatureBaseline("mean_log_prob").fit(x, y).score(x, y) == 1.0
    assert SignatureBaseline("length").fit(x, y).score(x, y) == 0.5
    draws = [SignatureBaseline("mean_log_prob", control="shuffle", seed=s).fit(x, y).score(x, y) for s in range(20)]
    assert 0 <= min(draws) < 0.5 < max(draws) <= 1  # which way round is a coin toss
    interval = SignatureBaseline("min_k").fit(x, y).score(x, y, interval=True)
    assert interval.low <= interval.value <= interval.high


def test_no_group_is_on_two_sides_and_areas_are_of_folds() -> None:
    x = drawn(120)
    groups = torch.arange(120) // 4
    y = x.log_prob.mean(1) > x.log_prob.mean(1).median()
    found = cross_validated(SignatureBaseline("mean_log_prob"), x, y, groups, n_folds=4)
    assert float(found) == pytest.approx(1.0)
    assert len(found.by_fold) == 4
    part = cross_validated(SignatureBaseline("mean_log_prob"), x, y, groups, n_folds=4, tested=2)
    assert part.scores is not None
    assert 40 < int(part.scores.isnan().sum()) < 80
    assert len(part.by_fold) == 2


def test_detection_knows_chance() -> None:
    g = torch.Generator().manual_seed(0)
    labels = torch.rand(120, generator=g) < 0.5
    found = [detect(torch.rand(120, generator=g), labels, n=200, seed=s) for s in range(20)]
    assert sum(f.p <= 0.05 for f in found) <= 4
    assert sum(f.auc.low <= 0.5 <= f.auc.high for f in found) >= 16
    real = detect(labels.double() + torch.randn(120, generator=g), labels)
    assert real.p < 0.01
    assert real.auc.low > 0.5
    assert float(real) == real.auc.value
    groups = torch.arange(120) // 3
    by_group = detect(torch.rand(120, generator=g), labels, groups)
    assert by_group.auc.n_items == 40
    whole = detect(torch.rand(120, generator=g), (groups % 2 == 0), groups)  # one label a group
    assert whole.p > 0.01


def test_area_is_the_share_of_pairs() -> None:
    assert area(torch.tensor([1.0, 2.0, 2.0, 3.0]), torch.tensor([False, False, True, True])) == pytest.approx(0.875)


def test_what_cannot_be_learned_from_is_refused() -> None:
    x, yes = planted(40)
    with pytest.raises(ins.InputError, match="all labels are alike"):
        LOSNet().fit(x, torch.ones(40))
    with pytest.raises(ins.InputError, match="must be yes or no"):
        LOSNet().fit(x, torch.arange(40))
    with pytest.raises(ins.ShapeError, match="labels for 40 rows"):
        LOSNet().fit(x, yes[:-1])
    with pytest.raises(ins.NotFittedError, match="has not been fitted"):
        LOSNet().predict(x)
    with pytest.raises(ins.InputError, match="multiple of 2 x 3 heads"):
        LOSNet(width=16, heads=3).fit(x, yes)
    with pytest.raises(ins.InputError, match="'scale' or 'onehot'"):
        LOSNet(rank_encoding="log").fit(x, yes)
    with pytest.raises(ins.InputError, match="'actual' among them"):
        LOSNet(inputs=("top",)).fit(x, yes)
    with pytest.raises(ins.InputError, match="'steps'"):
        LOSNet(control="noise").fit(x, yes)
    net = LOSNet(width=16, heads=2, epochs=1).fit(x, yes)
    with pytest.raises(ins.InputError, match="has 12 steps, and 6 is the most"):
        net.decision(drawn(5))
    with pytest.raises(ins.ShapeError, match="reads 8 probabilities a step, and these keep 4"):
        net.decision(drawn(5, steps=6, k=4))
    with pytest.raises(ins.InputError, match="there is no heuristic 'luck'"):
        SignatureBaseline("luck").fit(x, yes)


@pytest.mark.parametrize("each", [1, 3])
def test_cross_validation_finds_nothing_in_noise_and_what_is_there(each: int) -> None:
    """Folds teach each other, and items of a document are alike: neither may make a p small."""
    found = []
    for seed in range(60):
        g = torch.Generator().manual_seed(seed)
        document = torch.arange(36 * each) // each
        sharp = 1 + 2 * torch.rand(36, generator=g)[document]
        scores = torch.randn(36 * each, 4, 12, generator=g) * sharp[:, None, None]
        yes = (torch.rand(36, generator=g) < 0.5)[document]
        x = signatures(scores, scores.argmax(-1))
        found.append(cross_validated(SignatureBaseline("entropy"), x, yes, document, n_folds=3, n=39, seed=seed).p)
    assert sum(p <= 0.05 for p in found) <= 7
    told = signatures(scores * (1 + 3 * yes)[:, None, None], scores.argmax(-1))
    assert cross_validated(SignatureBaseline("entropy"), told, yes, document, n_folds=3, n=199).p <= 0.05
