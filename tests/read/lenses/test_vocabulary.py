"""Statistics of scores from slabs, beside the same from whole scores."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from inscape.engine.unembed import Unembedding
from inscape.read.lenses.vocabulary import read_vocabulary


class Twice(nn.Module):
    """A head that is no single matrix."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def head(vocab: int = 50, width: int = 6, bias: bool = True, rules=(), whole: bool = False, scale: float = 1.0):
    torch.manual_seed(0)
    linear = nn.Linear(width, vocab, bias=bias)
    with torch.no_grad():
        linear.weight.normal_().mul_(scale)
    return Unembedding(nn.LayerNorm(width), Twice(linear) if whole else linear, rules, "h", vocab)


def plain(unembed, states, tokens, reference):
    """The slow obvious version."""
    scores = unembed(states).double()
    log_p, log_q = scores.log_softmax(-1), unembed(reference).double().log_softmax(-1)
    rank = (scores[..., None, :] > scores.gather(-1, tokens)[..., None]).sum(-1) + 1
    p = log_p.exp()
    return scores.logsumexp(-1), -(p * log_p).sum(-1), (p * (log_p - log_q)).sum(-1), log_p.gather(-1, tokens), rank


@given(
    seed=st.integers(0, 2**31), budget=st.sampled_from([None, 1, 700, 5000]), whole=st.booleans(), bias=st.booleans(),
    scale=st.sampled_from([0.1, 1.0, 30.0]), rules=st.sampled_from([(), (("softcap", 3.0),), (("times", 0.3),)]),
)  # fmt: skip
def test_slabs_say_what_whole_scores_say(seed, budget, whole, bias, scale, rules):
    unembed = head(bias=bias, whole=whole, scale=scale, rules=rules)
    g = torch.Generator().manual_seed(seed)
    states, ends = torch.randn(3, 7, 6, generator=g), torch.randn(7, 6, generator=g)
    tokens = torch.randint(50, (3, 7, 4), generator=g)
    found = read_vocabulary(unembed, states, k=5, tokens=tokens, reference=ends, budget=budget)
    with torch.no_grad():
        log_z, entropy, kl, asked, rank = plain(unembed, states, tokens, ends)
        best = unembed(states).topk(5)
    close = {"rtol": 1e-4, "atol": 1e-4, "check_dtype": False}
    torch.testing.assert_close(found.log_z, log_z, **close)
    torch.testing.assert_close(found.entropy, entropy, **close)
    torch.testing.assert_close(found.kl, kl, **close)
    torch.testing.assert_close(found.asked, asked, **close)
    torch.testing.assert_close(found.top_log + found.log_z[..., None], best.values, **close)
    if not rules or rules[0][0] != "softcap" or scale < 30:  # a saturated cap ties tokens
        assert torch.equal(found.rank, rank)
        assert torch.equal(found.top, best.indices)


def test_a_state_is_no_distance_from_itself():
    unembed = head(scale=5.0)
    states = torch.randn(1, 40, 6)
    assert (
        float(read_vocabulary(unembed, states, reference=states[0]).kl.max()) < 1e-5
    )  # log Z is 44 here, and a float there 4e-6 wide


def test_forbidden_tokens_count_nothing():
    """A head may forbid tokens with a score of minus infinity, even all of a slab."""
    unembed = head()
    with torch.no_grad():
        unembed.head.bias[:40] = -torch.inf
    states = torch.randn(2, 3, 6)
    found = read_vocabulary(unembed, states, k=3, tokens=torch.full((3, 1), 45), reference=states[0], budget=1)
    with torch.no_grad():
        p = unembed(states).softmax(-1)
    torch.testing.assert_close(found.entropy, -torch.special.xlogy(p, p).sum(-1), atol=1e-5, rtol=1e-5)
    assert bool((found.top >= 40).all())
    assert bool(found.kl.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_give_the_scores_of_the_head(dtype):
    unembed = head()
    unembed = Unembedding(unembed.norm.to(dtype), unembed.head.to(dtype), (), "h", 50)
    states = torch.randn(2, 9, 6).to(dtype)
    found = read_vocabulary(unembed, states, tokens=torch.arange(9)[:, None])
    with torch.no_grad():
        log_p = unembed(states).log_softmax(-1)
    torch.testing.assert_close(found.entropy, -(log_p.exp() * log_p).sum(-1), atol=1e-3, rtol=1e-3)
