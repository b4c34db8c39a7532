"""Direct logit attribution: a sum that is exact on every family whose stream is one."""

import pytest
import torch

import inscape as ins
from inscape.circuits.direct import direct_logits
from tests.common.small import gpt2
from tests.common.zoo import DECODER_ZOO, build

POST_NORM = {"opt_post_norm"}
OTHER = {"rwkv"}  # it rescales its stream between layers
SUMS = [n for n in DECODER_ZOO if n not in POST_NORM | OTHER]
ROWS = [[5, 9, 13, 17, 21, 25], [6, 10, 14, 18]]


@pytest.mark.parametrize("name", SUMS)
def test_the_parts_add_up_to_the_logit_difference(name: str) -> None:
    model = ins.open(build(name))
    rows = ROWS if name != "recurrent_gemma" else ROWS[:1]
    found = direct_logits(model, rows, 30, 41)
    assert found.off < 2e-5
    total = torch.stack(list(found.parts.values())).sum(0)
    torch.testing.assert_close(total, found.total, atol=1e-5, rtol=1e-4)
    if "softcap" not in found.how:
        torch.testing.assert_close(found.total, found.logits, atol=1e-4, rtol=1e-3)
    own = ins.run(model, rows, output="last").output.logits[:, -1].float()
    torch.testing.assert_close(found.logits, own[:, 30] - own[:, 41], atol=1e-5, rtol=1e-4)


def test_a_part_is_what_the_logits_lose_without_it_at_the_same_size_of_the_norm() -> None:
    model = gpt2()
    found = direct_logits(model, ROWS, 30, 41)
    x = ins.run(model, ROWS, read=["layers.2.resid_post", "layers.2.attn.head_out"], reduce="last")
    norm, head = model.module.transformer.ln_f, model.module.lm_head

    def difference(state: torch.Tensor) -> torch.Tensor:
        size = (x["layers.2.resid_post"].var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
        normed = (state - state.mean(-1, keepdim=True)) / size * norm.weight + norm.bias
        return head(normed)[:, 30] - head(normed)[:, 41]

    whole, state = difference(x["layers.2.resid_post"]), x["layers.2.resid_post"]
    for h in range(4):
        lost = whole - difference(state - x["layers.2.attn.head_out"][:, h])
        torch.testing.assert_close(found.parts[f"layers.2.head.{h}"], lost.detach(), atol=1e-5, rtol=1e-3)


def test_a_planted_part_is_found_above_its_control() -> None:
    model = gpt2()
    toward = model.module.lm_head.weight[30] - model.module.lm_head.weight[41]
    push = ins.add(ins.Direction("layers.1.mlp_out", 4 * toward.detach(), "toward the answer"))
    with ins.editing(model, [push]):
        found = direct_logits(model, ROWS, 30, 41, control="random")
    name, value, control = found.top(1)[0]
    assert name == "layers.1.mlp_out"
    assert value > 4 * control
    assert found.heads().shape == (3, 4, 2)


def test_the_shuffled_control_asks_for_another_inputs_answers() -> None:
    model = gpt2()
    found = direct_logits(model, ROWS, [30, 31], [41, 42], control="shuffle")
    swapped = direct_logits(model, ROWS, [31, 30], [42, 41], control=None)
    for name, part in swapped.parts.items():
        torch.testing.assert_close(found.control[name], part, atol=1e-6, rtol=1e-5)
    assert swapped.control is None
    alone = direct_logits(model, ROWS, 30)
    own = ins.run(model, ROWS, output="last").output.logits[:, -1]
    torch.testing.assert_close(alone.total, own[:, 30], atol=1e-4, rtol=1e-4)


def test_errors_say_why_there_is_no_sum() -> None:
    with pytest.raises(ins.ModelError, match="normalised after every addition"):
        direct_logits(ins.open(build("opt_post_norm")), ROWS, 30, 41)
    with pytest.raises(ins.ModelError, match=r"no sum of its parts|add up to logits that are off"):
        direct_logits(ins.open(build("rwkv")), ROWS[:1], 30, 41)
    with pytest.raises(ins.InputError, match="takes the answers of another input"):
        direct_logits(gpt2(), ROWS[:1], 30, 41, control="shuffle")
    with pytest.raises(ins.InputError, match="control='mean'"):
        direct_logits(gpt2(), ROWS, 30, 41, control="mean")
    with pytest.raises(ins.TokenError, match="ids from 0 to 63"):
        direct_logits(gpt2(), ROWS, 64, 41)
