import fcntl

import pytest
import torch
from safetensors.torch import save_file

import inscape as ins
from inscape.store.exchange.importing import import_store
from tests.common.small import gpt2, gpt2_module
from tests.store.exchange.made import ids


def requests(folder, samples, layers, dtype=torch.float32):
    """What vLLM leaves: the streams after k layers of each request; `hidden_states` of the module says the same."""
    folder.mkdir()
    model = gpt2()
    for i, sample in enumerate(samples):
        trace = ins.run(model, [sample], read="layers.*.resid_*")
        name = {k: f"layers.{k - 1}.resid_post" if k else "layers.0.resid_pre" for k in layers}
        states = torch.stack([trace[name[k]][0] for k in layers], 1).to(dtype)
        save_file({"hidden_states": states, "token_ids": torch.tensor(sample)}, folder / f"r{i}.safetensors")
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layer_k_is_the_stream_after_k_layers_and_the_last_is_before_the_norm(tmp_path, dtype):
    samples = ids([4, 6, 2])
    store = import_store(requests(tmp_path / "r", samples, [0, 1, 3], dtype), tmp_path / "b", layers=[0, 1, 3])
    assert store.sites == ["layers.0.resid_pre", "layers.0.resid_post", "layers.2.resid_post"]
    hidden = gpt2_module()(torch.tensor([samples[1]]), output_hidden_states=True).hidden_states
    found = store.of(1)
    assert found["token"].tolist() == samples[1]
    assert found["pos"].tolist() == list(range(6))
    torch.testing.assert_close(found["layers.0.resid_post"], hidden[1][0].detach().to(dtype), rtol=0, atol=0)
    assert not torch.allclose(found["layers.2.resid_post"].float(), hidden[3][0].detach(), atol=1e-2)  # that is normed
    assert [s["path"] for s in store.samples()] == ["r0.safetensors", "r1.safetensors", "r2.safetensors"]


def test_layers_must_be_said_and_fit(tmp_path):
    source = requests(tmp_path / "r", ids([4, 6]), [1, 2])
    for layers, said in ((None, "pass layers="), ([1], "holds 2 layers"), ([1, 1], "each once"), ([1, 9], "3 layers")):
        with pytest.raises(ins.InscapeError, match=said):
            import_store(source, tmp_path / "b", layers=layers, model=gpt2())
        assert not (tmp_path / "b").exists()


def test_damaged_unlike_and_unfinished_requests_are_refused(tmp_path):
    source = requests(tmp_path / "r", ids([4, 6]), [1, 2])
    last = source / "r1.safetensors"
    whole = last.read_bytes()

    def refused(said):
        with pytest.raises(ins.FileError, match=said):
            import_store(source, tmp_path / "b", layers=[1, 2])
        assert not (tmp_path / "b").exists()

    for cut in (0, 5, len(whole) // 2, len(whole) - 1):
        last.write_bytes(whole[:cut])
        refused("damaged")
    save_file({"hidden_states": torch.zeros(3, 2, 32), "token_ids": torch.zeros(4)}, last)
    refused("not the states")
    save_file({"hidden_states": torch.zeros(3, 2, 8), "token_ids": torch.zeros(3, dtype=torch.int64)}, last)
    refused(r"r1.safetensors holds float32 of \[2, 8\]")
    save_file({"hidden_states": torch.zeros(3, 2, 32)}, last)
    refused("expected hidden_states and token_ids")
    last.write_bytes(whole)
    with open(source / "r1.safetensors.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused("still being written")
    assert len(import_store(source, tmp_path / "b", layers=[1, 2])) == 10


def test_compressed_requests_say_how_to_unpack_them(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "a.safetensors.zst").write_bytes(b"x")
    with pytest.raises(ins.FileError, match="zstd -d"):
        import_store(tmp_path / "r", tmp_path / "b", layers=[1])
