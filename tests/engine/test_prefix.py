"""Going on from a cache gives what whole runs give, edits and gradients too; where it cannot, nothing is believed."""

import pytest
import torch
from torch import Tensor

import inscape as ins
from inscape.engine.prefix import Prefix
from tests.common.zoo import build

ROWS = [[5, 9, 13, 17, 20, 21], [6, 9, 13, 17, 22, 21], [5, 9, 13, 17, 20, 21, 33], [8, 3, 13, 17, 20, 21]]
FIRST, ORDER = [5, 4, 4, 5], [3, 2, 0, 1]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text", "gpt_neox", "qwen3"])
def test_rows_that_are_gone_on_from_end_as_whole_runs_do(family: str) -> None:
    model = ins.open(build(family))
    prefix = Prefix.of(model, ROWS, FIRST, batch=2)
    assert prefix is not None
    site = "layers.1.mlp.act"
    width = ins.run(model, ROWS[:1], read=site)[site].shape[-1]
    vector = torch.randn(width, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def edits(rows: list[int]) -> list[ins.Edit]:
        scale = torch.tensor([1.0 + r for r in rows])[:, None, None]
        return [ins.edit(site, lambda x: x + scale * vector, at=5)]

    made = prefix.run(ORDER, edits, grad=True)
    whole = torch.cat([_whole(model, i, edits([i])) for i in ORDER])
    torch.testing.assert_close(made, whole, atol=1e-5, rtol=1e-4)
    slope, wanted = (torch.autograd.grad(x.square().sum(), vector)[0] for x in (made, whole))
    torch.testing.assert_close(slope, wanted, atol=1e-4 * float(wanted.abs().max()), rtol=1e-4)
    plain = prefix.run(ORDER)
    torch.testing.assert_close(plain, torch.cat([_whole(model, i, []) for i in ORDER]), atol=1e-5, rtol=1e-4)
    assert float((plain - made.detach()).abs().max()) > 0.1
    assert torch.equal(prefix.run(ORDER), plain)  # what is kept was not written to


def _whole(model: ins.Model, row: int, edits: list[ins.Edit]) -> Tensor:
    return ins.run(model, ROWS[row : row + 1], edits=edits, output="last", grad=True).output.logits[:, -1]


@pytest.mark.parametrize("family", ["bert", "mamba", "t5", "jamba"])
def test_a_model_that_does_not_go_on_from_keys_and_values_is_run_as_a_whole(family: str) -> None:
    assert Prefix.of(ins.open(build(family)), ROWS, FIRST) is None


def test_where_nothing_comes_before_there_is_no_prefix() -> None:
    assert Prefix.of(ins.open(build("gpt2")), ROWS, [0, 4, 4, 5]) is None


def test_an_edit_before_the_prefix_ends_is_refused() -> None:
    prefix = Prefix.of(ins.open(build("gpt2")), ROWS, FIRST)
    assert prefix is not None
    with pytest.raises(ins.NotFiredError):
        prefix.run([0], lambda rows: [ins.edit("layers.1.mlp.act", lambda x: 0 * x, at=1)])
