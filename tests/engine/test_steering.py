"""Edits that steer, in the cached generation of many families: the tokens and streams of generation without a cache."""

import pytest
import torch

import inscape as ins
from tests.common.small import hooks_left
from tests.common.zoo import build

ROWS = [[5, 9, 13, 17, 21, 25], [6, 10, 14, 18]]
FAMILIES = ("gpt_neox", "bloom", "llama", "gemma2", "gemma3_text", "olmo2", "qwen3_moe", "deepseek_v3", "gpt_oss")


def steering(model: "ins.Model", p: str) -> "dict[str, list[ins.Edit]]":
    """By name, edits that differ from row to row, from token to token, or by what the model shows."""
    site, other = f"{p}layers.1.resid_post", f"{p}layers.0.resid_post"
    values = ins.generate(model, ROWS[:1], max_new_tokens=3, read=[site, other]).trace
    width, g = values[site].shape[-1], torch.Generator().manual_seed(0)
    v, probe = torch.randn(2, width, generator=g)
    d = ins.Direction(site, v)
    scores = (values[other] @ probe / probe.norm()).flatten().sort().values
    threshold = float(scores[len(scores) // 2 - 1 : len(scores) // 2 + 1].mean())  # between two of them
    condition = ins.Condition(ins.Direction(other, probe), threshold, at="each")
    decided = ins.Condition(ins.Direction(other, probe), threshold)
    return {
        "a schedule": [ins.add(d, ins.schedule([0.5, 0.2, -0.3], then=0.1), unit="relative")],
        "the newest two": [ins.add(d, 0.4, unit="relative", at=ins.newest(2))],
        "a turn": [ins.norm_preserving_add(d, 0.5)],
        "a map": [ins.affine(site, 1 + 0.3 * v, 0.1 * probe, 0.7, at="generated")],
        "a span": [ins.project_out([d, ins.Direction(site, probe)])],
        "by token": [ins.when(condition, ins.add(d, 0.4, unit="relative"))],
        "by row": ins.when(decided, [ins.add(d, 0.4, unit="relative"), ins.scale(f"{p}layers.1.mlp_out", 0.5)]),
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_steering_with_a_cache_is_steering_without(name: str) -> None:
    model = ins.open(build(name))
    p = next((p for p in ("text.", "decoder.") if f"{p}layers.0.resid_post" in model.sites), "")
    site = f"{p}layers.1.resid_post"
    for what, edits in steering(model, p).items():
        options = {"edits": edits, "max_new_tokens": 5, "min_new_tokens": 5, "read": site}
        one, two = (ins.generate(model, ROWS, use_cache=c, **options) for c in (True, False))
        assert one.tokens.tolist() == two.tokens.tolist(), what
        if one.trace.mask is not None:
            real = one.trace.mask
            torch.testing.assert_close(one.trace[site][real], two.trace[site][real], atol=1e-4, rtol=1e-3, msg=what)
    assert hooks_left(model.module) == 0


def test_recurrent_models_are_steered_one_row_at_a_time() -> None:
    model = ins.open(build("mamba"))
    for what, edits in steering(model, "").items():
        if what == "by row":
            continue
        options = {"edits": edits, "max_new_tokens": 5, "min_new_tokens": 5}
        one, two = (ins.generate(model, ROWS[:1], use_cache=c, **options) for c in (True, False))
        assert one.tokens.tolist() == two.tokens.tolist(), what
