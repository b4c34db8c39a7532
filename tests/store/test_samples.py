"""What a sample may be: empty, a chat, a tokenizer's dict, with labels; all of them in batches of like length."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import inscape as ins
from inscape.store.bucket import batches_of
from inscape.store.check import verify
from inscape.store.items import items_of
from tests.common.small import gpt2, gpt2_module
from tests.common.zoo import build, inputs_for
from tests.store.test_record import SITES, data, same
from tests.store.words import WORDS, tokenizer

TEXTS = ["the ferry leaves", "", "nobody minds the ferry at seven", "seven", ""]


def speaking() -> "ins.Model":
    return ins.open(gpt2_module(), tokenizer=tokenizer())


@pytest.mark.parametrize("reduce", [None, "mean", "last", slice(None, None, 2)])
def test_an_empty_text_gives_no_row_and_stops_nothing(tmp_path: Path, reduce: Any) -> None:
    model = speaking()
    store = ins.record(model, TEXTS, SITES, tmp_path / "s", reduce=reduce, unit_samples=2)
    full = ins.record(model, [t for t in TEXTS if t], SITES, tmp_path / "t", reduce=reduce, unit_samples=2)
    assert store.is_complete
    assert verify(store.path).is_sound
    assert [s["tokens"] for s in store.samples()] == [3, 0, 6, 1, 0]
    assert [s["text"] for s in store.samples()] == TEXTS
    assert store["token"][:].tolist() == full["token"][:].tolist()
    for site in SITES:
        torch.testing.assert_close(store[site][:], full[site][:], atol=1e-5, rtol=1e-5)
    assert store.of(1)[SITES[0]].shape == (0, 32)
    assert sum(len(store.of(i)["sample"]) for i in range(5)) == len(store)
    with pytest.raises(ins.InputError, match="sample 5 is not in this store"):
        store.of(5)


def test_a_unit_of_empty_texts_alone_is_a_unit(tmp_path: Path) -> None:
    from inscape.store.statistics import Covariance, Extremes, Moments, Quantiles

    texts = ["", "", "the ferry", "", *[""] * 4]
    wanted = {SITES[0]: [Moments(), Extremes(), Covariance(), Quantiles()]}
    store = ins.record(speaking(), texts, SITES, tmp_path / "s", unit_samples=2, shard_bytes=1, statistics=wanted)
    assert store.is_complete
    assert [listed.rows for listed in store.listed] == [0, 2, 0, 0]
    assert verify(store.path).is_sound
    assert sum(len(b[SITES[0]]) for b in store.batches(1, SITES[0])) == 2
    assert store.statistics(wanted)[SITES[0]][0].n == 2
    assert store["sample"][:].tolist() == [2, 2]
    with pytest.raises(ins.InputError, match=r"sample 0 .* has no rows"):
        store.trace([0])


def test_a_record_with_empty_texts_resumes_bit_equal(tmp_path: Path) -> None:
    model, ids = speaking(), [row if i % 3 else [] for i, row in enumerate(data())]
    options = {"unit_samples": 3, "dtype": "bfloat16", "shard_bytes": 1500}
    whole = ins.record(model, ids, SITES, tmp_path / "a", **options)
    ins.record(model, ids, SITES, tmp_path / "b", worker=(1, 3), **options)
    same(whole, ins.record(model, ids, SITES, tmp_path / "b", **options))
    assert ins.Store(tmp_path / "b").samples() == whole.samples()


def test_missing_texts_count_as_empty_and_all_empty_data_are_refused(tmp_path: Path) -> None:
    model = speaking()
    (tmp_path / "t.jsonl").write_text('{"text": null, "label": 4}\n{"text": "the ferry"}\n')
    store = ins.record(model, tmp_path / "t.jsonl", SITES, tmp_path / "s")
    assert store.samples()[0] == {"sample": 0, "tokens": 0, "label": 4, "text": None}
    assert len(store) == 2
    with pytest.raises(ins.InputError, match="all 3 samples are empty"):
        ins.record(model, ["", "", ""], SITES, tmp_path / "t")
    assert not (tmp_path / "t").exists()


def chats(n: int) -> list[dict[str, Any]]:
    said = ["the ferry leaves at seven", "nobody minds", "seven", "nobody minds the ferry at seven seven seven"]
    return [{"messages": [{"role": "user", "content": said[i % 4]}], "label": i, "kind": "ask"} for i in range(n)]


def test_chats_are_bucketed_cut_and_keep_labels_and_the_text_they_become(tmp_path: Path) -> None:
    model = speaking()
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(c) + "\n" for c in chats(9)))
    store = ins.record(model, tmp_path / "c.jsonl", SITES, tmp_path / "s", max_length=8, unit_samples=4)
    kept = store.samples()
    assert kept[1] == {
        "sample": 1, "tokens": 6, "label": 1, "kind": "ask", "text": "user : nobody minds assistant :",
    }  # fmt: skip
    assert [s["tokens"] for s in kept[:4]] == [8, 6, 5, 8]
    for i in (0, 1, 3):
        ids = [WORDS.index(w) for w in kept[i]["text"].split()][:8]
        assert store.of(i)["token"].tolist() == ids
        alone = ins.run(model, [ids], read=SITES)
        for site in SITES:
            torch.testing.assert_close(store.of(i)[site], alone[site][0], atol=1e-5, rtol=1e-5)
    plain = ins.run(model, chats(1)[0]["messages"], read=SITES[0])
    assert plain.tokens[0].tolist()[:8] == store.of(0)["token"].tolist()
    model.tokenizer.chat_template = "{{ messages[0].content }}"
    with pytest.raises(ins.FileError, match=r"job.chat_template: [0-9a-f]{16} in the store"):
        ins.record(model, tmp_path / "c.jsonl", SITES, tmp_path / "s", max_length=8, unit_samples=4)
    model = speaking()
    unlabelled = ins.record(
        model, [c["messages"] for c in chats(9)], SITES, tmp_path / "u", max_length=8, unit_samples=4
    )
    same(store, unlabelled)


def test_batches_hold_samples_of_like_length_within_the_budget() -> None:
    model = speaking()
    items = items_of(model, [c["messages"] for c in chats(16)])
    batches = batches_of(model, items, "source", 40, 32)
    assert sorted(i for b in batches for i in b.members) == list(range(16))
    shapes = [b.inputs.tokens.shape for b in batches if b.inputs.tokens is not None]
    assert all(rows * width <= 40 for rows, width in shapes)
    assert len(batches) < 10
    lengths = [len(i.source.ids) for i in items if i.source]
    as_they_come = sum(4 * max(lengths[i : i + 4]) for i in range(0, 16, 4))
    assert sum(rows * width for rows, width in shapes) < 0.8 * as_they_come


def test_tokenizer_dicts_go_the_way_of_texts(tmp_path: Path) -> None:
    model = speaking()
    rows = [r for r in data() if len(r) > 2]
    dicts = [
        {"input_ids": [0, 0, *r], "attention_mask": [0, 0] + [1] * len(r), "special_tokens_mask": [0] * (len(r) + 2),
         "label": torch.tensor(i), "name": f"n{i}"}
        for i, r in enumerate(rows)
    ]  # fmt: skip
    options = {"unit_samples": 5, "max_length": 7}
    store = ins.record(model, dicts, SITES, tmp_path / "s", **options)
    same(ins.record(model, rows, SITES, tmp_path / "t", **options), store)
    assert store.samples()[2] == {"sample": 2, "tokens": 7, "label": 2, "name": "n2"}
    with pytest.raises(ins.InputError, match="'pixels', which GPT2LMHeadModel does not take"):
        ins.record(model, [{"input_ids": [1, 2], "pixels": [0.5]}], SITES, tmp_path / "u")
    with pytest.raises(ins.InputError, match=r"one row of whole numbers; got shape \(2, 2\)"):
        ins.record(model, [{"input_ids": [[1, 2], [3, 4]]}], SITES, tmp_path / "u")


def test_a_dataset_of_token_ids_keeps_its_labels(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = data(7)
    made = datasets.Dataset.from_dict({"input_ids": rows, "label": list(range(7)), "text": [f"t{i}" for i in range(7)]})
    store = ins.record(gpt2(), made, SITES, tmp_path / "s")
    same(store, ins.record(gpt2(), rows, SITES, tmp_path / "t"))
    assert store.samples()[4] == {"sample": 4, "tokens": len(rows[4]), "label": 4, "text": "t4"}
    with pytest.raises(ins.InputError, match="no field 'body'; it has input_ids, label, text"):
        ins.record(gpt2(), made, SITES, tmp_path / "u", field="body")


def test_token_types_go_along_with_their_tokens(tmp_path: Path) -> None:
    model, site = ins.open(build("bert")), "layers.1.resid_post"
    rows = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]
    types = [[0, 0, 1, 1], [1, 1], [0, 1, 1]]
    dicts = [{"input_ids": r, "token_type_ids": t} for r, t in zip(rows, types, strict=True)]
    store = ins.record(model, dicts, site, tmp_path / "s")
    for i, (row, kind) in enumerate(zip(rows, types, strict=True)):
        inputs = {"input_ids": torch.tensor([row]), "token_type_ids": torch.tensor([kind])}
        torch.testing.assert_close(store.of(i)[site], ins.run(model, inputs, read=site)[site][0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3_vlm"])
def test_texts_with_images_are_recorded_together_and_never_cut(tmp_path: Path, name: str) -> None:
    model, site = ins.open(build(name)), "text.layers.1.resid_post"
    both: Any = inputs_for(name)
    n = len(both["input_ids"])
    per = {k: len(v) // n for k, v in both.items()}  # as a processor gives one sample: a batch of one
    samples = [{k: v[i * per[k] : (i + 1) * per[k]] for k, v in both.items()} for i in range(n)]
    store = ins.record(model, samples, site, tmp_path / "s", dtype="float32")
    for i, sample in enumerate(samples):
        alone = ins.run(model, sample, read=site)[site][0][sample["attention_mask"][0].bool()]
        torch.testing.assert_close(store.of(i)[site], alone, atol=1e-4, rtol=1e-3)
    with pytest.raises(
        ins.InputError, match=r"pixel_values.* beside them, which cutting it to max_length=5 could split"
    ):
        ins.record(model, samples, site, tmp_path / "t", max_length=5)


def test_sites_of_two_stacks_are_two_records(tmp_path: Path) -> None:
    model = ins.open(build("clip"))
    both: Any = inputs_for("clip")
    samples = [{k: v[i] for k, v in both.items()} for i in range(2)]
    with pytest.raises(ins.InputError, match=r"positions of their own each.*\n.*two records"):
        ins.record(model, samples, ["text.layers.0.resid_post", "vision.layers.0.resid_post"], tmp_path / "s")
    vision = ins.record(model, samples, "vision.layers.0.resid_post", tmp_path / "v", reduce="mean")
    seen = ins.run(model, both, read="vision.layers.0.resid_post")["vision.layers.0.resid_post"]
    torch.testing.assert_close(vision["vision.layers.0.resid_post"][:], seen.mean(1), atol=1e-5, rtol=1e-4)
    assert vision["token"][:].tolist() == [-1, -1]


def test_records_unlike_the_first_and_single_messages_are_refused(tmp_path: Path) -> None:
    model = speaking()
    with pytest.raises(ins.InputError, match=r"messages of one chat.*\n.*list of chats"):
        ins.record(model, chats(1)[0]["messages"], SITES, tmp_path / "s")
    with pytest.raises(ins.InputError, match="not like the first: it has body, no text"):
        ins.record(model, [{"text": "the"}, {"body": "ferry"}], SITES, tmp_path / "s")
    with pytest.raises(ins.InputError, match=r"the samples are pairs, and this model has no decoder"):
        ins.record(model, [("the", "ferry")], SITES, tmp_path / "s")
    mute = ins.open(copy.deepcopy(gpt2_module()))
    with pytest.raises(ins.InputError, match="no tokenizer"):
        ins.record(mute, ["the"], SITES, tmp_path / "s")
    with pytest.raises(ins.InputError, match="no chat template"):
        ins.record(mute, [chats(1)[0]["messages"]], SITES, tmp_path / "s")
