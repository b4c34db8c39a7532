"""Codes of numbers: modulo something, and as a class part plus an index part."""

import pytest
import torch
from torch import Tensor

import inscape as ins
from inscape.core.errors import NotFittedError
from inscape.read.geometry.modular import ModularCode, modular_accuracy
from inscape.read.geometry.two_way import TwoWay, transfer_accuracy


def planted(
    modulus: int = 10, n: int = 100, d: int = 24, noise: float = 0.1, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Activations that are a feature of the residue, a feature of the rest, and noise."""
    g = torch.Generator().manual_seed(seed)
    features, rest = torch.randn(modulus, d, generator=g), torch.randn(n // modulus + 1, d, generator=g)
    values = torch.arange(n)
    x = features[values % modulus] + rest[values // modulus] + noise * torch.randn(n, d, generator=g)
    return x, values, features - features.mean(0)


@pytest.mark.parametrize("how", ["classes", "fourier"])
def test_a_planted_code_is_read_on_numbers_never_seen_and_its_features_are_found(how: str) -> None:
    x, values, features = planted()
    found, shuffled = modular_accuracy(x, values, ModularCode(10, how))
    assert found == 1.0
    assert shuffled < 0.3
    code = ModularCode(10, how).fit(x, values)
    cosine = torch.nn.functional.cosine_similarity(code.features_, features)
    assert float(cosine.min()) > 0.98
    assert 0.3 < code.share_ < 0.7


def test_swapping_a_feature_changes_the_residue_and_nothing_else() -> None:
    x, values, features = planted(noise=0.0)
    code = ModularCode(10).fit(x, values)
    wanted = (values + 3) % 10
    swapped = code.swapped(x, values, wanted)
    assert torch.equal(code.predict(swapped), wanted)
    expected = x + features[wanted] - features[values % 10]
    torch.testing.assert_close(swapped, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(code.swapped(swapped, wanted, values), x, atol=1e-5, rtol=1e-5)


def test_few_harmonics_read_a_circle_and_not_a_set_of_classes() -> None:
    values = torch.arange(60)
    angle = 2 * torch.pi * values / 12
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    assert ModularCode(12, "fourier", harmonics=1).fit(circle, values).share_ == pytest.approx(1.0)
    x, values, _ = planted(12, 60)
    whole = ModularCode(12, "fourier").fit(x, values).share_
    assert ModularCode(12, "fourier", harmonics=1).fit(x, values).share_ < 0.5 * whole
    assert ModularCode(12, "classes").fit(x, values).share_ == pytest.approx(whole, abs=1e-6)


def table(interaction: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    classes = torch.tensor([c for c, n in enumerate((7, 12, 20)) for _ in range(n)])
    indices = torch.tensor([i for n in (7, 12, 20) for i in range(n)])
    a, b = torch.randn(3, 16, generator=g), torch.randn(20, 16, generator=g)
    x = a[classes] + b[indices]
    return x + interaction * torch.randn(x.shape, generator=g), classes, indices


def test_additive_activations_are_decoded_from_parts_met_elsewhere() -> None:
    share, shuffled, chance = transfer_accuracy(*table())
    assert share == 1.0
    assert shuffled < 3 * chance
    assert chance == pytest.approx((7 / 7 + 12 / 12 + 12 / 20) / (7 + 12 + 12))
    fitted = TwoWay().fit(*table())
    assert fitted.share_ == pytest.approx(1.0)
    x, classes, indices = table()
    torch.testing.assert_close(fitted.predict(classes, indices), x, atol=1e-4, rtol=1e-4)


def test_a_table_without_shared_parts_is_not_decoded() -> None:
    share, _, chance = transfer_accuracy(*table(interaction=20.0))
    assert share < 4 * chance


def test_errors_say_what_is_missing() -> None:
    x, values, _ = planted()
    with pytest.raises(NotFittedError, match="has not been fitted"):
        ModularCode().predict(x)
    with pytest.raises(NotFittedError, match="has not been fitted"):
        TwoWay().predict(values, values)
    with pytest.raises(ins.InputError, match="how='sine'"):
        ModularCode(how="sine").fit(x, values)
    with pytest.raises(ins.InputError, match="harmonics=6"):
        ModularCode(10, "fourier", harmonics=6).fit(x, values)
    with pytest.raises(ins.InputError, match="with 5 of 10 residues"):
        ModularCode().fit(x[:5], values[:5])
    with pytest.raises(ins.InputError, match="too few to hold some out"):
        modular_accuracy(x[:15], values[:15], ModularCode())
    with pytest.raises(ins.InputError, match="control='none'"):
        modular_accuracy(x, values, ModularCode(), control="none")
    with pytest.raises(ins.InputError, match="control='none'"):
        transfer_accuracy(*table(), control="none")
    with pytest.raises(ins.InputError, match="class 9 was not in the data"):
        TwoWay().fit(*table()).predict(torch.tensor([9]), torch.tensor([0]))
    with pytest.raises(ins.InputError, match="none can be left out"):
        transfer_accuracy(x[:5], torch.arange(5), torch.arange(5))
