"""Encoders and decoders have tokens of their own: each is recorded with its own, and never with the other's."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import inscape as ins
from tests.common.zoo import build
from tests.common.zoo_others import SEQ2SEQ, jittered
from tests.store.words import WORDS, tokenizer

PAIRS = [([5, 6, 7, 8, 9], [2, 10, 11]), ([12, 13], [2, 14, 15, 16, 17]), ([20, 21, 22], [2])]
ENCODER, DECODER = "encoder.layers.1.resid_post", "decoder.layers.1.resid_post"


def dicts() -> list[dict[str, Any]]:
    return [{"input_ids": a, "decoder_input_ids": b, "label": i} for i, (a, b) in enumerate(PAIRS)]


def alone(model: "ins.Model", source: list[int], target: list[int], site: str) -> torch.Tensor:
    return ins.run(model, {"input_ids": [source], "decoder_input_ids": [target]}, read=site)[site][0]


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_a_decoder_is_recorded_with_its_own_tokens(tmp_path: Path, name: str) -> None:
    model = ins.open(build(name))
    sites = [DECODER, "decoder.layers.0.cross.z", "decoder.layers.2.mlp.act"]
    store = ins.record(model, dicts(), sites, tmp_path / "s")
    for i, (source, target) in enumerate(PAIRS):
        mine = store.of(i)
        assert mine["token"].tolist() == target
        assert mine["pos"].tolist() == list(range(len(target)))
        for site in sites:
            torch.testing.assert_close(mine[site], alone(model, source, target, site), atol=1e-4, rtol=1e-4)
    assert store.samples()[1] == {"sample": 1, "tokens": 5, "label": 1}
    pairs = ins.record(model, PAIRS, sites, tmp_path / "p")
    assert torch.equal(pairs[DECODER][:], store[DECODER][:])


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_an_encoder_is_recorded_with_its_tokens_with_or_without_a_decoder_beside(tmp_path: Path, name: str) -> None:
    model = ins.open(build(name))
    store = ins.record(model, dicts(), ENCODER, tmp_path / "s")
    without = ins.record(model, [a for a, _ in PAIRS], ENCODER, tmp_path / "t")
    for i, (source, target) in enumerate(PAIRS):
        assert store.of(i)["token"].tolist() == without.of(i)["token"].tolist() == source
        for mine in (store, without):
            torch.testing.assert_close(mine.of(i)[ENCODER], alone(model, source, target, ENCODER), atol=1e-4, rtol=1e-4)


def test_keys_of_cross_attention_stand_at_the_tokens_of_the_encoder(tmp_path: Path) -> None:
    model, site = ins.open(build("bart")), "decoder.layers.0.cross.k"
    store = ins.record(model, dicts(), [site, ENCODER], tmp_path / "s")
    for i, (source, target) in enumerate(PAIRS):
        assert store.of(i)["token"].tolist() == source
        torch.testing.assert_close(store.of(i)[site], alone(model, source, target, site), atol=1e-4, rtol=1e-4)
    with pytest.raises(ins.InputError, match=r"need what the decoder reads.*\n.*decoder_input_ids"):
        ins.record(model, [a for a, _ in PAIRS], [site], tmp_path / "t")


def test_both_stacks_are_two_records_and_a_decoder_without_tokens_is_refused(tmp_path: Path) -> None:
    model = ins.open(build("t5"))
    with pytest.raises(ins.InputError, match=r"have positions of their own each.*\n.*make two records, in two folders"):
        ins.record(model, dicts(), [ENCODER, DECODER], tmp_path / "s")
    for site in (DECODER, "logits"):
        with pytest.raises(ins.InputError, match=r"need what the decoder reads.*\n.*decoder_text"):
            ins.record(model, [a for a, _ in PAIRS], site, tmp_path / "s")
    with pytest.raises(ins.TokenError, match="outside this model's vocabulary of 99"):
        ins.record(model, [{"input_ids": [5], "decoder_input_ids": [0, 400]}], DECODER, tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(("name", "start"), [("t5", 0), ("bart", 2)])
def test_a_decoder_text_is_read_as_in_training(tmp_path: Path, name: str, start: int) -> None:
    module = copy.deepcopy(build(name))
    model = ins.open(module, tokenizer=tokenizer(ends=True, starts=name == "bart"))
    module.generation_config.eos_token_id = module.config.eos_token_id = 2  # the tokenizer's own
    records = [
        {"document": "the ferry leaves", "decoder_text": "at seven", "kind": "a"},
        {"document": "nobody minds", "decoder_text": "", "kind": "b"},
    ]
    store = ins.record(model, records, DECODER, tmp_path / "s", field="document")
    begins = [start, 1] if name == "bart" else [start]
    assert store.of(0)["token"].tolist() == [*begins, WORDS.index("at"), WORDS.index("seven")]
    assert store.of(1)["token"].tolist()[:1] == [start]
    labels = torch.tensor([model.tokenizer("at seven")["input_ids"]])
    with torch.no_grad():
        trained = module(input_ids=torch.tensor([model.tokenizer("the ferry leaves")["input_ids"]]), labels=labels)
    logits = ins.record(model, records, "logits", tmp_path / "l", field="document").of(0)["logits"]
    torch.testing.assert_close(logits, trained.logits[0, : len(logits)], atol=1e-4, rtol=1e-4)
    assert store.samples()[0] == {
        "sample": 0, "tokens": len(begins) + 2, "kind": "a", "text": "the ferry leaves", "decoder_text": "at seven",
    }  # fmt: skip


def test_spans_and_cuts_are_those_of_the_recorded_stack(tmp_path: Path) -> None:
    model = ins.open(build("t5"), tokenizer=tokenizer(ends=True))
    pairs = [("the ferry leaves at seven", "nobody minds seven"), ("seven", "the seven ferry")]
    store = ins.record(model, pairs, DECODER, tmp_path / "s", reduce=ins.span("seven"))
    assert store["token"][:].tolist() == [WORDS.index("seven")] * 2
    assert store["pos"][:].tolist() == [3, 2]
    short = ins.record(model, pairs, DECODER, tmp_path / "t", max_length=2)
    assert [s["tokens"] for s in short.samples()] == [2, 2]
    named = [{"a": s, "b": t} for s, t in pairs]
    again = ins.record(model, named, DECODER, tmp_path / "u", field=("a", "b"), reduce=ins.span("seven"))
    assert torch.equal(again[DECODER][:], store[DECODER][:])
    with pytest.raises(ins.InputError, match="no field 'c'; it has a, b"):
        ins.record(model, named, DECODER, tmp_path / "v", field=("a", "c"))


def test_sound_has_a_decoder_too(tmp_path: Path) -> None:
    model = ins.open(build("whisper"))
    sounds = torch.randn(3, 8, 24, generator=torch.Generator().manual_seed(0))
    targets = [[2, 5, 6, 7], [2, 8], [2, 9, 10]]
    samples = [
        {"input_features": x, "decoder_input_ids": t, "speaker": "a"} for x, t in zip(sounds, targets, strict=True)
    ]
    store = ins.record(model, samples, DECODER, tmp_path / "s", batch_rows=2)
    for i, target in enumerate(targets):
        inputs = {"input_features": sounds[i : i + 1], "decoder_input_ids": torch.tensor([target])}
        torch.testing.assert_close(
            store.of(i)[DECODER], ins.run(model, inputs, read=DECODER)[DECODER][0], atol=1e-4, rtol=1e-4
        )
        assert store.of(i)["token"].tolist() == target
    assert store.samples()[2] == {"sample": 2, "tokens": 3, "speaker": "a"}
    heard = ins.record(model, samples, ENCODER, tmp_path / "e", reduce="mean")
    assert heard[ENCODER].shape == (3, 32)
    assert heard["token"][:].tolist() == [-1] * 3


def test_a_decoder_alone_is_recorded_by_its_only_tokens(tmp_path: Path) -> None:
    config = transformers.BartConfig(**SEQ2SEQ, max_position_embeddings=40)
    model = ins.open(jittered(lambda: transformers.BartForCausalLM(config)))
    rows = [[2, 5, 6, 7], [2, 8]]
    store = ins.record(model, rows, DECODER, tmp_path / "s")
    for i, row in enumerate(rows):
        mine = store.of(i)
        assert mine["token"].tolist() == row
        torch.testing.assert_close(mine[DECODER], ins.run(model, [row], read=DECODER)[DECODER][0], atol=1e-4, rtol=1e-4)
    zeroed = ins.run(model, rows, read=DECODER, edits=[ins.replace(DECODER, 0.0, at=-1)], padding_side="right")[DECODER]
    assert (zeroed.abs().sum(-1) == 0).tolist() == [[False, False, False, True], [False, True, False, False]]


def test_positions_of_edits_are_the_decoders_without_an_encoders_mask() -> None:
    model = ins.open(build("whisper"))
    sound = torch.randn(2, 8, 24, generator=torch.Generator().manual_seed(0))
    inputs = {
        "input_features": sound, "decoder_input_ids": torch.tensor([[2, 5, 6, 7], [2, 8, 1, 1]]),
        "decoder_attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
    }  # fmt: skip
    zeroed = ins.run(model, inputs, read=DECODER, edits=[ins.replace(DECODER, 0.0, at=-1)])[DECODER]
    assert (zeroed.abs().sum(-1) == 0).tolist() == [[False, False, False, True], [False, True, False, False]]
