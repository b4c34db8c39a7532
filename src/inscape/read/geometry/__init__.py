"""What one set of activations looks like: directions, dimensions, distances, and graphs they may follow.

| you want | take |
|---|---|
| how many directions vary, and how evenly (participation ratio, RankMe, stable rank, power law) | `spectrum` |
| how many directions one can move in, in sets that bend too | `two_nn` |
| do all rows point the same way | `anisotropy` |
| do two subspaces share directions | `subspace_angles` |
| which units are distributed otherwise in two sets | `wasserstein` |
| do classes lie apart | `class_separation` |
| do vectors lie as the nodes of a graph, a ring, a grid, time | `dirichlet_energy`, `spectral_embedding`, `alignment` |
| what each layer adds to the stream, its size and direction | `updates.updates`, `updates.contributions` |
| codes of numbers modulo something | `modular.ModularCode`, `modular.modular_accuracy` |
| a class part plus an index part | `two_way.TwoWay`, `two_way.transfer_accuracy` |

Two sets of the same items (layers, models) are compared in `inscape.read.similarity`.
"""

from inscape.read.geometry.angles import SubspaceAngles, subspace_angles
from inscape.read.geometry.anisotropy import Anisotropy, anisotropy
from inscape.read.geometry.dimension import TwoNN, two_nn
from inscape.read.geometry.graph import (
    Alignment,
    DirichletEnergy,
    SpectralEmbedding,
    alignment,
    dirichlet_energy,
    spectral_embedding,
)
from inscape.read.geometry.separation import Separation, class_separation
from inscape.read.geometry.spectrum import Spectrum, spectrum
from inscape.read.geometry.wasserstein import UnitDistances, wasserstein

__all__ = [
    "Alignment",
    "Anisotropy",
    "DirichletEnergy",
    "Separation",
    "SpectralEmbedding",
    "Spectrum",
    "SubspaceAngles",
    "TwoNN",
    "UnitDistances",
    "alignment",
    "anisotropy",
    "class_separation",
    "dirichlet_energy",
    "spectral_embedding",
    "spectrum",
    "subspace_angles",
    "two_nn",
    "wasserstein",
]
