import pytest
import torch

import inscape as ins
from inscape.store.keep import project
from inscape.store.record import record
from tests.common.small import gpt2, gpt2_module

SITES = ["layers.0.resid_post", "layers.1.resid_post"]
DATA = [[5, 9, 13, 17, 21], [6, 10, 14], [7, 11, 15, 19, 23], [8, 12, 16, 20, 24, 28]]
OTHER = [[40, 41, 42, 43, 44], [50, 51, 52, 53, 54]]


def stored(to, dtype="float32", sites=SITES, **options):
    return record(gpt2(), DATA, sites, to, dtype=dtype, **options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_patching_from_a_store_makes_the_rest_equal_the_donor(tmp_path, dtype):
    model = gpt2()
    store = stored(tmp_path / "s", dtype, unit_samples=1)
    for sample in (0, 2):
        donor = ins.run(model, [DATA[sample]], read=["layers.2.resid_post", "logits"])
        edits = [ins.patch("layers.1.resid_post", store.trace([sample], model=model))]
        patched = ins.run(model, [OTHER[0]], edits=edits, read=["layers.2.resid_post", "logits"])
        tolerance = {"rtol": 0, "atol": 0} if dtype == "float32" else {"rtol": 5e-2, "atol": 5e-2}
        for site in donor:
            torch.testing.assert_close(patched[site], donor[site], **tolerance)


def test_a_batch_is_padded_on_the_right_and_matched_by_position(tmp_path):
    model, store = gpt2(), stored(tmp_path / "s")
    trace = store.trace([3, 1])
    assert trace["layers.1.resid_post"].shape == (2, 6, 32)
    assert trace.mask.tolist() == [[1] * 6, [1] * 3 + [0] * 3]
    assert trace.tokens[1, :3].tolist() == DATA[1]
    assert set(trace) == set(SITES)
    inputs = {"input_ids": trace.tokens, "attention_mask": trace.mask}
    again = ins.run(model, inputs, read=SITES)
    real = trace.mask.bool()
    torch.testing.assert_close(again["layers.1.resid_post"][real], trace["layers.1.resid_post"][real])
    # the same rows into a run that is padded on the other side
    left = {
        "input_ids": torch.tensor([[30, 31, 32, 33, 34, 35], [0, 0, 0, 40, 41, 42]]),
        "attention_mask": torch.tensor([[1] * 6, [0] * 3 + [1] * 3]),
    }
    patched = ins.run(model, left, edits=[ins.patch("layers.1.resid_post", trace)], read="layers.1.resid_post")
    torch.testing.assert_close(patched["layers.1.resid_post"][1, 3:], store.of(1)["layers.1.resid_post"])


def test_replace_and_generate_take_stored_values(tmp_path):
    model, store = gpt2(), stored(tmp_path / "s", unit_samples=1)
    site, trace = "layers.1.resid_post", store.trace(2)
    edits = [ins.replace(site, trace[site])]
    donor = ins.run(model, [DATA[2]], read="logits")["logits"]
    assert torch.equal(ins.run(model, [OTHER[0]], edits=edits, read="logits")["logits"], donor)
    out = ins.generate(model, [OTHER[0]], edits=[ins.patch(site, trace)], max_new_tokens=1, do_sample=False)
    assert out.tokens[0, 0] == donor[0, -1].argmax()


def test_another_model_is_refused(tmp_path):
    store = stored(tmp_path / "s")
    other = ins.open(gpt2_module(2))
    with pytest.raises(ins.ModelError, match=r"recorded with another model[\s\S]*leave out model="):
        store.trace([0], model=other)
    unknown = store.about.model_copy(update={"model": ""})
    store.about = unknown
    with pytest.raises(ins.ModelError, match="does not say which model"):
        store.trace([0], model=gpt2())


@pytest.mark.parametrize(
    ("reduce", "said"),
    [
        ("mean", "no position"),
        ("last", r"positions \[4\] alone"),
        (slice(None, None, 2), r"positions \[0, 2, 4\] alone"),
    ],
)
def test_a_store_without_every_position_is_refused(tmp_path, reduce, said):
    with pytest.raises(ins.InputError, match=rf"{said}[\s\S]*reduce"):
        stored(tmp_path / "s", reduce=reduce).trace([0])


def test_columns_that_hold_less_than_the_site_are_refused(tmp_path):
    mixed = {"small": ("layers.0.resid_post", project(4)), "whole": SITES[1]}
    store = stored(tmp_path / "s", sites=mixed)
    assert list(store.trace([0])) == [SITES[1]]  # by the site, whatever the column is called
    with pytest.raises(ins.InputError, match="small \\(random projection"):
        store.trace([0], "small")
    only = stored(tmp_path / "t", sites={"norm": ("layers.0.resid_post", "norm")})
    with pytest.raises(ins.InputError, match="norm \\(norm\\)"):
        only.trace([0])
    twice = stored(tmp_path / "u", sites={"a": SITES[0], "b": SITES[1]})
    columns = tuple(c.model_copy(update={"site": SITES[0]}) if c.name == "b" else c for c in twice.about.columns)
    twice.about = twice.about.model_copy(update={"columns": columns})
    with pytest.raises(ins.InputError, match="say which one with columns="):
        twice.trace([0])
    assert torch.equal(twice.trace([0], "a")[SITES[0]][0], twice.of(0)["a"])


def test_samples_that_are_not_there_are_named(tmp_path):
    store = stored(tmp_path / "s")
    with pytest.raises(ins.InputError, match="sample 9 is not in this store"):
        store.trace([9])
    with pytest.raises(ins.InputError, match="say which samples"):
        store.trace([])
