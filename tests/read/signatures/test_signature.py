"""Signatures as values, those an API gives, and the heuristics made of them."""

import math
import zlib
from dataclasses import replace

import pytest
import torch

import inscape as ins
from inscape.read.signatures import HEURISTICS, from_logprobs, signature_baselines
from inscape.read.signatures.heuristics import min_k, min_k_plus
from tests.read.signatures.made import drawn, signatures


def test_items_are_selected_padded_and_cut() -> None:
    x = drawn(6, ragged=True)
    some = x.select([3, 1])
    assert some.lengths.tolist() == [int(x.lengths[3]), int(x.lengths[1])]
    assert some.mask.shape[1] == int(some.lengths.max())
    assert torch.equal(some.rank[0][some.mask[0]], x.rank[3][x.mask[3]])
    assert torch.equal(x.padded(20).log_prob[:, :12], x.log_prob)
    with pytest.raises(ins.InputError, match="has 12 steps, and 11 is the most"):
        drawn(6).padded(11)
    assert drawn(6).padded(11, truncate=True).lengths.tolist() == [11] * 6


def test_another_order_keeps_the_steps_of_an_item_and_only_those() -> None:
    x = drawn(20, ragged=True)
    moved = x.in_another_order(1)
    assert torch.equal(moved.mask, x.mask)
    assert not torch.equal(moved.log_prob, x.log_prob)
    for i in range(20):
        assert sorted(moved.log_prob[i][x.mask[i]].tolist()) == sorted(x.log_prob[i][x.mask[i]].tolist())
        j = int((x.log_prob[i] == moved.log_prob[i, 0]).nonzero()[0])
        assert torch.equal(moved.top[i, 0], x.top[i, j])


def test_a_constant_distribution_is_named() -> None:
    scores = torch.randn(3, 4, 10, generator=torch.Generator().manual_seed(0))
    scores[1, 2] = 0.3
    with pytest.raises(ins.InputError, match="step 2 of item 1 has a constant distribution"):
        signatures(scores, torch.zeros(3, 4, dtype=torch.long)).check_not_constant()


def test_heuristics_are_what_their_formulas_say() -> None:
    logp = torch.tensor([[-1.0, -2.0, -3.0, -4.0, -5.0], [-0.5, -0.1, 0.0, 0.0, 0.0]])
    x = drawn(2, steps=5)
    x = replace(
        x, log_prob=logp, mask=torch.tensor([[True] * 5, [True, True, False, False, False]]), texts=("aaaa", "b")
    )
    found = {name: f(x) for name, f in HEURISTICS.items()}
    assert found["mean_log_prob"].tolist() == pytest.approx([-3.0, -0.3])
    assert found["perplexity"].tolist() == pytest.approx([math.exp(3.0), math.exp(0.3)])
    assert found["min_log_prob"].tolist() == pytest.approx([-5.0, -0.5])
    assert found["max_log_prob"].tolist() == pytest.approx([-1.0, -0.1])
    assert found["length"].tolist() == [5.0, 2.0]
    assert min_k(x, 0.4).tolist() == pytest.approx([-4.5, -0.5])  # two of five; one of two, at least one
    z = (logp - x.log_mean) / x.log_std
    assert min_k_plus(x, 0.2).tolist() == pytest.approx([float(z[0].min()), float(z[1, :2].min())], rel=1e-5)
    assert found["zlib_ratio"][0] == pytest.approx(15 / len(zlib.compress(b"aaaa")))
    p = x.probabilities()[0].double()
    assert found["top_k_entropy"][0] == pytest.approx(float(-(p * p.log()).sum(-1).mean()), rel=1e-5)
    assert found["entropy"][0] == pytest.approx(float(-x.log_mean[0].mean()), rel=1e-6)
    assert bool((found["entropy"] >= found["top_k_entropy"] - 1e-3).all())
    with pytest.raises(ins.InputError, match="share=0"):
        min_k(x, 0.0)
    with pytest.raises(ins.InputError, match=r"capture\(texts=True\)"):
        HEURISTICS["zlib_ratio"](replace(x, texts=()))
    assert "zlib_ratio" not in signature_baselines(replace(x, texts=()))
    assert "zlib_ratio" in signature_baselines(x)


def test_what_an_api_gives_agrees_with_the_whole_distribution_where_it_can() -> None:
    g = torch.Generator().manual_seed(0)
    scores, came = torch.randn(10, 4, 30, generator=g) * 2, torch.randint(0, 30, (10, 4), generator=g)
    x, logp = signatures(scores, came, k=10), scores.log_softmax(-1)
    items = [
        [(float(logp[i, j, came[i, j]]), logp[i, j].topk(10).values.tolist()) for j in range(4)] for i in range(10)
    ]
    found = from_logprobs(items, 30, k=10)
    assert found.approximate
    known = found.rank >= 0
    assert torch.equal(found.rank[known], x.rank[known])
    assert bool((known == (x.rank < 10)).all())
    assert found.unknown_ranks == pytest.approx(float((~known).float().mean()))
    torch.testing.assert_close(found.mu, torch.full_like(found.mu, 1 / 30))
    torch.testing.assert_close(found.sigma, x.sigma, rtol=0.05, atol=1e-4)
    assert bool((found.log_mean <= x.log_mean + 1e-3).all())  # an even rest has the most entropy
    torch.testing.assert_close(found.log_mean, x.log_mean, rtol=0.1, atol=0.1)


def test_steps_as_chat_apis_return_them_are_read() -> None:
    step = {
        "token": " Rome", "logprob": -2.0,
        "top_logprobs": [{"token": " Paris", "logprob": -0.3}, {"token": " Rome", "logprob": -2.0}],
    }  # fmt: skip
    rare = {"token": " Ulm", "logprob": -9.0, "top_logprobs": step["top_logprobs"]}
    found = from_logprobs([[step, rare], [step]], 1000)
    assert found.rank.tolist() == [[1, -1], [1, 0]]
    assert found.mask.tolist() == [[True, True], [True, False]]
    assert found.k == 2
    assert float(found.known_ranks()[0, 1]) == pytest.approx(500.5)
    assert float(found.probabilities()[0, 0, 0]) == pytest.approx(math.exp(-0.3), rel=1e-3)


def test_what_an_api_cannot_have_given_is_refused() -> None:
    good = (-1.2, [-0.5, -1.2, -3.0])
    with pytest.raises(ins.InputError, match="there are no items"):
        from_logprobs([], 100)
    with pytest.raises(ins.InputError, match="item 1 has no steps"):
        from_logprobs([[good], []], 100)
    with pytest.raises(ins.InputError, match="fewest has 3"):
        from_logprobs([[good]], 100, k=4)
    with pytest.raises(ins.InputError, match="vocabulary of 2"):
        from_logprobs([[good]], 2)
    with pytest.raises(ins.InputError, match="add up to more than 1"):
        from_logprobs([[(-0.1, [-0.1, -0.1])]], 100)
    with pytest.raises(ins.InputError, match="above 0 or not finite"):
        from_logprobs([[(0.5, [-0.1])]], 100)
    with pytest.raises(ins.InputError, match="'logprob' and 'top_logprobs'"):
        from_logprobs([[{"token": "a"}]], 100)
