import zipfile

import numpy as np
import pytest
import torch

import inscape as ins
from inscape.store.exchange.importing import import_store
from tests.common.small import gpt2
from tests.store.exchange.made import SITES, made, same_rows

ALL = ["sample", "pos", "token", *SITES]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("format", ["npy", "npz"])
def test_arrays_come_back_bit_for_bit(tmp_path, format, dtype):
    store = made(tmp_path / "a", dtype=dtype)
    to = tmp_path / f"out.{format}"
    store.export(to, format)
    back = import_store(to, tmp_path / "b")
    same_rows(store, back, ALL)
    assert back[SITES[0]].dtype == store[SITES[0]].dtype
    assert back.about.model == store.about.model


def test_numpy_reads_what_is_exported(tmp_path):
    store = made(tmp_path / "a", dtype="bfloat16")
    done = store.export(tmp_path / "x.npz")
    assert "uint16 with the same bits: layers.0.resid_post.bfloat16" in str(done)
    with np.load(tmp_path / "x.npz") as found:
        bits = found["layers.0.resid_post.bfloat16"]
        assert found["token"].tolist() == store["token"][:].tolist()
    assert torch.equal(torch.from_numpy(bits).view(torch.bfloat16), store[SITES[0]][:])
    store.export(tmp_path / "wide", "npy", widen=True)
    wide = np.load(tmp_path / "wide" / "layers.0.resid_post.npy", mmap_mode="r")
    assert wide.dtype == np.float32
    assert torch.equal(torch.from_numpy(np.array(wide)), store[SITES[0]][:].float())


def test_scaled_rows_are_written_as_they_were_computed(tmp_path):
    store = made(tmp_path / "a", dtype="float16", overflow="scale")
    done = store.export(tmp_path / "x.npz")
    assert "rows were scaled" in str(done)
    with np.load(tmp_path / "x.npz") as found:
        assert not [n for n in found.files if "scale" in n]
        assert found[SITES[0]].dtype == np.float32


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_of_somebody_else_is_rows_of_a_site(tmp_path, save):
    x = np.random.default_rng(0).normal(size=(6, 32)).astype(np.float32)
    save(tmp_path / "x.npz", **{"blocks.1.hook_resid_post": x, "sample": np.array([0, 0, 0, 1, 1, 3])})
    store = import_store(tmp_path / "x.npz", tmp_path / "b", model=gpt2())
    assert store.sites == ["layers.1.resid_post"]
    assert torch.equal(store["layers.1.resid_post"][:], torch.from_numpy(x))
    assert store["sample"][:].tolist() == [0, 0, 0, 1, 1, 3]
    assert store.rows_of(1) == slice(3, 5)


def test_a_single_array_is_named_after_its_file(tmp_path):
    np.save(tmp_path / "layers.1.resid_post.npy", np.ones((3, 2), np.float32))
    store = import_store(tmp_path / "layers.1.resid_post.npy", tmp_path / "b")
    assert store.sites == ["layers.1.resid_post"]
    assert len(store) == 3


def refused(tmp_path, source, said):
    with pytest.raises(ins.InscapeError, match=said):
        import_store(source, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_pickles_odd_orders_and_unlike_lengths_are_refused(tmp_path):
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused(tmp_path, tmp_path / "o.npy", "only rows of plain numbers")
    np.save(tmp_path / "f.npy", np.asfortranarray(np.ones((3, 2))))
    refused(tmp_path, tmp_path / "f.npy", "Fortran")
    np.savez(tmp_path / "u.npz", a=np.ones((3, 2)), b=np.ones((4, 2)))
    refused(tmp_path, tmp_path / "u.npz", "unlike lengths")
    np.savez(tmp_path / "i.npz", a=np.ones((3, 2), int))
    refused(tmp_path, tmp_path / "i.npz", "no array of floats")
    np.save(tmp_path / "x.bfloat16.npy", np.ones((3, 2)))
    refused(tmp_path, tmp_path / "x.bfloat16.npy", "named as the bits of bfloat16")


def test_a_cut_or_garbled_file_is_refused(tmp_path):
    made(tmp_path / "a").export(tmp_path / "x.npz")
    whole = (tmp_path / "x.npz").read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "y.npz").write_bytes(whole[:size])
        refused(tmp_path, tmp_path / "y.npz", r"no \.npz|damaged")
    at = whole.find(b"layers.0.resid_post.npy") + 400
    (tmp_path / "y.npz").write_bytes(whole[:at] + b"\x00\x01\x02" + whole[at + 3 :])
    refused(tmp_path, tmp_path / "y.npz", "damaged|NaN")
    np.save(tmp_path / "z.npy", np.ones((30, 2)))
    (tmp_path / "z.npy").write_bytes((tmp_path / "z.npy").read_bytes()[:-8])
    refused(tmp_path, tmp_path / "z.npy", "it was cut")
    (tmp_path / "z.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'shape': (__import__('os'),)}")
    refused(tmp_path, tmp_path / "z.npy", "no .npy file")


def test_an_archive_that_unfolds_to_far_more_than_it_is_is_refused(tmp_path):
    head = {"descr": "<f4", "fortran_order": False, "shape": (6 << 20, 4)}
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_2_0(file, head)
        for _ in range(96):
            file.write(bytes(1 << 20))
    refused(tmp_path, tmp_path / "bomb.npz", "no activations pack so small")


def test_a_column_that_can_be_no_file_is_for_an_npz(tmp_path):
    store = made(tmp_path / "a", sites={"a/b": "layers.0.resid_post"})
    with pytest.raises(ins.FileError, match="export an npz instead"):
        store.export(tmp_path / "out", "npy")
    assert not (tmp_path / "out").exists()


def test_options_of_other_formats_are_refused(tmp_path):
    store = made(tmp_path / "a")
    with pytest.raises(ins.InputError, match="'datasets', 'saelens', 'npy', 'npz'"):
        store.export(tmp_path / "x", "hdf5")
    with pytest.raises(ins.InputError, match="context= means nothing to 'npz'"):
        store.export(tmp_path / "x", "npz", context=3)
    with pytest.raises(ins.FileError, match="does not exist"):
        import_store(tmp_path / "nowhere", tmp_path / "b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ins.FileError, match="nothing that can be imported"):
        import_store(tmp_path / "empty", tmp_path / "b")
