import uuid

import fsspec
import pytest

import inscape as ins
from inscape.store.store import Store
from tests.store.exchange.made import SITES, made, same_rows

ALL = ["sample", "pos", "token", *SITES]


@pytest.fixture
def url():
    name = f"memory://{uuid.uuid4().hex}/acts"
    yield name
    fs = fsspec.filesystem("memory")
    fs.rm(name.removeprefix("memory:/").rsplit("/", 1)[0], recursive=True)


def remote(url, inner=""):
    fs = fsspec.filesystem("memory")
    return fs, f"{url.removeprefix('memory:/')}{inner}"


def test_a_store_goes_up_and_comes_down_the_same(tmp_path, url):
    store = made(tmp_path / "a")
    assert len({s.listed.shard for s in store.segments}) > 1
    store.upload(url)
    back = Store.download(url, tmp_path / "b")
    same_rows(store, back, ALL)
    assert back.about == store.about
    assert back.samples() == store.samples()
    assert Store.download(url, tmp_path / "b").is_complete  # again: nothing to do


def test_only_what_is_new_is_copied(tmp_path, url, monkeypatch):
    store = made(tmp_path / "a")
    store.upload(url)
    fs, shards = remote(url, "/shards")
    before = {p: fs.info(p)["created"] for p in fs.ls(shards, detail=False)}
    gone = min(before)
    fs.rm(gone)
    store.upload(url)
    after = {p: fs.info(p)["created"] for p in fs.ls(shards, detail=False)}
    assert [p for p in before if before[p] != after[p]] == [gone]


def test_a_copy_that_stopped_lists_nothing_that_is_not_there_and_goes_on(tmp_path, url):
    store = made(tmp_path / "a")
    steps: list[str] = []

    def stop(message: str, fraction: float | None) -> None:
        steps.append(message)
        if len(steps) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.upload(url, progress=stop)
    assert len(Store.download(url, tmp_path / "early")) == 0
    store.upload(url)
    steps.clear()
    with pytest.raises(KeyboardInterrupt):
        Store.download(url, tmp_path / "b", progress=stop)
    assert len(Store(tmp_path / "b")) == 0
    same_rows(store, Store.download(url, tmp_path / "b"), ALL)


def test_damage_on_either_side_is_found(tmp_path, url):
    store = made(tmp_path / "a")
    shard = tmp_path / "a" / "shards" / store.segments[0].listed.shard
    good = shard.read_bytes()
    shard.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ins.FileError, match="checksum is not that of its manifest"):
        store.upload(url)
    shard.write_bytes(good)
    store.upload(url)
    fs, there = remote(url, f"/shards/{shard.name}")
    for bad in (good[:-1], good + b"x", good[:-1] + bytes([good[-1] ^ 1])):
        fs.pipe_file(there, bad)
        with pytest.raises(ins.FileError, match="Nothing of it was kept"):
            Store.download(url, tmp_path / "b")
        assert not (tmp_path / "b" / "shards" / shard.name).exists()
        assert len(Store(tmp_path / "b")) == 0
    fs.rm(there)
    with pytest.raises(ins.FileError, match="listed there and missing"):
        Store.download(url, tmp_path / "b")
    store.upload(url)  # repairs the copy
    same_rows(store, Store.download(url, tmp_path / "b"), ALL)


def test_another_store_is_not_mixed_in(tmp_path, url):
    store = made(tmp_path / "a")
    store.upload(url)
    other = made(tmp_path / "c", sites=SITES[:1])
    with pytest.raises(ins.FileError, match="store of something else"):
        other.upload(url)
    with pytest.raises(ins.FileError, match="store of something else"):
        Store.download(url, tmp_path / "c")
    twin = made(tmp_path / "d")  # the same job, recorded by another writer: both may be listed
    twin.upload(url)
    same_rows(store, Store.download(url, tmp_path / "b"), ALL)
    manifest = next((tmp_path / "a" / "manifest").glob("*.jsonl"))
    fs, there = remote(url, f"/manifest/{manifest.name}")
    fs.pipe_file(there, manifest.read_bytes()[::-1] + b"\n")
    with pytest.raises(ins.FileError, match="these are two stores"):
        store.upload(url)


def test_what_is_no_store_or_hostile_is_refused(tmp_path, url):
    with pytest.raises(ins.FileError, match=r"there is no store.json"):
        Store.download(url, tmp_path / "b")
    fs, root = remote(url)
    fs.pipe_file(f"{root}/notes.txt", b"mine")
    with pytest.raises(ins.FileError, match="not empty and no store"):
        made(tmp_path / "a").upload(url)
    fs.rm(f"{root}/notes.txt")
    Store(tmp_path / "a").upload(url)
    fs.pipe_file(f"{root}/store.json", b"{}")
    with pytest.raises(ins.FileError, match="does not describe a store"):
        Store.download(url, tmp_path / "b")
    fs.pipe_file(f"{root}/store.json", (tmp_path / "a" / "store.json").read_bytes())
    fs.pipe_file(f"{root}/manifest/evil.jsonl", b'{"shard":"../../x","rows":1,"bytes":1,"data":8,"units":[]}\n')
    with pytest.raises(ins.FileError, match="no name of a shard"):
        Store.download(url, tmp_path / "b")
    assert not (tmp_path / "b").exists()
    with pytest.raises(ins.FileError, match="cannot be opened"):
        Store.download("nosuch://x", tmp_path / "b")
