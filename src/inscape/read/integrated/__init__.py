"""Integrated information of small binary networks, and of sequences of activations seen as one.

| you have | you want | take |
|---|---|---|
| transition probabilities and a state | Phi, concepts, the least harmful cut | `phi3`, `phi4`, or `phi(version=)` |
| the same | the set of nodes it is largest for | `phi_max` |
| states of a layer, token by token | a network of their components | `principal_basis`, `binary_network` |
| states of a layer for many texts | Phi of each beside surrogates and means | `sequence_scores` |
| such a network | its average Phi | `mean_over_states` |
| such a network | sequences it makes | `simulated` |
| the same | cheaper measures | `multi_information`, `transfer_entropy`, `lempel_ziv` |

None of them says anything about experience. A few dozen tokens cannot fill 16 states, so noise has a positive Phi too:
put every number beside that of surrogates of equal length (`core.nulls.surrogates`).
"""

from inscape.read.integrated.average import MeanPhi, mean_over_states, phi, phi_max
from inscape.read.integrated.complexity import lempel_ziv, multi_information, transfer_entropy
from inscape.read.integrated.iit3 import Integrated3, phi3
from inscape.read.integrated.iit4 import Integrated4, phi4
from inscape.read.integrated.network import BinaryNetwork, binary_network, network_of, principal_basis, simulated
from inscape.read.integrated.sequences import sequence_scores

__all__ = [
    "BinaryNetwork",
    "Integrated3",
    "Integrated4",
    "MeanPhi",
    "binary_network",
    "lempel_ziv",
    "mean_over_states",
    "multi_information",
    "network_of",
    "phi",
    "phi3",
    "phi4",
    "phi_max",
    "principal_basis",
    "sequence_scores",
    "simulated",
    "transfer_entropy",
]
