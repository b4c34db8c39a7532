"""Scores of many sequences at once: how integrated each is, beside its surrogate and beside its plain mean."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from inscape.core.nulls.surrogates import surrogate
from inscape.core.progress import Progress, tell
from inscape.read.integrated.average import mean_over_states
from inscape.read.integrated.network import binary_network, principal_basis


def sequence_scores(
    sequences: Sequence[Float[Tensor, "_time d"]],
    n: int = 3,
    *,
    kind: str = "time",
    seed: int = 0,
    progress: Progress = None,
) -> dict[str, Float[np.ndarray, "sequence *n"]]:
    """Numbers of every sequence (the states of one layer over one text): what `compare_scores` takes.

    phi_3, phi_4: average over the states it enters; phi_3_surrogate, phi_4_surrogate: the same after `kind` has
    destroyed its dynamics; mean: that of its n components, a representation without dynamics; factorisation_error: how
    far its nodes are from independent given the past. The basis is fitted once over all sequences.
    Cost: about 0.1 s a state entered, of 8 for n = 3. Raises: as `binary_network`.
    """
    basis = principal_basis(sequences, n)
    out: dict[str, list[object]] = {}
    for index, sequence in enumerate(sequences):
        if index % 20 == 0:
            tell(progress, f"sequence {index + 1} of {len(sequences)}", index / len(sequences))
        own = binary_network(sequence, n, basis=basis)
        other = binary_network(
            sequence, n, basis=basis, surrogate=lambda x, i=index: surrogate(x, kind, seed=seed * 100_003 + i)
        )
        found: dict[str, object] = {
            "mean": ((sequence.double().cpu() - basis[0]) @ basis[1]).mean(0).tolist(),
            "factorisation_error": own.factorisation_error,
        }
        for version in ("3.0", "4.0"):
            found[f"phi_{version[0]}"] = mean_over_states(own, version=version).phi
            found[f"phi_{version[0]}_surrogate"] = mean_over_states(other, version=version).phi
        for name, value in found.items():
            out.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in out.items()}
