"""Stores in remote folders, through fsspec: whole shards are copied and verified, manifests come last.

A remote store is read by downloading it whole to a folder: training reads every shard many times, and a shard that
fails to arrive is better missed before an epoch than in one. A manifest is copied when each of its shards is there
with the right checksum, so what is listed is there on either side, after a kill too; a second call goes on.
"""

import hashlib
import posixpath
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from inscape.core.durable import disk_errors, sha256_of, written
from inscape.core.errors import FileError
from inscape.core.extra import package
from inscape.core.progress import Progress, tell
from inscape.store import manifest, samples
from inscape.store.claim import DESCRIPTION, claim, ended
from inscape.store.schema import NAME, Description, Listed, differences, parse_listed
from inscape.store.shard import REPAIR
from inscape.store.store import Store

CHUNK = 8 << 20
TEXT_LIMIT = 1 << 30  # bytes; a manifest or a list of samples larger than this is none


def upload(store: Store, url: str, *, progress: Progress = None) -> None:
    """Copy the finished shards of a store to a remote folder ("s3://bucket/acts", "memory://acts"), or what is new.

    Every shard is read back once and compared with its checksum. A record under way may go on meanwhile: what is
    listed when this starts is copied. Raises: FileError for a damaged shard here, another store there, or a remote
    copy that differs.
    """
    fs, root = _remote(url)
    about = (store.path / DESCRIPTION).read_bytes()
    texts = {p.stem: _whole_lines(p.read_bytes()) for p in _jsonl(store.path / manifest.FOLDER)}
    with _transfer(url):
        _claim_remote(fs, root, about, store.about, url)
        for inner in (manifest.FOLDER, manifest.SHARDS, samples.FOLDER):
            fs.makedirs(f"{root}/{inner}", exist_ok=True)
        for writer, text in texts.items():
            _continues(_text(fs, f"{root}/{manifest.FOLDER}/{writer}.jsonl"), text, f"{url}, manifest {writer}")
        every = [x for w, text in texts.items() for x in _listed(text, f"manifest {w} of {store.path}")]
        for i, listed in enumerate(every):
            _send(fs, store.path / manifest.SHARDS / listed.shard, f"{root}/{manifest.SHARDS}/{listed.shard}", listed)
            tell(progress, f"{i + 1:,} of {len(every):,} shards", (i + 1) / len(every))
        kept = [*_jsonl(store.path / samples.FOLDER), *([t] if (t := store.path / samples.TABLE).exists() else [])]
        for path in kept:
            fs.put_file(str(path), f"{root}/{path.relative_to(store.path).as_posix()}")
        for writer, text in texts.items():
            fs.pipe_file(f"{root}/{manifest.FOLDER}/{writer}.jsonl", text)


def download(url: str, to: str | Path, *, progress: Progress = None) -> Store:
    """A remote store as a folder here, whole, or what is new of it; each shard is checked before it gets its name.

    Raises: FileError for what is no store, is damaged on the way, or is another store than the one in `to`.
    """
    fs, root = _remote(url)
    folder = Path(to).expanduser()
    with _transfer(url):
        text = _text(fs, f"{root}/{DESCRIPTION}")
        if text is None:
            raise FileError(f"{url} is no activation store: there is no {DESCRIPTION}.")
        about = _description(text, url)
        texts = {w: _whole_lines(_text(fs, p) or b"") for w, p in _remote_jsonl(fs, f"{root}/{manifest.FOLDER}")}
        lists = {w: _listed(text, f"{url}, manifest {w}") for w, text in texts.items()}
        claim(folder, about)
        if about.n_samples is not None:
            ended(folder, about.n_samples)
        for writer, text in texts.items():
            path = folder / manifest.FOLDER / f"{writer}.jsonl"
            _continues(path.read_bytes() if path.exists() else None, text, f"{folder}, manifest {writer}")
        count = sum(map(len, lists.values()))
        for done, listed in enumerate((x for found in lists.values() for x in found), 1):
            _fetch(fs, f"{root}/{manifest.SHARDS}/{listed.shard}", folder / manifest.SHARDS / listed.shard, listed)
            tell(progress, f"{done:,} of {count:,} shards", done / count)
        for writer, path in _remote_jsonl(fs, f"{root}/{samples.FOLDER}"):
            _put(folder / samples.FOLDER / f"{writer}.jsonl", _chunks(fs, path))
        if fs.exists(f"{root}/{samples.TABLE}"):
            _put(folder / samples.TABLE, _chunks(fs, f"{root}/{samples.TABLE}"))
        for writer, text in texts.items():
            _put(folder / manifest.FOLDER / f"{writer}.jsonl", [text])
    return Store(folder)


def _remote(url: str) -> tuple[Any, str]:
    core = package("fsspec", "store", "remote stores").core
    try:
        fs, root = core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise FileError(
            f"{url!r} cannot be opened: {error}.\n  fsspec names the package that a scheme needs."
        ) from None
    return fs, root.rstrip("/")


class _transfer:
    """The network's errors as ours, saying that a second call goes on."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, FileError):
            raise FileError(f"{self.url}: {error}.\n  what has arrived is kept: call it again to go on.") from error


def _send(fs: Any, here: Path, there: str, listed: Listed) -> None:
    """One shard to the other side, unless it is there already, and the proof that it arrived."""
    try:
        is_there = fs.info(there)["size"] == listed.bytes and _sha256(fs, there) == listed.sha256
    except FileNotFoundError:
        is_there = False
    if is_there:
        return
    if sha256_of(here) != listed.sha256:
        raise FileError(f"{here} is damaged: its checksum is not that of its manifest.\n{REPAIR}")
    fs.put_file(str(here), there)
    if _sha256(fs, there) != listed.sha256:
        raise FileError(f"{there} differs from {here} after copying; it is not listed there. Upload again.")


def _fetch(fs: Any, there: str, here: Path, listed: Listed) -> None:
    """One shard to this side, under its name only when its checksum is right."""
    if here.exists():
        if here.stat().st_size == listed.bytes and sha256_of(here) == listed.sha256:
            return
        here.unlink()  # what a checksum refuses is nobody's data
    digest, size = hashlib.sha256(), 0
    with disk_errors(str(here), lambda: "what has arrived is kept: make room and call it again."), written(here) as out:
        for chunk in _chunks(fs, there):
            size += len(chunk)
            if size > listed.bytes:
                break
            digest.update(chunk)
            out.write(chunk)
        if size != listed.bytes or digest.hexdigest() != listed.sha256:
            raise FileError(f"{there} is damaged: its checksum is not that of its manifest. Nothing of it was kept.")


def _chunks(fs: Any, path: str) -> Iterator[bytes]:
    try:
        with fs.open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except FileNotFoundError:
        raise FileError(
            f"{path} is listed there and missing.\n  upload the store again: it brings what is missing."
        ) from None
    except OSError as error:
        raise FileError(
            f"{path} did not arrive: {error}.\n  what has arrived is kept: call it again to go on."
        ) from error


def _sha256(fs: Any, path: str) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(fs, path):
        digest.update(chunk)
    return digest.hexdigest()


def _text(fs: Any, path: str) -> bytes | None:
    """A small file whole, None when there is none."""
    try:
        if fs.info(path)["size"] > TEXT_LIMIT:
            raise FileError(f"{path} has {fs.info(path)['size']:,} bytes: it is no file of a store.")
        return fs.cat_file(path)
    except FileNotFoundError:
        return None


def _claim_remote(fs: Any, root: str, text: bytes, about: Description, url: str) -> None:
    there = _text(fs, f"{root}/{DESCRIPTION}")
    if there is None:
        if fs.exists(root) and fs.ls(root, detail=False):
            raise FileError(f"{url} is not empty and no store: choose another folder.")
        fs.makedirs(root, exist_ok=True)
        fs.pipe_file(f"{root}/{DESCRIPTION}", text)
        return
    known = _description(there, url)
    different = differences(known, about)
    if different:
        raise FileError(f"{url} is a store of something else:\n" + "\n".join(f"  {d}" for d in different))
    if known.n_samples is None and about.n_samples is not None:
        fs.pipe_file(f"{root}/{DESCRIPTION}", text)


def _description(text: bytes, url: str) -> Description:
    try:
        return Description.model_validate_json(text)
    except ValueError as error:
        raise FileError(f"{url}: {DESCRIPTION} does not describe a store: {str(error).splitlines()[-1]}") from None


def _continues(old: bytes | None, new: bytes, what: str) -> None:
    """A manifest only grows: what is there already must begin the one that replaces it."""
    if old is not None and not new.startswith(_whole_lines(old)):
        raise FileError(f"{what}: other shards are listed there than here: these are two stores, not one and its copy.")


def _listed(text: bytes, where: str) -> list[Listed]:
    return [parse_listed(line.decode("utf-8", "replace"), where) for line in text.split(b"\n") if line]


def _whole_lines(text: bytes) -> bytes:
    return text[: text.rfind(b"\n") + 1]


def _jsonl(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl")) if folder.is_dir() else []


def _remote_jsonl(fs: Any, folder: str) -> list[tuple[str, str]]:
    """(writer, path) of the lists in a remote folder; a name that would leave a folder is refused."""
    found = []
    for path in sorted(fs.ls(folder, detail=False)) if fs.exists(folder) else ():
        name = posixpath.basename(path.rstrip("/"))
        if NAME.fullmatch(name.removesuffix(".jsonl")) is None or not name.endswith(".jsonl"):
            raise FileError(f"{path} is not named like a file of a store.")
        found.append((name.removesuffix(".jsonl"), path))
    return found


def _put(path: Path, data: Iterable[bytes]) -> None:
    with disk_errors(str(path), lambda: "make room and call it again."), written(path, replace=True) as file:
        file.writelines(data)
