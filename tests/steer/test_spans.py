"""Prompts without their images: as if they had been written so, in every vision-language family, padded either way."""

import pytest
import torch

import inscape as ins
from inscape.steer.contrast import contrast_direction
from inscape.steer.spans import without_image, without_tokens
from tests.common.small import gpt2
from tests.common.zoo import build, inputs_for
from tests.common.zoo_others import IMAGE_TOKEN

VLMS = ("llava", "gemma3_vlm", "qwen2_5_vl")
PAD = 1


def padded_on(side: str, name: str) -> dict[str, torch.Tensor]:
    """The zoo's batch, in which the second row is two tokens shorter, with its padding on a side."""
    batch = dict(inputs_for(name))
    if side == "right":
        for key, value in batch.items():
            if value.shape[:2] == batch["input_ids"].shape:
                batch[key] = torch.cat([value[:1], value[1:].roll(-2, 1)])
    return batch


def alone(name: str, row: int, *, image: bool) -> dict[str, torch.Tensor]:
    """One row by itself, without padding, with or without its image."""
    batch = inputs_for(name)
    real = batch["attention_mask"][row].bool()
    keep = real if image else real & (batch["input_ids"][row] != IMAGE_TOKEN)
    out = {k: v[row][keep][None] for k, v in batch.items() if v.shape[:2] == batch["input_ids"].shape}
    if image:
        per_row = len(batch["pixel_values"]) // 2
        out["pixel_values"] = batch["pixel_values"][row * per_row : (row + 1) * per_row]
        if "image_grid_thw" in batch:
            out["image_grid_thw"] = batch["image_grid_thw"][row : row + 1]
    return out


@pytest.mark.parametrize("name", VLMS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_only_the_image_goes(name, side):
    batch = padded_on(side, name)
    got = without_image(ins.open(build(name)), batch)
    assert not (got["input_ids"] == IMAGE_TOKEN).any()
    assert not [k for k in got if k.startswith(("pixel", "image"))]
    assert set(got) == {k for k in batch if not k.startswith(("pixel", "image"))}
    for row in (0, 1):
        want = alone(name, row, image=False)["input_ids"][0]
        kept = got["attention_mask"][row].bool()
        assert got["input_ids"][row][kept].tolist() == want.tolist()
        assert bool(kept[-1 if side == "left" else 0])
        assert set(got["input_ids"][row][~kept].tolist()) <= {PAD}


@pytest.mark.parametrize("name", VLMS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_visual_direction_is_each_row_s_own_difference(name, side):
    model, batch = ins.open(build(name)), padded_on(side, name)
    sites = "text.layers.*.resid_post"
    found = contrast_direction(model, batch, without_image(model, batch), sites)
    assert len(found) == len(model.blocks)
    for site, d in found.items():
        for row in (0, 1):
            a, b = (ins.run(model, alone(name, row, image=i), read=site)[site][0, -1] for i in (True, False))
            torch.testing.assert_close(d.vector[row], a - b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", VLMS)
def test_rows_with_their_own_vectors_generate_as_one_by_one(name):
    model, batch = ins.open(build(name)), inputs_for(name)
    found = contrast_direction(model, batch, without_image(model, batch), "text.layers.*.resid_post").moved("mlp_out")
    options = {"max_new_tokens": 4, "eos_token_id": None, "pad_token_id": PAD}
    edits = ins.norm_preserving_add(found, 0.4)
    together = ins.generate(model, batch, edits=edits, read="text.layers.1.mlp_out", **options)
    plain = ins.generate(model, batch, **options)
    assert plain.tokens.shape == together.tokens.shape
    for row in (0, 1):
        own = ins.Directions.of(
            *(ins.Direction(s, d.vector[row : row + 1], d.source, d.model) for s, d in found.items())
        )
        one = ins.generate(model, alone(name, row, image=True), edits=ins.norm_preserving_add(own, 0.4),
                           read="text.layers.1.mlp_out", **options)  # fmt: skip
        assert one.tokens[0].tolist() == together.tokens[row].tolist()
        x, y = one.trace["text.layers.1.mlp_out"][0], together.trace["text.layers.1.mlp_out"][row]
        torch.testing.assert_close(x, y[-len(x) :], rtol=1e-3, atol=1e-4)


def test_a_stretch_of_tokens_can_go_from_texts_of_any_length():
    model = gpt2()
    got = without_tokens(model, [[9, 8, 7, 1, 2], [30, 3, 4]], (0, 2))
    want = [[7, 1, 2], [4]]
    assert [
        row[mask.bool()].tolist() for row, mask in zip(got["input_ids"], got["attention_mask"], strict=True)
    ] == want
    a, b = (ins.run(model, x, read="layers.1.resid_post", reduce="last")["layers.1.resid_post"] for x in (got, want))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    last = without_tokens(model, {"input_ids": [[9, 8, 7]], "labels": [[1, 2, 3]]}, slice(-1, None))
    assert (last["input_ids"].tolist(), last["labels"].tolist()) == ([[9, 8]], [[1, 2]])


def test_directions_move_to_another_site_and_layer():
    d = ins.Direction("text.layers.2.resid_post", torch.ones(3), "one", "m")
    moved = ins.Directions.of(d).moved("mlp_out", 2)["text.layers.4.mlp_out"]
    assert (moved.vector.tolist(), moved.source, moved.model) == ([1, 1, 1], "one", "m")
    assert ins.Directions.of(d).moved().sites == ("text.layers.2.resid_post",)
    with pytest.raises(ins.SiteError, match="cannot go 3 layers back"):
        ins.Directions.of(d).moved(layers=-3)
    with pytest.raises(ins.SiteError, match="'embed' is in no layer"):
        ins.Directions.of(ins.Direction("embed", torch.ones(3))).moved("mlp_out")


LLAVA_IDS = torch.tensor([[5, IMAGE_TOKEN, 6], [5, 6, 7]])


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m: without_image(gpt2(), {"input_ids": [[1]]}), ins.InputError, "has no token that stands for an im"),
        (lambda m: without_image(m, {"input_ids": LLAVA_IDS}), ins.InputError, "row 1 has no image tokens .id 90"),
        (lambda m: without_image(m, {"input_ids": LLAVA_IDS[:1, 1:2]}), ins.InputError, "row 0 would be empty"),
        (lambda m: without_image(m, {"pixel_values": 1}), ins.InputError, "got dict with pixel_values"),
        (lambda m: without_image(m, "a"), ins.InputError, "a dict with input_ids, as a processor makes it; got str."),
        (lambda m: without_image(m, {"input_ids": [1, 2]}), ins.ShapeError, r"shape \[batch, pos\]; got \(2,\)"),
        (lambda m: without_tokens(m, {"input_ids": [[1, 2]]}, (5, 9)), ins.InputError, "nothing is left out"),
        (lambda m: without_tokens(m, {"input_ids": [[1, 2]]}, torch.ones(1, 3).bool()), ins.ShapeError, r"is \(1, 3\)"),
        (lambda m: without_tokens(m, torch.rand(1, 3, 16, 16), (0, 1)), ins.InputError, "have no tokens|reads token"),
    ],
)  # fmt: skip
def test_what_cannot_be_left_out_is_refused(call, error, says):
    with pytest.raises(error, match=says):
        call(ins.open(build("llava")))
