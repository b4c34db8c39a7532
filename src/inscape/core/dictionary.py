"""Dictionaries: what turns an activation into many sparse latents and back."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Dictionary(Protocol):
    """A sparse autoencoder, transcoder or anything else that writes activations as sums of latents.

    site: where the activations are that `encode` takes. site_out: where those are that `decode` gives; the same of an
    autoencoder, another of a transcoder. model: fingerprint of the model, "" where it is not known.
    """

    @property
    def site(self) -> str: ...

    @property
    def site_out(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def n_latents(self) -> int: ...

    def encode(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows latent"]:
        """How much of every latent is in each activation."""
        ...

    def decode(self, latents: Float[Tensor, "*rows latent"]) -> Float[Tensor, "*rows d_out"]:
        """The activations that so much of every latent makes."""
        ...
