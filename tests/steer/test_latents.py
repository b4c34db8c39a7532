"""A latent of a dictionary as a direction: the decoder's row, whatever class the dictionary is of."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import inscape as ins
from inscape.core.dictionary import Dictionary
from inscape.core.errors import InputError, ShapeError
from inscape.steer.latents import latent_direction
from tests.common.small import gpt2

IDS = torch.tensor([[1, 5, 9, 13, 17, 21]])


@dataclass
class Sparse:
    """An autoencoder as a user would bring it."""

    w: Tensor
    site: str = "layers.1.resid_post"
    site_out: str = "layers.1.resid_post"
    model: str = ""
    power: float = 1.0

    @property
    def n_latents(self) -> int:
        return len(self.w)

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.w.T).relu()

    def decode(self, latents: Tensor) -> Tensor:
        return latents**self.power @ self.w + 0.5


def made(**about: object) -> Sparse:
    return Sparse(torch.randn(100, 32, generator=torch.Generator().manual_seed(0)), **about)  # type: ignore[arg-type]


def test_it_is_the_decoders_row_and_adding_it_is_decoding_more_of_the_latent() -> None:
    sparse, model = made(), gpt2()
    assert isinstance(sparse, Dictionary)
    direction = latent_direction(sparse, 7)
    torch.testing.assert_close(direction.vector, sparse.w[7], atol=1e-5, rtol=1e-5)
    site = sparse.site
    plain = ins.run(model, IDS, read=site)[site]
    steered = ins.run(model, IDS, read=site, edits=[ins.add(direction, 3.0)])[site]
    latents = torch.zeros(1, 6, 100)
    more = latents.clone()
    more[..., 7] = 3
    torch.testing.assert_close(steered - plain, sparse.decode(more) - sparse.decode(latents), atol=1e-4, rtol=1e-4)


def test_a_transcoders_latent_stands_where_it_writes() -> None:
    direction = latent_direction(made(site="layers.1.mlp.in", site_out="layers.1.mlp_out", model="abc"), 0)
    assert (direction.site, direction.model) == ("layers.1.mlp_out", "abc")


def test_what_is_no_direction_is_refused() -> None:
    dead = made()
    dead.w[3] = 0
    with pytest.raises(ShapeError, match="latent 3 is decoded to nothing: it is dead"):
        latent_direction(dead, 3)
    for latent in (100, -1, True):
        with pytest.raises(InputError, match="this dictionary has latents 0 to 99"):
            latent_direction(dead, latent)
    with pytest.raises(InputError, match="this decoder has no row for it"):
        latent_direction(made(power=2.0), 0)
