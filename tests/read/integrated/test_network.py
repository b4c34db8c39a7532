"""From activations to a network: planted dynamics are found, and what destroys them is seen."""

import numpy as np
import pytest
import torch

from inscape.core.errors import InputError, ShapeError
from inscape.core.nulls import surrogate
from inscape.read.integrated import (
    binary_network,
    lempel_ziv,
    mean_over_states,
    multi_information,
    network_of,
    principal_basis,
    simulated,
    transfer_entropy,
)
from inscape.read.integrated.causal import states_of

RING = np.stack([states_of(3)[:, 2], states_of(3)[:, 0], states_of(3)[:, 1]], 1).astype(float)
ALONE = states_of(3).astype(float)


def test_the_network_of_a_long_sequence_is_the_one_that_made_it():
    tpm = np.random.default_rng(3).random((8, 3))
    found = network_of([simulated(tpm, 60_000, seed=1)], 3)
    np.testing.assert_allclose(found.tpm, tpm, atol=0.02)
    assert found.factorisation_error < 0.03
    assert not found.guessed.any()


def test_binarised_activations_give_back_the_states():
    states = simulated(RING, 400, noise=0.05, seed=2)
    rows = torch.tensor(states_of(3)[states] * 2.0 - 1)
    mean, basis = torch.zeros(3), torch.eye(3)
    found = binary_network(rows, 3, basis=(mean, basis), threshold=torch.zeros(3))
    np.testing.assert_array_equal(found.sequences[0], states)
    np.testing.assert_array_equal(found.tpm, network_of([states], 3).tpm)


def test_coupled_nodes_have_more_phi_than_lone_ones_and_a_shuffle_of_time_takes_it():
    values = {name: [] for name in ("ring", "alone", "shuffled")}
    for seed in range(2):
        ring, alone = simulated(RING, 80, noise=0.05, seed=seed), simulated(ALONE, 80, noise=0.3, seed=seed + 100)
        order = np.random.default_rng(seed).permutation(len(ring))
        for name, states in (("ring", ring), ("alone", alone), ("shuffled", ring[order])):
            values[name].append(mean_over_states(network_of([states], 3)).phi)
    assert min(values["ring"]) > max(values["alone"])
    assert min(values["ring"]) > max(values["shuffled"])


def test_sequences_are_not_joined_at_their_ends():
    found = network_of([np.array([0, 0, 0]), np.array([3, 3, 3])], 2)
    assert found.visits.tolist() == [2, 0, 0, 2]
    assert found.came.tolist() == [2, 0, 0, 2]
    assert found.guessed.tolist() == [False, True, True, False]
    np.testing.assert_array_equal(found.tpm[1], [0.5, 0.5])


def test_cheaper_measures_of_known_sequences():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2, 20_000)
    copied = network_of([first | (np.roll(first, 1) << 1)], 2)  # node 1 says what node 0 said a step before
    assert transfer_entropy(copied) == pytest.approx(0.5, abs=0.01)  # 1 bit one way, none the other
    assert multi_information(copied) == pytest.approx(0.0, abs=0.01)
    both = network_of([first * 3], 2)
    assert multi_information(both) == pytest.approx(1.0, abs=0.01)
    assert lempel_ziv(network_of([first[:4000]], 1)) == pytest.approx(1.0, abs=0.1)
    assert lempel_ziv(network_of([np.tile([0, 1], 2000)], 1)) < 0.02


def test_surrogates_keep_what_they_say():
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)).cumsum(0).double()
    for kind in ("time", "phase", "units"):
        y = surrogate(x, kind, seed=1)
        assert y.shape == x.shape
        assert not torch.equal(y, x)
        assert torch.equal(y, surrogate(x, kind, seed=1))
    assert torch.equal(surrogate(x, "time").sort(0).values, x.sort(0).values)
    assert torch.equal(surrogate(x, "units").sort(0).values, x.sort(0).values)
    spectra = [torch.fft.rfft(z, dim=0).abs() for z in (x, surrogate(x, "phase"))]
    torch.testing.assert_close(*spectra)
    torch.testing.assert_close(surrogate(x, "phase").T @ surrogate(x, "phase"), x.T @ x)  # and cross-spectra
    with pytest.raises(InputError, match="'time', 'phase', 'units'"):
        surrogate(x, "space")
    with pytest.raises(ShapeError, match="two rows or more"):
        surrogate(x[:1], "time")


def test_a_basis_is_the_same_for_every_text():
    texts = [torch.randn(20, 6, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    mean, basis = principal_basis(texts, 3)
    torch.testing.assert_close(basis.T @ basis, torch.eye(3, dtype=torch.float64))
    pooled = torch.cat(texts).double()
    variance = ((pooled - mean) @ basis).var(0)
    assert variance[0] >= variance[1] >= variance[2]
    one = binary_network(texts[0].bfloat16(), 3, basis=(mean, basis))
    assert one.n == 3
    assert int(one.visits.sum()) == 19


def test_errors_say_what_is_wrong():
    x = torch.randn(10, 4)
    with pytest.raises(InputError, match="1 to 5"):
        binary_network(x, 6)
    with pytest.raises(InputError, match="NaN or infinity"):
        binary_network(torch.full((5, 4), float("nan")), 2)
    with pytest.raises(ShapeError, match="two rows or more"):
        binary_network(x[:1], 2)
    with pytest.raises(InputError, match="more than 4 rows"):
        principal_basis(x[:3], 4)
    with pytest.raises(InputError, match="'median'"):
        binary_network(x, 2, threshold="mode")
