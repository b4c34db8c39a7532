"""The loss of every next token: that of the whole output, with padding, edits and chunks."""

import pytest
import torch
from torch.nn.functional import cross_entropy

import inscape as ins
from inscape.engine.token_losses import perplexity, token_losses
from tests.common.small import gpt2
from tests.common.zoo import build, inputs_for

ROWS = [[3, 4, 5, 6, 7, 8], [9, 8, 7]]


def slow(model: "ins.Model", row: list[int], edits: object = ()) -> torch.Tensor:
    logits = ins.run(model, [row], edits=edits, output=True).output.logits[0, :-1]
    return cross_entropy(logits.float(), torch.tensor(row[1:]), reduction="none")


@pytest.mark.parametrize("whole", [True, False, None])
@pytest.mark.parametrize("edits", [(), (ins.scale("layers.1.mlp_out", 3.0),)])
def test_losses_are_those_of_the_output_and_padding_does_not_count(whole: bool | None, edits: tuple) -> None:
    model = gpt2()
    wanted = torch.cat([slow(model, row, edits) for row in ROWS])
    (padded,) = token_losses(model, [ROWS], edits=edits, whole=whole)
    torch.testing.assert_close(padded, wanted, atol=1e-4, rtol=1e-4)
    apart = token_losses(model, [[row] for row in ROWS], edits=edits, whole=whole)
    assert [len(x) for x in apart] == [5, 2]
    torch.testing.assert_close(torch.cat(apart), wanted, atol=1e-4, rtol=1e-4)
    assert perplexity(model, [ROWS], edits=edits) == pytest.approx(float(wanted.double().mean().exp()), rel=1e-4)


@pytest.mark.parametrize("family", ["gemma2", "llama", "opt"])
def test_softcaps_and_norms_are_the_models_own(family: str) -> None:
    model = ins.open(build(family))
    inputs = inputs_for(family)
    a, b = (torch.cat(token_losses(model, [inputs], whole=w)) for w in (True, None))
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_what_has_no_next_token_is_refused() -> None:
    with pytest.raises(ins.InputError, match="two tokens or more"):
        token_losses(gpt2(), [[[3]]])
    with pytest.raises(ins.ModelError, match="does not score tokens"):
        token_losses(ins.open(gpt2().module.transformer), [[3, 4]])
