"""Integrated information against published values, another implementation, and what has to be 0."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inscape.core.errors import InputError, ShapeError
from inscape.read.integrated import network_of, phi, phi3, phi4, phi_max
from inscape.read.integrated.causal import joint_of, states_of

OR_COPY_XOR = [[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1], [1, 1, 0]]
OR_AND_XOR = [[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 0], [1, 0, 0], [1, 1, 1], [1, 0, 1], [1, 1, 0]]
THREE_XOR = [[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1], [0, 0, 0]]
RULE_110 = [[0, 0, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1], [0, 1, 1], [1, 1, 1], [1, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("tpm", "state", "value"),
    [
        (OR_AND_XOR, (1, 0, 0), 23 / 12),  # Oizumi et al. 2014, figure 12 (1.92)
        (OR_COPY_XOR, (1, 0, 0), 2.3125),  # PyPhi's example of three gates
        (THREE_XOR, (0, 0, 0), 1.875),  # PyPhi's example of three parities
        (RULE_110, (1, 0, 1), 1.100015),  # PyPhi's cellular automaton, printed to six digits
    ],
)
def test_phi_3_of_published_networks(tpm, state, value):
    assert phi3(tpm, state).phi == pytest.approx(value, abs=2e-6)


def test_the_concepts_of_the_published_network():
    found = phi3(OR_AND_XOR, (1, 0, 0))  # figure 8: A, B, C, AB, BC, ABC with these phi
    assert {c.mechanism: round(c.phi, 2) for c in found.concepts} == {
        (0,): 0.17, (1,): 0.17, (2,): 0.25, (0, 1): 0.25, (1, 2): 0.33, (0, 1, 2): 0.5,
    }  # fmt: skip
    assert found.information == pytest.approx(2.11, abs=0.005)  # figure 10
    assert found.cut == ((0, 1), (2,))  # figure 12: AB is cut from C


@pytest.mark.parametrize(
    ("tpm", "state", "value", "distinctions"),
    [
        (OR_COPY_XOR, (1, 0, 0), np.log2(4 / 3), {(1,): 0.5, (2,): 0.5}),
        (THREE_XOR, (0, 0, 0), 1.5, {(0, 1): 0.5, (0, 2): 0.5, (1, 2): 0.5, (0, 1, 2): 1.0}),
        (
            RULE_110,
            (1, 0, 1),
            0,
            {(0,): 0.27123, (2,): 0.27123, (0, 1): 0.41504, (1, 2): 0.41504, (0, 1, 2): 0.41504},
        ),
    ],
)
def test_phi_4_of_published_networks(tpm, state, value, distinctions):
    found = phi4(tpm, state)
    assert found.phi == pytest.approx(value, abs=1e-9)
    assert {d.mechanism: pytest.approx(d.phi, abs=1e-5) for d in found.distinctions} == distinctions


@pytest.mark.parametrize("case", json.loads((Path(__file__).parent / "pyphi_values.json").read_text()))
def test_random_networks_have_the_phi_that_pyphi_computes(case):
    if case["phi_3"] is not None:  # PyPhi of mid 2026, Python 3.13; it rounds to six digits
        assert phi3(case["tpm"], case["state"]).phi == pytest.approx(case["phi_3"], abs=3e-6)
    found = phi4(case["tpm"], case["state"])
    assert found.phi == pytest.approx(case["phi_4"], abs=1e-9)
    assert {d.mechanism: d.phi for d in found.distinctions} == pytest.approx(
        {tuple(m): value for m, value in case["distinctions_4"]}, abs=1e-9
    )


@pytest.mark.parametrize("version", ["3.0", "4.0"])
def test_networks_without_integration_have_none(version):
    copies = states_of(3)  # every node keeps its own value: three networks side by side
    chain = np.stack([np.full(8, 0.5), states_of(3)[:, 0], states_of(3)[:, 1]], 1)  # noise, then two copies of it
    noise = np.full((8, 3), 0.5)
    for tpm in (copies, chain, noise):
        assert phi(tpm, (1, 1, 1), version=version).phi == 0


@pytest.mark.parametrize("version", ["3.0", "4.0"])
@given(seed=st.integers(0, 2**31), order=st.permutations(range(3)), flipped=st.integers(0, 7))
@settings(max_examples=4, deadline=None)
def test_names_and_labels_of_nodes_do_not_matter(version, seed, order, flipped):
    tpm, state = np.random.default_rng(seed).random((8, 3)), (1, 0, 1)
    bits = states_of(3)
    flip = bits[flipped]
    # Node i of the other network is node order[i] of this one, with on and off exchanged where `flip` says so.
    theirs = (bits ^ flip)[:, np.argsort(order)] @ (2 ** np.arange(3))
    other = np.abs(tpm[theirs][:, list(order)] - flip)
    renamed = tuple(int(state[o] ^ f) for o, f in zip(order, flip, strict=True))
    here, there = phi(tpm, state, version=version), phi(other, renamed, version=version)
    assert there.phi == pytest.approx(here.phi, abs=1e-9)


def test_phi_max_leaves_out_a_node_that_only_watches():
    pair = np.stack([states_of(3)[:, 1], states_of(3)[:, 0], states_of(3)[:, 0]], 1)  # A and B exchange, C copies A
    found = phi_max(pair, (1, 0, 0))
    assert found.nodes == (0, 1)
    assert found.phi > 0
    assert phi3(pair, (1, 0, 0)).phi == 0


def test_a_state_by_state_table_gives_the_same():
    by_state = joint_of(np.array(OR_COPY_XOR, float))
    assert phi3(by_state, (1, 0, 0)).phi == pytest.approx(2.3125)


def test_errors_say_what_is_wrong():
    with pytest.raises(InputError, match="6 nodes: an exact search goes up to 5"):
        phi3(np.full((64, 6), 0.5), (0,) * 6)
    with pytest.raises(InputError, match="no state leads to"):
        phi3(np.zeros((8, 3)), (1, 1, 1))
    with pytest.raises(InputError, match="between 0 and 1"):
        phi3(np.full((8, 3), 2.0), (0, 0, 0))
    with pytest.raises(ShapeError, match=r"\[2\^n, n\]"):
        phi3(np.full((7, 3), 0.5), (0, 0, 0))
    with pytest.raises(InputError, match="not independent given the past"):
        phi3([[0.5, 0, 0, 0.5]] * 4, (0, 0))
    with pytest.raises(InputError, match="the state of 3 nodes"):
        phi4(np.full((8, 3), 0.5), (0, 2, 0))
    with pytest.raises(InputError, match=r"there are '3\.0'"):
        phi(OR_COPY_XOR, (1, 0, 0), version="2.0")
    with pytest.raises(InputError, match="two rows one after the other"):
        network_of([np.array([1])], 2)
