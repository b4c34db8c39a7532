"""Every mistake a user makes has an error that says what was wrong, what is there and what to do."""

import subprocess
import sys

import pytest
import torch
import transformers
from PIL import Image

import inscape as ins
from tests.common.small import direction, gpt2, gpt2_module

IDS = torch.tensor([[1, 5, 9, 13, 17, 21]])
SITE = "layers.1.resid_post"


def blow_up(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[0, 2, 5] = float("nan")
    return y


CASES = {
    "unknown site": (lambda m: ins.run(m, IDS, read="layers.1.resid_pst"), ins.SiteError, "layers.1.resid_p"),
    "unknown site in a list": (lambda m: ins.run(m, IDS, read=[SITE, "layers.9.resid_post"]), ins.SiteError, "no site matches 'layers.9"),
    "unknown site in an edit": (lambda m: ins.run(m, IDS, edits=[ins.scale("mlp", 0)]), ins.SiteError, "no site matches 'mlp'"),
    "pattern that matches nothing": (lambda m: ins.run(m, IDS, read="layers.*.nothing"), ins.SiteError, "no site matches"),
    "unknown module path": (lambda m: ins.run(m, IDS, read="@transformer.h.7"), ins.SiteError, "no module 'transformer.h.7'"),
    "trace without the site": (lambda m: ins.run(m, IDS, read=SITE)["embed"], ins.SiteError, "ask for it"),
    "shape of a vector": (lambda m: ins.run(m, IDS, edits=[ins.add(direction(width=7))]), ins.ShapeError, r"shape \(7,\).*32 entries"),
    "shape an edit returns": (lambda m: ins.run(m, IDS, edits=[ins.edit(SITE, lambda x: x[:, :2])]), ins.ShapeError, r"returned shape \(1, 2, 32\); expected \(1, 6, 32\) \(batch=1, pos=6, d_model=32\)"),
    "not a tensor": (lambda m: ins.run(m, IDS, edits=[ins.edit(SITE, lambda x: None)]), ins.EditError, "returned NoneType"),
    "heads where there are none": (lambda m: ins.run(m, IDS, edits=[ins.scale(SITE, 0.0, heads=[1])]), ins.ShapeError, "heads= does not apply at layers.1.resid_post"),
    "head that is not there": (lambda m: ins.run(m, IDS, edits=[ins.scale("layers.1.attn.z", 0.0, heads=[4])]), ins.ShapeError, r"heads=\[4\] but that axis has 4"),
    "row that is not there": (lambda m: ins.run(m, IDS, edits=[ins.add(direction(), rows=[1])]), ins.ShapeError, r"rows=\[1\]"),
    "NaN": (lambda m: ins.run(m, IDS, edits=[ins.edit(SITE, blow_up)]), ins.NotFiniteError, r"made nan at layers.1.resid_post \(batch 0, pos 2, d_model 5"),
    "position that is not there": (lambda m: ins.run(m, IDS, edits=[ins.add(direction(), at=50)]), ins.NotFiredError, "at=50 were not among the tokens"),
    "position word": (lambda m: ins.add(direction(), at="ending"), ins.TokenError, "no position word"),
    "span without text": (lambda m: ins.run(m, IDS, edits=[ins.add(direction(), at=ins.span("x"))]), ins.TokenError, "needs text inputs"),
    "token outside the vocabulary": (lambda m: ins.run(m, [1, 99]), ins.TokenError, "vocabulary of 64"),
    "text without a tokenizer": (lambda m: ins.run(m, "hello"), ins.InputError, "no tokenizer"),
    "image for a text model": (lambda m: ins.run(m, Image.new("RGB", (4, 4))), ins.InputError, "reads text alone"),
    "pixel values for a text model": (lambda m: ins.run(m, {"input_ids": IDS, "pixel_values": torch.zeros(1)}), ins.InputError, "reads text alone"),
    "nothing": (lambda m: ins.run(m, []), ins.InputError, "empty"),
    "floats for token ids": (lambda m: ins.run(m, torch.zeros(1, 4)), ins.InputError, "inputs_embeds"),
    "output of another kind": (lambda m: ins.run(m, IDS, output="first"), ins.InputError, "True, False or 'last'"),
    "metric that is no number": (lambda m: ins.run(m, IDS, metric=lambda out: out.logits), ins.InputError, "one number"),
    "reduce that is unknown": (lambda m: ins.run(m, IDS, read=SITE, reduce="median"), ins.InputError, "reduce='median'"),
    "direction of length zero": (lambda m: ins.project_out(ins.Direction(SITE, torch.zeros(32))), ins.ShapeError, "points nowhere"),
    "unknown ablation": (lambda m: ins.ablate(SITE, "median"), ins.EditError, "zero, mean, resample"),
    "skip of no layer": (lambda m: ins.skip("mlp"), ins.EditError, "name a layer"),
    "unknown attention edit": (lambda m: ins.attend("layers.1", "drop"), ins.EditError, "forbid, only, cut, set, redirect"),
    "no new tokens": (lambda m: ins.generate(m, IDS, max_new_tokens=0), ins.InputError, "at least one token"),
    "prompts padded on the right": (lambda m: ins.generate(m, {"input_ids": IDS, "attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0]])}), ins.InputError, "padded on the right"),
    "chat without a template": (lambda m: ins.run(m, [{"role": "user", "content": "hi"}]), ins.InputError, "no chat template"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_the_message_says_what_is_wrong(name: str) -> None:
    call, kind, words = CASES[name]
    with pytest.raises(kind, match=words):
        call(gpt2())


WRONG_TYPES = """
import torch, inscape as ins
from tests.common.small import gpt2
for call in (
    lambda: ins.add(torch.zeros(3)),
    lambda: ins.run(gpt2(), [1, 2], edits=["layers.1"]),
    lambda: ins.scale("layers.1.mlp_out", 1.0, at=1.5),
):
    try:
        call()
    except ins.InscapeError as error:
        print(type(error).__name__, error)
"""


def test_wrong_types_are_named_where_no_type_checker_runs() -> None:
    ran = subprocess.run([sys.executable, "-c", WRONG_TYPES], capture_output=True, text=True, check=True)
    assert "EditError add takes a Direction, got Tensor" in ran.stdout
    assert "EditError edits= takes edits such as ins.add(direction); got str" in ran.stdout
    assert "TokenError at=1.5 cannot be read as positions" in ran.stdout


def test_nan_can_be_allowed() -> None:
    trace = ins.run(gpt2(), IDS, edits=[ins.edit(SITE, blow_up)], allow_nan=True)
    assert bool(trace.output.logits.isnan().any())


def test_an_edit_that_never_fires_in_editing_is_named() -> None:
    model = gpt2()
    with pytest.raises(ins.NotFiredError, match=r"never happened"), ins.editing(model, ins.add(direction(), at=90)):
        model.module(IDS)


def test_an_encoder_cannot_generate() -> None:
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50
    )
    with pytest.raises(ins.ModelError, match="cannot generate"):
        ins.generate(ins.open(transformers.BertModel(config).eval()), [1, 2])


def test_weights_on_the_meta_device_are_refused() -> None:
    with torch.device("meta"):
        module = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=16, bos_token_id=1, eos_token_id=2)
        )
    model = ins.open(module)
    assert "layers.0.resid_post" in model.sites
    with pytest.raises(ins.ModelError, match="meta device"):
        ins.run(model, [1, 2])


def test_text_for_a_model_with_another_processor_says_what_it_reads():
    with pytest.raises(ins.InputError, match=r"no tokenizer; its processor[\s\S]*pass an image"):
        ins.run(ins.open(gpt2_module(), processor=object()), "hello")
