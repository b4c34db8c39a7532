"""Factored products, their components, composition scores and their null."""

import pytest
import torch
from torch import Tensor

import inscape as ins
from inscape.circuits import weights
from inscape.circuits.weights import Factored, HeadWeights
from tests.common.small import gpt2
from tests.common.zoo import build


def factored(d: int = 12, r: int = 3, out: int = 10, seed: int = 0) -> Factored:
    g = torch.Generator().manual_seed(seed)
    return Factored(torch.randn(d, r, generator=g), torch.randn(r, out, generator=g))


def test_a_product_of_factors_has_the_norm_svd_and_product_of_its_matrix() -> None:
    a, b = factored(), factored(10, 4, 9, seed=1)
    dense = a.left @ a.right
    assert a.norm == pytest.approx(float(dense.norm()), rel=1e-5)
    torch.testing.assert_close((a @ b).dense(), dense @ b.dense(), atol=1e-5, rtol=1e-4)
    assert (a @ b).left.shape[1] == 3
    torch.testing.assert_close(a.T.dense(), dense.T)
    strengths = torch.linalg.svdvals(dense)[:3]
    torch.testing.assert_close(a.components.strength, strengths, atol=1e-5, rtol=1e-4)
    parts = torch.stack([a.components[i].dense() for i in range(3)])
    torch.testing.assert_close(parts.sum(0), dense, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(a.components.read @ a.components.read.T, torch.eye(3), atol=1e-5, rtol=0)
    x = torch.randn(2, 12)
    torch.testing.assert_close(a.apply(x), x @ dense, atol=1e-5, rtol=1e-4)
    with pytest.raises(ins.ShapeError, match="rank 3"):
        a.components[3]


@pytest.mark.parametrize("kind", ["q", "k", "v"])
def test_scores_equal_those_of_the_dense_matrices(kind: str) -> None:
    heads = weights.heads(gpt2())
    senders, readers = heads[:4], heads[4:]
    whole = weights.composition(senders, readers, kind)
    parts = weights.composition(senders, readers, kind, level="component")
    pairs = weights.composition(senders, readers, kind, level="pair")
    for i, s in enumerate(senders):
        for j, r in enumerate(readers):
            a = s.OV.dense()
            b = {"q": r.QK, "k": r.QK.T, "v": r.OV}[kind]
            assert float(whole.scores[i, j]) == pytest.approx(_score(a, b.dense()), rel=1e-4)
            for c in (0, 7):
                one = s.OV.components[c].dense()
                assert float(parts.scores[i, c, j]) == pytest.approx(_score(one, b.dense()), rel=1e-3)
                assert float(pairs.scores[i, c, j, 2]) == pytest.approx(_score(one, b.components[2].dense()), abs=1e-5)


def _score(a: Tensor, b: Tensor) -> float:
    return float((a @ b).norm() / a.norm() / b.norm())


@pytest.mark.parametrize("null", ["rotation", "gaussian"])
def test_the_null_has_the_moments_of_senders_drawn_at_random(null: str) -> None:
    heads = weights.heads(gpt2())
    sender, reader = heads[1], heads[6]
    found = weights.composition([sender], [reader], "k", null=null)
    b, a = reader.QK.T.dense().double(), sender.OV.dense().double()
    g = torch.Generator().manual_seed(0)
    drawn = []
    for _ in range(3000):
        m = torch.randn(32, 32, generator=g, dtype=torch.float64)
        m = a @ torch.linalg.qr(m).Q if null == "rotation" else m
        drawn.append(_score(m, b) ** 2)
    square = torch.tensor(drawn)
    expected = (float(found.scores[0, 0]) ** 2 - float(square.mean())) / float(square.std())
    assert float(square.mean()) == pytest.approx(1 / 32, rel=0.02)
    assert float(found.z[0, 0]) == pytest.approx(expected, rel=0.1, abs=0.1)
    assert found.zero_line == pytest.approx(32**-0.5)


def test_a_component_that_is_read_stands_out_and_is_named() -> None:
    heads = weights.heads(gpt2())
    sender, reader = heads[2], heads[9]
    written = sender.OV.components.write[3]
    told = rewired(reader, written)
    found = weights.composition(heads[:4], [*heads[8:9], told], "k", level="component")
    link = found.top(1)[0]
    assert (link.sender, link.component, link.reader) == ("layers.0.head.2", 3, "layers.2.head.1")
    assert link.score > 0.9
    assert link.z > 10
    pair = weights.composition(heads[:4], [told], "k", level="pair").top(1)[0]
    assert (pair.sender, pair.component, pair.reader_component) == ("layers.0.head.2", 3, 0)
    assert weights.composition(heads[:4], [told], "k").top(1)[0].component == -1
    assert float(found.among_components()[2, 3, 1]) > 5
    assert "folded: LayerNorm" in found.how


def rewired(head: HeadWeights, direction: Tensor) -> HeadWeights:
    """The same head with keys that read one direction far more than anything else."""
    from dataclasses import replace

    return replace(
        head, W_K=head.W_K * 0.01 + direction[:, None] * torch.randn(8, generator=torch.Generator().manual_seed(0))
    )


def test_shuffled_heads_keep_their_entries_and_lose_what_they_compose() -> None:
    heads = weights.heads(gpt2())
    told = rewired(heads[9], heads[2].OV.components.write[3])
    mixed = weights.shuffled([*heads[:4], told], seed=1)
    torch.testing.assert_close(mixed[0].W_O.flatten().sort().values, heads[0].W_O.flatten().sort().values)
    assert not torch.equal(mixed[0].W_O, heads[0].W_O)
    before = weights.composition(heads[:4], [told], "k", level="component").top(1)[0].z
    after = weights.composition(mixed[:4], mixed[4:], "k", level="component").top(1)[0].z
    assert after < before / 2


def test_a_sender_never_composes_with_an_earlier_head_unless_asked() -> None:
    heads = weights.heads(gpt2())
    found = weights.composition(heads, heads, "v")
    assert not found.causal[:4, :4].any()
    assert found.causal[:4, 4:].all()
    assert not found.causal[8:, :8].any()
    assert found.z[5, 3].isnan()
    assert bool((weights.composition(heads, heads, "v", unordered=True).scores > 0).all())


def test_composition_refuses_what_it_cannot_compare() -> None:
    heads = weights.heads(gpt2())
    with pytest.raises(ins.InputError, match="it can be 'q', 'k', 'v'"):
        weights.composition(heads, heads, "o")
    with pytest.raises(ins.InputError, match="level='neuron'"):
        weights.composition(heads, heads, level="neuron")
    with pytest.raises(ins.InputError, match="null='none'"):
        weights.composition(heads, heads, null="none")
    with pytest.raises(ins.InputError, match="at least one sender"):
        weights.composition([], heads)
    turned = weights.heads(ins.open(build("dinov3_vit")))
    with pytest.raises(ins.ModelError, match="no QK matrix"):
        weights.composition(turned[:4], turned[4:], "k")
    with pytest.raises(ins.ShapeError, match="level='component'"):
        weights.composition(weights.heads(gpt2()), weights.heads(gpt2()), "v").among_components()
