"""The tests' type checker sees wrong shapes, also in functions that are made inside others."""

import pytest
import torch
from jaxtyping import Float, jaxtyped
from torch import Tensor

from inscape.core.grid import contrast
from tests import checked


def doubled() -> object:
    @jaxtyped(typechecker=checked)
    def twice(x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return 2 * x

    return twice


def test_a_wrong_shape_or_type_is_refused_in_the_package() -> None:
    with pytest.raises(Exception, match=r"(?s)contrast.*base"):
        contrast(torch.zeros(2, 2), torch.zeros(2), "m")


def test_of_a_function_made_in_every_call_the_first_one_is_checked() -> None:
    first, second = doubled(), doubled()
    with pytest.raises(Exception, match="twice"):
        first(torch.zeros(2, 2))  # type: ignore[operator]
    assert second(torch.zeros(2, 2)).shape == (2, 2)  # type: ignore[operator]
