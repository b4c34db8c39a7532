"""The cache of dense copies: made once, whole or not at all, checked at every opening, and safe to share."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from inscape.core import cache
from inscape.core.errors import FileError, MissingExtraError, ModelError
from inscape.models import gguf, gguf_cache
from inscape.models.gguf_cache import MANIFEST, check, dense_copy, dense_folder, digest_of
from inscape.models.load import load
from tests.models.tiny_gguf import tiny_qwen2, write_gguf

pytest.importorskip("gguf", reason="needs the package gguf (extra demo)")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("INSCAPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny_qwen2())


@pytest.fixture
def counted(monkeypatch) -> list[Path]:
    """The conversions that happened; each writes two small files in place of a model."""
    made: list[Path] = []

    def convert(path, folder, progress=None):
        made.append(path)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")
        return ()

    monkeypatch.setattr(gguf_cache, "dequantise", convert)
    return made


def copy(name: str = "m") -> Path:
    return dense_copy(name, "a" * 64, lambda scratch: scratch / "m.gguf")


# the real conversion


def test_a_gguf_file_opens_bit_equal_with_its_tokenizer(file):
    loaded = load(file)
    tokens = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.equal(loaded.module(tokens).logits, tiny_qwen2()(tokens).logits)
    assert loaded.tokenizer("he")["input_ids"] == [259]
    assert loaded.source == str(file)
    assert loaded.notes == ()
    assert loaded.module.dtype == torch.float32


def test_what_the_conversion_leaves_wrong_is_mended(file):
    folder = dense_folder(file)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert "quantization_config" not in config
    assert "is_local" not in json.loads((folder / "tokenizer_config.json").read_text())
    assert sorted(p.name for p in folder.parent.glob(".building-*")) == []


def test_a_gguf_file_without_tokenizer_opens_with_a_note(tmp_path):
    loaded = load(write_gguf(tmp_path / "bare.gguf", tiny_qwen2(), tokenizer=False))
    assert loaded.tokenizer is None
    assert loaded.notes[0].startswith("the file's tokenizer could not be converted (ValueError")


def test_what_is_no_gguf_is_said(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04 something else altogether")
    with pytest.raises(FileError, match=r"is not a GGUF file: it starts with b'PK\\x03\\x04'[\s\S]*GGUF format"):
        load(tmp_path / "x.gguf")
    (tmp_path / "x.gguf").write_bytes(b"GGUF\x03")
    with pytest.raises(FileError, match="is cut off: 5 bytes"):
        load(tmp_path / "x.gguf")
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes([9]) + bytes(19))
    with pytest.raises(FileError, match=r"GGUF of version 9 with 0 tensors; only versions 2 and 3"):
        load(tmp_path / "x.gguf")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.95])
def test_a_cut_off_gguf_file_is_said_and_leaves_nothing(file, tmp_path, home, keep):
    content = file.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(FileError, match=r"cut.gguf cannot be read as GGUF: [\s\S]*cut off or damaged"):
        load(tmp_path / "cut.gguf")
    assert [p for p in (home / "gguf").iterdir() if p.is_dir() and p.name != "digests"] == []


def test_an_architecture_nobody_can_read_is_said(tmp_path):
    import gguf as package

    writer = package.GGUFWriter(tmp_path / "odd.gguf", "nosucharch")
    writer.add_tensor("a", torch.zeros(2).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match=r"the architecture of odd.gguf cannot be read: .*nosucharch"):
        load(tmp_path / "odd.gguf")


def test_a_gguf_file_that_lacks_weights_is_refused(tmp_path, home):
    module = tiny_qwen2()
    del module.model.layers[1].mlp.up_proj
    with pytest.raises(FileError, match=r"lacks 1 of the weights of Qwen2ForCausalLM, first model.layers.1"):
        load(write_gguf(tmp_path / "part.gguf", module))


def test_without_the_package_the_extra_is_named(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'gguf'[\s\S]*pip install 'inscape\[demo\]'"):
        load(file)


# the cache


def test_a_copy_is_made_once(counted):
    assert copy() == copy()
    assert len(counted) == 1
    assert check(copy(), full=True) is None


def test_the_source_is_asked_for_only_when_a_copy_is_made(counted):
    copy()
    dense_copy("m", "a" * 64, lambda scratch: pytest.fail("asked"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "model.safetensors").write_bytes(b"weigh"), "model.safetensors has 5 bytes of 7"),
        (lambda f: (f / "model.safetensors").write_bytes(b"Weights"), "model.safetensors has another SHA-256"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda f: (f / MANIFEST).unlink(), f"{MANIFEST} is missing"),
        (lambda f: (f / MANIFEST).write_text("{"), f"{MANIFEST} cannot be read"),
        (lambda f: (f / MANIFEST).write_text('{"files": 3}'), f"{MANIFEST} cannot be read"),
        (lambda f: (f / MANIFEST).write_text('{"files": {}}'), "lists no config.json"),
        (lambda f: (f / MANIFEST).write_text('{"files": {"../x": {}}}'), "names '../x'"),
    ],
)
def test_a_damaged_copy_is_seen_and_built_again(counted, damage, said):
    folder = copy()
    damage(folder)
    assert said in (check(folder) or "")
    messages: list[str] = []
    assert dense_copy("m", "a" * 64, lambda s: s, lambda message, _: messages.append(message)) == folder
    assert "is damaged" in messages[0]
    assert len(counted) == 2
    assert check(folder, full=True) is None
    assert list(folder.parent.glob(".building-*")) == []


def test_a_new_time_with_the_same_content_is_believed_and_remembered(counted):
    folder = copy()
    os.utime(folder / "model.safetensors", ns=(1, 1))
    copy()
    assert len(counted) == 1
    assert json.loads((folder / MANIFEST).read_text())["files"]["model.safetensors"]["mtime_ns"] == 1


def test_only_the_full_check_sees_a_flipped_bit_without_a_new_time(counted):
    path = copy() / "model.safetensors"
    before = path.stat().st_mtime_ns
    path.write_bytes(b"weighty")
    os.utime(path, ns=(before, before))
    assert check(path.parent) is None
    assert check(path.parent, full=True) == "model.safetensors has another SHA-256"


def test_a_build_that_fails_leaves_nothing(home, monkeypatch):
    def fail(path, folder, progress=None):
        (folder / "half").touch()
        raise FileError("no")

    monkeypatch.setattr(gguf_cache, "dequantise", fail)
    with pytest.raises(FileError, match="no"):
        copy()
    assert [p.name for p in (home / "gguf").iterdir() if not p.name.endswith(".lock")] == []


@pytest.mark.parametrize("locks", [True, False])
def test_a_killed_build_leaves_no_copy_and_is_swept_by_the_next(home, counted, monkeypatch, locks):
    program = (
        "import os\nfrom inscape.models import gguf_cache\n"
        "def convert(path, folder, progress=None):\n"
        "    (folder / 'config.json').touch(); os.kill(os.getpid(), 9)\n"
        "gguf_cache.dequantise = convert\n"
        "gguf_cache.dense_copy('m', 'a' * 64, lambda s: s)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], env=os.environ, check=False).returncode == -9
    (left,) = (home / "gguf").glob(".building-*")
    copy("other")
    assert left.exists()
    if not locks:
        monkeypatch.setitem(sys.modules, "fcntl", None)
        copy()
        assert left.exists()  # without locks it may belong to a build that is still running
        os.utime(left, (0, 0))
        (copy() / MANIFEST).unlink()
    assert check(copy()) is None
    assert not left.exists()


def test_two_builders_at_once_make_one_copy(counted, monkeypatch):
    convert, entered = gguf_cache.dequantise, threading.Event()

    def slow(path, folder, progress=None):
        entered.set()
        threading.Event().wait(0.2)
        return convert(path, folder)

    monkeypatch.setattr(gguf_cache, "dequantise", slow)
    messages: list[str] = []
    first = threading.Thread(target=copy)
    first.start()
    entered.wait(10)
    dense_copy("m", "a" * 64, lambda s: s, lambda message, _: messages.append(message))
    first.join()
    assert len(counted) == 1
    assert messages == ["another process is building this copy; waiting for it"]


def test_without_locks_the_second_to_finish_keeps_the_first_ones_copy(counted, home, monkeypatch):
    folder = copy()
    made = home / "gguf" / "made"
    made.mkdir()
    (made / "config.json").write_text("{}")
    inode = folder.stat().st_ino
    gguf_cache._move_in(made, folder, home / "aside")
    assert folder.stat().st_ino == inode


def test_a_cache_that_cannot_be_written_says_where_to_put_it(tmp_path, monkeypatch, counted):
    (tmp_path / "occupied").touch()
    monkeypatch.setenv("INSCAPE_CACHE", str(tmp_path / "occupied"))
    with pytest.raises(FileError, match=r"copy of m cannot be written to .*\n.* GB are free[\s\S]*set INSCAPE_CACHE"):
        copy()


def test_a_full_disk_is_said_as_such(monkeypatch, home):
    def full(path, folder, progress=None):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf_cache, "dequantise", full)
    with pytest.raises(FileError, match=r"cannot be written[\s\S]*No space left on device[\s\S]*4 n bytes"):
        copy()


def test_a_full_disk_inside_the_conversion_is_not_taken_for_a_bad_file(file, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.Qwen2ForCausalLM.save_pretrained", full)
    with pytest.raises(FileError, match="cannot be written"):
        load(file)


def test_a_files_digest_is_remembered_until_it_changes(tmp_path, monkeypatch):
    path = tmp_path / "a.gguf"
    path.write_bytes(b"one")
    first = digest_of(path)
    monkeypatch.setattr(gguf_cache, "sha256_of", lambda _: "b" * 64)
    assert digest_of(path) == first
    path.write_bytes(b"three")
    assert digest_of(path) == "b" * 64


def test_the_same_model_under_two_names_has_its_digest_by_content(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"one")
    (tmp_path / "b.gguf").write_bytes(b"one")
    assert digest_of(tmp_path / "a.gguf") == digest_of(tmp_path / "b.gguf")


# where it is


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    assert cache.cache_folder("a") == tmp_path / "cache" / "a"
    monkeypatch.delenv("INSCAPE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_folder() == tmp_path / "xdg" / "inscape"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # its specification says: ignore
    assert cache.cache_folder("b", "c") == tmp_path / ".cache" / "inscape" / "b" / "c"
    monkeypatch.setenv("INSCAPE_CACHE", "~/mine")
    assert cache.cache_folder() == tmp_path / "mine"


def test_progress_goes_from_nothing_to_done(file):
    said: list[tuple[str, float | None]] = []
    dense_folder(file, lambda message, fraction: said.append((message, fraction)))
    fractions = [f for _, f in said if f is not None]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert gguf.check_header(file) is None
