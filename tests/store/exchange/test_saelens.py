import pytest
import torch

import inscape as ins
from inscape.store.exchange.importing import import_store
from tests.common.small import gpt2
from tests.store.exchange.made import SITES, made

pytest.importorskip("pyarrow")
HOOKS = ["blocks.0.hook_resid_post", "blocks.1.attn.hook_z"]


def test_a_cache_comes_back_with_our_names_rows_and_tokens(tmp_path):
    store = made(tmp_path / "a", lengths=(6,) * 7)
    done = store.export(tmp_path / "cache", "saelens")
    assert done.rows == 42
    back = import_store(tmp_path / "cache", tmp_path / "b")
    for name in ("sample", "pos", "token", SITES[0]):
        assert torch.equal(back[name][:], store[name][:])
    assert torch.equal(back[SITES[1]][:], store[SITES[1]][:].flatten(1))  # SAELens joins the heads
    assert back.about.model == ""
    assert "the model is not known" in back.about.job["notes"]
    known = import_store(tmp_path / "cache", tmp_path / "c", model=gpt2())
    assert known.about.model == gpt2().fingerprint


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_cache_is_what_saelens_checks_when_it_loads_one(tmp_path, dtype):
    """The checks and reads of its ActivationsStore: column names, features' shape, torch format, a slice of records."""
    datasets = pytest.importorskip("datasets")
    store = made(tmp_path / "a", lengths=(6,) * 7, dtype=dtype)
    store.export(tmp_path / "cache", "saelens")
    found = datasets.load_from_disk(str(tmp_path / "cache"))
    assert set(found.column_names) == {*HOOKS, "token_ids"}
    assert found.features[HOOKS[0]].shape == (6, 32)
    found.set_format(type="torch", columns=[HOOKS[0], "token_ids"], device="cpu", dtype=torch.float32)
    batch = found[2:5]
    assert batch[HOOKS[0]].shape == (3, 6, 32)
    assert batch["token_ids"].shape == (3, 6)
    torch.testing.assert_close(batch[HOOKS[0]].reshape(-1, 32), store[SITES[0]][12:30].float(), rtol=0, atol=0)


def test_a_cache_that_the_datasets_package_wrote_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    x, tokens = torch.randn(5, 4, 3), torch.arange(20).reshape(5, 4)
    kinds = datasets.Features(
        {
            HOOKS[0]: datasets.Array2D(shape=(4, 3), dtype="float32"),
            "token_ids": datasets.Sequence(datasets.Value("int32"), length=4),
        }
    )
    datasets.Dataset.from_dict({HOOKS[0]: x, "token_ids": tokens}, features=kinds).save_to_disk(str(tmp_path / "c"))
    store = import_store(tmp_path / "c", tmp_path / "b")
    assert torch.equal(store["layers.0.resid_post"][:], x.flatten(0, 1))
    assert store["token"][:].tolist() == list(range(20))
    assert store["pos"][:].tolist() == [0, 1, 2, 3] * 5


def test_samples_of_unlike_lengths_need_a_context_and_are_counted(tmp_path):
    store = made(tmp_path / "a")  # 5, 3, 7, 4, 5
    with pytest.raises(ins.InputError, match="3 to 7 rows"):
        store.export(tmp_path / "cache", "saelens")
    done = store.export(tmp_path / "cache", "saelens", context=5)
    assert done.notes == ("2 samples shorter than 5 are left out", "1 samples are cut to 5 rows")
    back = import_store(tmp_path / "cache", tmp_path / "b")
    assert torch.equal(back.of(1)[SITES[0]], store.of(2)[SITES[0]][:5])
    with pytest.raises(ins.InputError, match="longest sample has 7"):
        store.export(tmp_path / "more", "saelens", context=9)


def test_names_that_could_mean_another_tensor_are_refused(tmp_path):
    store = made(tmp_path / "a", lengths=(4, 4), sites={"mine": "layers.0.mlp.in"})
    with pytest.raises(ins.SiteError, match="mine has no TransformerLens name"):
        store.export(tmp_path / "cache", "saelens")
    from inscape.store.exchange.arrow_writer import Writer

    for hook, said in (("blocks.0.attn.hook_q", "without rotary"), ("blocks.0.hook_mlp_in", "before the norm")):
        folder = tmp_path / hook
        folder.mkdir()
        with Writer(folder, {hook: ("float32", (4, 3))}) as writer:
            writer.add({hook: torch.zeros(2, 4, 3)})
        with pytest.raises(ins.SiteError, match=said):
            import_store(folder, tmp_path / "b")
        assert not (tmp_path / "b").exists()
        assert import_store(folder, tmp_path / f"{hook}-named", names={hook: "theirs"}).sites == ["theirs"]
