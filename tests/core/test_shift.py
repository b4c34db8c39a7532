"""Distribution shift: numbers known on paper, laws that hold for all logits, and agreement with the plain formulas."""

from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.core.shift import Shift, shift


def test_a_coin_that_becomes_another():
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]])
    found = shift(p.log(), q.log(), {"first": torch.tensor([0]), "any": torch.tensor([0, 1])})
    assert float(found.kl) == pytest.approx(0.5 * log(2) + 0.5 * log(2 / 3), abs=1e-6)
    assert float(found.total_variation) == pytest.approx(0.25)
    assert float(found.base_entropy) == pytest.approx(1.0)
    assert float(found.entropy) == pytest.approx(0.811278, abs=1e-5)
    assert float(found.mass["first"]) == pytest.approx(0.25)
    assert float(found.base_mass["first"]) == pytest.approx(0.5)
    assert float(found.mass["any"]) == pytest.approx(1.0)
    assert float(found.share("first")) == pytest.approx(0.25 / 1.25)
    assert float(found.share("first", base=True)) == pytest.approx(1 / 3)
    assert not bool(shift(p.log() + torch.tensor([[0.1, 0.0]]), q.log()).agreement)


def test_what_did_not_move_did_not_move_at_all():
    x = torch.randn(5, 40)
    found = shift(x, x)
    assert found.kl.tolist() == [0.0] * 5
    assert found.total_variation.tolist() == [0.0] * 5
    assert bool(found.agreement.all())
    assert torch.equal(found.entropy, found.base_entropy)


@given(seed=st.integers(0, 2**31), n=st.integers(1, 9), size=st.floats(0, 5))
def test_laws_of_any_shift(seed, n, size):
    draw = torch.Generator().manual_seed(seed)
    a, b = (size * torch.randn(n, 17, generator=draw, dtype=torch.float64) for _ in range(2))
    found = shift(a, b, {"x": torch.randint(-1, 17, (n, 3), generator=draw)}, budget=4 * 17 * 2)
    whole = torch.nn.functional.kl_div(b.log_softmax(-1), a.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(found.kl, whole, atol=1e-10, rtol=1e-8)
    assert bool((found.total_variation**2 <= found.kl / 2 + 1e-9).all()), "Pinsker"
    assert bool((found.entropy <= torch.log2(torch.tensor(17.0)) + 1e-6).all())
    torch.testing.assert_close(found.kl, shift(a + 3, b - 7).kl, atol=1e-9, rtol=1e-6)
    torch.testing.assert_close(found.entropy, shift(b, a).base_entropy)


def test_a_token_named_twice_counts_once_and_minus_one_not_at_all():
    x = torch.zeros(2, 4)
    found = shift(x, x, {"set": torch.tensor([[1, 1, 2], [3, -1, -1]])})
    assert found.mass["set"].tolist() == pytest.approx([0.5, 0.25])


def test_excluded_tokens_make_no_nan():
    a, b = torch.tensor([[0.0, 1.0, -torch.inf]]), torch.tensor([[0.0, 0.0, -torch.inf]])
    assert bool(torch.isfinite(shift(a, b).kl).all())
    assert bool(torch.isfinite(shift(a, b).entropy).all())


def test_what_became_impossible_is_infinitely_far():
    a, b = torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[0.0, 0.0, -torch.inf]])
    assert float(shift(a, b).kl) == torch.inf
    assert float(shift(b, a).kl) < 1


def test_nothing_gives_nothing():
    found = shift(torch.zeros(0, 5), torch.zeros(0, 5), {"a": torch.tensor([1])})
    assert len(found) == 0
    assert len(Shift.cat([found, found])) == 0


def test_what_cannot_be_compared_is_refused():
    x = torch.zeros(2, 4)
    with pytest.raises(ins.ShapeError, match=r"shapes \(2, 4\) and \(2, 5\)"):
        shift(x, torch.zeros(2, 5))
    with pytest.raises(ins.ShapeError, match=r"answers 'a' have shape \(3, 1\)"):
        shift(x, x, {"a": torch.zeros(3, 1)})
    with pytest.raises(ins.InputError, match="outside the vocabulary of 4"):
        shift(x, x, {"a": torch.tensor([4])})
    with pytest.raises(ins.InputError, match="no answers are called 'b'; there are 'a'"):
        shift(x, x, {"a": torch.tensor([1])}).share("b")
    with pytest.raises(ins.InputError, match="no shifts to put together"):
        Shift.cat([])
