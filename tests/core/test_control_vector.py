"""Control vectors: read and written by llama.cpp's own package alike, and hostile files say what is wrong with them."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.core.control_vector import load_control_vector, save_control_vector
from inscape.core.gguf_file import read_gguf, write_gguf

gguf = pytest.importorskip("gguf")


def directions(layers: tuple[int, ...] = (1, 2, 7), width: int = 5) -> "list[ins.Direction]":
    generator = torch.Generator().manual_seed(0)
    return [
        ins.Direction(f"layers.{k}.resid_post", torch.randn(width, generator=generator), f"calm {k}", "abc")
        for k in layers
    ]


def bytes_of(tmp_path: Path) -> bytes:
    save_control_vector(tmp_path / "good.gguf", directions((1, 2), 3), model_hint="gemma3")
    return (tmp_path / "good.gguf").read_bytes()


def refused(tmp_path: Path, data: bytes, match: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(ins.FileError, match=match):
        load_control_vector(path)


def test_what_is_saved_comes_back_bit_by_bit(tmp_path: Path) -> None:
    path = tmp_path / "calm.gguf"
    given_ = directions()
    save_control_vector(path, reversed(given_), model_hint="gemma3")
    for found, d in zip(load_control_vector(path), given_, strict=True):
        assert torch.equal(found.vector, d.vector)
        assert (found.site, found.source, found.model) == (d.site, d.source, d.model)


def test_directions_are_saved_and_loaded_by_name(tmp_path: Path) -> None:
    both = 2 * ins.Directions.of(*directions())
    both.save_gguf(tmp_path / "calm.gguf", model_hint="gemma3")
    found = ins.Directions.load_gguf(tmp_path / "calm.gguf")
    assert (found.sites, found.model, found.source) == (both.sites, both.model, both.source)
    assert all(torch.equal(found[site].vector, both[site].vector) for site in both)


def test_what_llama_cpp_would_add_is_what_the_edit_adds(tmp_path: Path) -> None:
    """`llama_adapter_cvec::apply_to`: the tensor of layer il is added to what block il gives, for il from 1."""
    from tests.common.small import gpt2

    model, path = gpt2(), tmp_path / "calm.gguf"
    given_ = ins.Directions.of(*directions((1, 2), 32))
    given_.save_gguf(path)
    ids, handles, blocks = torch.tensor([[1, 5, 9, 13]]), [], [b.module for b in model.blocks]
    for tensor in gguf.GGUFReader(path).tensors:
        vector, layer = torch.from_numpy(np.array(tensor.data)), int(tensor.name.removeprefix("direction."))

        def plus(_: Any, __: Any, out: Any, vector: torch.Tensor = vector) -> Any:
            return (out[0] + vector, *out[1:]) if isinstance(out, tuple) else out + vector

        handles.append(blocks[layer].register_forward_hook(plus))
    with torch.no_grad():
        want = model.module(ids).logits
    for handle in handles:
        handle.remove()
    edits = [ins.add(d) for d in ins.Directions.load_gguf(path).meant_for(model).values()]
    torch.testing.assert_close(ins.run(model, ids, edits=edits, output=True).output.logits, want)


def test_the_gguf_package_reads_the_same_vectors(tmp_path: Path) -> None:
    path = tmp_path / "calm.gguf"
    save_control_vector(path, directions(), model_hint="gemma3")
    reader = gguf.GGUFReader(path)
    assert {t.name for t in reader.tensors} == {"direction.1", "direction.2", "direction.7"}
    for tensor, d in zip(reader.tensors, directions(), strict=True):
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert np.array_equal(tensor.data, d.vector.numpy())
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.model_hint").contents() == "gemma3"
    count = reader.get_field("controlvector.layer_count")
    assert count.contents() == 3
    assert count.types == [gguf.GGUFValueType.UINT32]


@pytest.mark.parametrize("alignment", [None, 64])
def test_a_file_of_the_gguf_package_is_read(tmp_path: Path, alignment: int | None) -> None:
    path = tmp_path / "theirs.gguf"
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_int32("controlvector.layer_count", 2)
    writer.add_array("controlvector.words", ["a", "b"])
    writer.add_array("controlvector.numbers", [1, 2, 3])
    if alignment:
        writer.add_custom_alignment(alignment)
    vectors = {3: np.arange(5, dtype=np.float32), 1: -np.ones(5, dtype=np.float32)}
    for layer, vector in vectors.items():
        writer.add_tensor(f"direction.{layer}", vector)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = load_control_vector(path)
    assert [d.site for d in found] == ["layers.1.resid_post", "layers.3.resid_post"]
    assert [d.vector.tolist() for d in found] == [vectors[1].tolist(), vectors[3].tolist()]
    assert found[0].source == "control vector theirs.gguf"


def test_the_language_stack_of_a_vision_model_keeps_its_name(tmp_path: Path) -> None:
    d = ins.Direction("text.layers.2.resid_post", torch.ones(4))
    save_control_vector(tmp_path / "v.gguf", [d])
    assert load_control_vector(tmp_path / "v.gguf")[0].site == d.site


@pytest.mark.parametrize(
    ("site", "match"),
    [
        ("layers.0.resid_post", "llama.cpp never steers block 0"),
        ("layers.0.resid_pre", "llama.cpp never steers block 0"),
        ("layers.3.resid_pre", "named layers.2.resid_post"),
        ("layers.3.mlp_out", "after a block, layers.<k>.resid_post"),
        ("layers.*.resid_post", "after a block"),
        ("encoder.layers.3.resid_post", "after a block"),
    ],
)
def test_a_site_without_a_number_is_refused(tmp_path: Path, site: str, match: str) -> None:
    with pytest.raises(ins.SiteError, match=match):
        save_control_vector(tmp_path / "x.gguf", [ins.Direction(site, torch.ones(4))])
    assert not list(tmp_path.iterdir())


def test_what_no_control_vector_can_hold_is_refused(tmp_path: Path) -> None:
    path, one = tmp_path / "x.gguf", directions((1,))[0]
    with pytest.raises(ins.SiteError, match=r"two directions at layers\.1\.resid_post"):
        save_control_vector(path, [one, one])
    with pytest.raises(ins.SiteError, match="one at least"):
        save_control_vector(path, [])
    with pytest.raises(ins.SiteError, match="of one stack"):
        save_control_vector(path, [one, ins.Direction("text.layers.2.resid_post", torch.ones(5))])
    with pytest.raises(ins.ShapeError, match=r"\(4,\); a control vector holds vectors"):
        save_control_vector(path, [one, ins.Direction("layers.2.resid_post", torch.ones(4))])
    with pytest.raises(ins.ShapeError, match=r"\(2, 5\)"):
        save_control_vector(path, [ins.Direction("layers.2.resid_post", torch.ones(2, 5))])
    with pytest.raises(ins.NotFiniteError, match=r"layers\.2\.resid_post is NaN or infinite in float32"):
        save_control_vector(
            path, [ins.Direction("layers.2.resid_post", torch.tensor([1.0, 1e300], dtype=torch.float64))]
        )
    with pytest.raises(ins.FileError, match="choose a folder"):
        save_control_vector(tmp_path / "none" / "x.gguf", [one])


def test_a_file_that_is_none_says_so(tmp_path: Path) -> None:
    good = bytes_of(tmp_path)
    with pytest.raises(ins.FileError, match="there is no file"):
        load_control_vector(tmp_path / "absent.gguf")
    refused(tmp_path, b"", "no GGUF file: it starts with b''")
    refused(tmp_path, b"PK\x03\x04" + good[4:], "no GGUF file")
    refused(tmp_path, good[:4] + struct.pack("<I", 1) + good[8:], "of version 1")
    refused(tmp_path, good[:4] + struct.pack(">I", 3) + good[8:], "of a big-endian machine")
    write_gguf(tmp_path / "model.gguf", "gemma3", {"gemma3.block_count": 2}, {"token_embd.weight": torch.ones(3, 2)})
    with pytest.raises(ins.FileError, match=r"of kind 'gemma3', not a controlvector(.|\n)*ins.open"):
        load_control_vector(tmp_path / "model.gguf")


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    good, path = bytes_of(tmp_path), tmp_path / "cut.gguf"
    assert len(good) < 1000
    ends = range(len(good) - 32 + 12)  # the padding after the last vector may be missing
    for end in ends:
        path.write_bytes(good[:end])
        with pytest.raises(ins.FileError, match=r"cut off|no GGUF|past the end"):
            load_control_vector(path)


def made(
    tensors: list[tuple[str, tuple[int, ...], int, int]],
    data: bytes = bytes(64),
    pairs: bytes = b"",
    n: int = 0,
    count: int | None = None,
) -> bytes:
    def text(x: str) -> bytes:
        return struct.pack("<Q", len(x)) + x.encode()

    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors) if count is None else count, n + 1)
    head += text("general.architecture") + struct.pack("<I", 8) + text("controlvector") + pairs
    for name, axes, kind, offset in tensors:
        head += text(name) + struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, kind, offset)
    return head + bytes(-len(head) % 32) + data


def pair(key: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value


ONE = [("direction.1", (4,), 0, 0)]


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (made(ONE, count=2**62), "has 0 axes"),
        (made(ONE, count=2**62, data=b""), "cut off"),
        (made([("direction.1", (0,), 0, 0)]), r"has shape \(0,\)"),
        (made([("direction.1", (2**62,), 0, 0)]), "past the end"),
        (made([("direction.1", (2**40, 2**40, 2**40, 2**40), 0, 0)]), "past the end"),
        (made([("direction.1", (4,), 0, 2**63)]), "past the end"),
        (made([(f"direction.{k}", (16,), 0, 0) for k in (1, 2)]), "past the end"),
        (made([("direction.1", (), 0, 0)]), "has 0 axes"),
        (made([("direction.1", (1,) * 5, 0, 0)]), "has 5 axes"),
        (made([("direction.1", (2, 2), 0, 0)]), r"has shape \(2, 2\)"),
        (made([("direction.1", (4,), 1, 0)]), "as GGUF type 1; only float32"),
        (made([("direction.0", (4,), 0, 0)]), "never steers block 0"),
        (made([("direction.01", (4,), 0, 0)]), "holds a tensor 'direction.01'"),
        (made([*ONE, ("bias.1", (4,), 0, 32)]), "holds a tensor 'bias.1'"),
        (made([*ONE, *ONE]), "two tensors 'direction.1'"),
        (made([*ONE, ("direction.2", (3,), 0, 32)]), r"has shape \(3,\)"),
        (made([]), "holds no directions"),
        (made(ONE, struct.pack("<4f", 1, float("nan"), 1, 1)), "is NaN or infinite"),
        (made(ONE, pairs=pair("x", 13, b""), n=1), "unknown type 13"),
        (made(ONE, pairs=pair("x", 8, struct.pack("<Q", 2**62)), n=1), "cut off"),
        (made(ONE, pairs=pair("x", 9, struct.pack("<IQ", 8, 2**62)), n=1), "cut off"),
        (made(ONE, pairs=pair("x", 9, struct.pack("<IQ", 12, 2**62)), n=1), "cut off"),
        (made(ONE, pairs=pair("x", 9, struct.pack("<IQ", 9, 1) * 9), n=1), "unknown type 9"),
        (made(ONE, pairs=pair("x", 8, struct.pack("<Q", 1) + b"\xff"), n=1), "no text"),
        (made(ONE, pairs=pair("x", 0, b"1") * 2, n=2), "described twice"),
        (made(ONE, pairs=pair("general.alignment", 4, struct.pack("<I", 0)), n=1), "0 is no alignment"),
        (made(ONE, pairs=pair("general.alignment", 4, struct.pack("<I", 33)), n=1), "33 is no alignment"),
        (made(ONE, pairs=pair("general.alignment", 8, struct.pack("<Q", 0)), n=1), "'' is no alignment"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 0), "general.architecture is missing"),
    ],
)  # fmt: skip
def test_a_file_that_lies_is_refused(tmp_path: Path, data: bytes, match: str) -> None:
    refused(tmp_path, data, match)


def test_a_long_description_is_not_read_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inscape.core.gguf_file.LARGEST_HEAD", 100)
    refused(tmp_path, bytes_of(tmp_path), "description is longer than")


@given(st.data())
def test_a_changed_byte_gives_directions_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "x.gguf"
    save_control_vector(path, directions((1, 2), 3), model_hint="gemma3")
    changed = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(changed))
    try:
        found = load_control_vector(path)
    except ins.FileError:
        return
    assert all(torch.isfinite(d.vector).all() for d in found)


def test_only_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    write_gguf(path, "controlvector", {"a": 7, "b": "words"}, {"m": torch.arange(6.0).reshape(2, 3)})
    about, tensors = read_gguf(path, "controlvector")
    assert about == {"general.architecture": "controlvector", "a": 7, "b": "words"}
    assert torch.equal(tensors["m"], torch.arange(6.0).reshape(2, 3))
