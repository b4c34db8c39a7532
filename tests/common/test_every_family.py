"""What holds for every family: found by discovery, so a new table is tested before anyone writes a test for it."""

import pytest
import torch
from torch import nn

import inscape as ins
from tests.common.small import hooks_left
from tests.common.zoo import ZOO, build, inputs_for, is_causal_text

NAMES = list(ZOO)
TEXT = [name for name in NAMES if is_causal_text(name)]
RIGHT_ONLY = {"rwkv", "recurrent_gemma"}  # padding on the left enters their recurrent state, and is refused


def outputs(value: object) -> list[torch.Tensor]:
    """Every tensor of a module's output, caches left out."""
    if isinstance(value, torch.Tensor):
        return [value]
    if hasattr(value, "items"):
        return [
            t for k, v in value.items() if "past" not in k and "cache" not in k and k != "state" for t in outputs(v)
        ]
    return [t for v in value for t in outputs(v)] if isinstance(value, (tuple, list)) else []


@pytest.mark.parametrize("name", NAMES)
def test_reading_every_site_changes_no_number(name: str) -> None:
    module, inputs = build(name), inputs_for(name)
    model = ins.open(module)
    config = getattr(module, "config", None)
    bare = call(module, inputs)  # first: some models leave hooks of transformers' own behind
    before = hooks_left(module)
    plain = ins.run(model, inputs).output
    trace = ins.run(model, inputs, read="*", output=True)
    for a, b, c in zip(outputs(plain), outputs(trace.output), outputs(bare), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    assert len(trace) == len(model.sites) > 4
    assert hooks_left(module) == before
    assert getattr(module, "config", None) is config


@pytest.mark.parametrize("name", NAMES)
def test_every_attention_block_shows_its_queries_keys_values_scores_and_pattern(name: str) -> None:
    blocks = [b for _, blocks in ins.open(build(name)).resolved.stacks for b in blocks]
    for block in blocks:
        for inner in ("attn", "cross"):
            if f"{inner}.z" in block.points:
                assert {f"{inner}.{n}" for n in ("q", "k", "v", "scores", "pattern")} <= set(block.points), block.name


def call(module: nn.Module, inputs: object) -> object:
    with torch.no_grad():
        if isinstance(inputs, dict):
            extra = {"use_cache": False} if hasattr(getattr(module, "config", None), "use_cache") else {}
            extra = extra if "use_cache" in module.forward.__code__.co_varnames or hasattr(module, "generate") else {}
            mask = inputs.get("attention_mask")
            if mask is not None and not bool(mask[:, 0].all()) and ins.open(module).family.positions == "given":
                extra["position_ids"] = (mask.cumsum(1) - 1).clamp(
                    min=0
                )  # left padding: the bare model is wrong without
            return module(**inputs, **extra)
        return module(*inputs) if isinstance(inputs, tuple) else module(inputs)


@pytest.mark.parametrize("name", TEXT)
def test_a_padded_batch_equals_its_rows_alone(name: str) -> None:
    model = ins.open(build(name))
    rows = [[5, 9, 13, 17, 21, 25, 29], [6, 10, 14, 18]]
    site = f"{prefix(model)}layers.*.resid_post"
    if name in RIGHT_ONLY:
        with pytest.raises(ins.InputError, match="recurrent state"):
            ins.run(model, rows, padding_side="left")
    for side in ("right",) if name in RIGHT_ONLY else ("left", "right"):
        batch = ins.run(model, rows, read=site, output=True, padding_side=side)
        for i, row in enumerate(rows):
            alone = ins.run(model, row, read=site, output=True)
            for found in alone:
                torch.testing.assert_close(batch[found][i][batch.mask[i]], alone[found][0], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", TEXT)
def test_edits_in_generate_equal_edits_in_the_uncached_forward(name: str) -> None:
    model = ins.open(build(name))
    rows = [[5, 9, 13, 17, 21, 25], [6, 10, 14, 18]] if name not in RIGHT_ONLY else [[5, 9, 13, 17, 21, 25]]
    p = prefix(model)
    width = ins.run(model, rows, read=f"{p}layers.1.resid_post")[f"{p}layers.1.resid_post"].shape[-1]
    vector = torch.randn(width, generator=torch.Generator().manual_seed(0))
    edits = [
        ins.add(ins.Direction(f"{p}layers.1.resid_post", vector, "random"), 0.5, at=slice(2, None)),
        ins.skip(f"{p}layers.0", at=slice(1, None)),
    ]
    got = ins.generate(model, rows, edits=edits, max_new_tokens=5, min_new_tokens=5, read=f"{p}layers.*.resid_post")
    sequences = [list(r) + t for r, t in zip(rows, got.tokens.tolist(), strict=True)]
    full = ins.run(model, sequences, edits=edits, read=f"{p}layers.*.resid_post", output=True, padding_side="left")
    chosen = full.output.logits[:, -6:-1].clone()
    eos = model.module.generation_config.eos_token_id
    if eos is not None:
        chosen[..., eos] = -torch.inf
    assert chosen.argmax(-1).tolist() == got.tokens.tolist()
    for site in full:
        torch.testing.assert_close(got.trace[site][full.mask], full[site][full.mask], atol=5e-5, rtol=1e-3)
    assert hooks_left(model.module) == 0


def prefix(model: "ins.Model") -> str:
    return next((p for p in ("text.", "decoder.") if f"{p}layers.0.resid_post" in model.sites), "")
