"""Dense copies of .gguf models in the user's cache folder, so that the slow conversion happens once.

A copy is a folder named after the file and its SHA-256: an ordinary fp32 Hugging Face folder and `inscape.json`, the
manifest: of what it was made, and the size, time and SHA-256 of every file.

1. A copy is built under a temporary name beside its place, every file is fsynced, then the folder is renamed: it is
   there whole or not at all. A killed build leaves a `.building-*` folder, which the next build of that model removes.
2. On every opening, sizes and times are compared with the manifest (microseconds). Where only the time changed, the
   SHA-256 is computed again; where anything else did, the copy is thrown away and built anew. A bit that flips on the
   disk without a change of time is not seen; `check(folder, full=True)` would.
3. Two processes may build at once: a lock lets the second wait and use the first one's copy. Where locks do not work
   (some network folders) both build, and whoever renames second throws its own away.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from inscape.core.cache import cache_folder, one_builder
from inscape.core.durable import sha256_of, sync, written
from inscape.core.errors import FileError
from inscape.core.progress import Progress, tell
from inscape.models.gguf import check_header, dequantise

MANIFEST = "inscape.json"
_FORMAT = 1  # part of the folder's name: another way of writing copies gets folders of its own
_STALE_S = 24 * 3600


def dense_folder(path: Path, progress: Progress = None) -> Path:
    """The folder with the dense copy of a .gguf file; made first when there is none, or a damaged one.

    Cost: with a copy there, a few file stats. Raises: as `gguf.dequantise`; FileError when the cache cannot be written.
    """
    check_header(path)
    return dense_copy(path.stem, digest_of(path), lambda _: path, progress)


def dense_copy(name: str, sha256: str, provide: Callable[[Path], Path], progress: Progress = None) -> Path:
    """The folder with the dense copy of the GGUF model of that digest.

    provide: called only when a copy has to be made, with a scratch folder; returns the .gguf file's path.
    """
    home = cache_folder("gguf")
    folder = home / f"{name}-{sha256[:16]}-v{_FORMAT}"
    if check(folder) is None:
        return folder
    try:
        home.mkdir(parents=True, exist_ok=True)
        with one_builder(home / f".{folder.name}.lock", progress) as alone:
            problem = check(folder)
            if problem is None:  # another process built it while this one waited
                return folder
            if folder.exists():
                tell(progress, f"the cached copy of {name} is damaged ({problem}); building it again", 0.0)
            _sweep(folder, alone)
            _build(folder, name, sha256, provide, progress)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(
            f"the dense copy of {name} cannot be written to {str(home)!r}: {error}.\n"
            f"  {_free(home)}; a model of n parameters needs 4 n bytes there.\n"
            "  set INSCAPE_CACHE to a folder that can be written and has room."
        ) from error
    return folder


def check(folder: Path, *, full: bool = False) -> str | None:
    """What is wrong with a cached copy, None when nothing is.

    full: compute every SHA-256 again (seconds per gigabyte); else only of files whose time changed.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, dict[str, int | str]] = manifest["files"]
        moved = False
        for name, entry in files.items():
            if Path(name).name != name:
                return f"{MANIFEST} names {name!r}"
            found = (folder / name).stat()
            if found.st_size != entry["size"]:
                return f"{name} has {found.st_size:,} bytes of {entry['size']:,}"
            if full or found.st_mtime_ns != entry["mtime_ns"]:
                if sha256_of(folder / name) != entry["sha256"]:
                    return f"{name} has another SHA-256"
                moved = moved or found.st_mtime_ns != entry["mtime_ns"]
                entry["mtime_ns"] = found.st_mtime_ns
        if "config.json" not in files:
            return f"{MANIFEST} lists no config.json"
    except FileNotFoundError as error:
        return f"{Path(error.filename or '').name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read: {error!r}"
    if moved:  # copied by a tool that keeps no times: remember the new ones, or every opening would hash again
        with contextlib.suppress(OSError):
            _write_json(folder / MANIFEST, manifest)
    return None


def notes_of(folder: Path) -> tuple[str, ...]:
    """What was worth saying when a copy was made."""
    return tuple(str(note) for note in json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("notes", ()))


def digest_of(path: Path) -> str:
    """The SHA-256 of a file; remembered in the cache while its path, size and time stay the same."""
    found = path.stat()
    key = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:24]
    note = cache_folder("gguf", "digests") / f"{key}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        seen = json.loads(note.read_text(encoding="utf-8"))
        if (seen["size"], seen["mtime_ns"]) == (found.st_size, found.st_mtime_ns) and len(seen["sha256"]) == 64:
            return seen["sha256"]
    sha256 = sha256_of(path)
    with contextlib.suppress(OSError):  # a cache that cannot be written is reported where a copy is made
        note.parent.mkdir(parents=True, exist_ok=True)
        _write_json(note, {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "sha256": sha256})
    return sha256


def _build(folder: Path, name: str, sha256: str, provide: Callable[[Path], Path], progress: Progress) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=f".building-{folder.name}-", dir=folder.parent))
    try:
        made = scratch / "model"
        made.mkdir()
        notes = dequantise(provide(scratch), made, progress)
        tell(progress, f"checksums of {name}", 0.95)
        files = sorted(p for p in made.iterdir() if p.is_file())
        mode = (made / "config.json").stat().st_mode
        for path in files:
            path.chmod(mode)  # safetensors writes files only their owner can read; a cache may be shared
            sync(path)
        entries = {
            p.name: {"size": p.stat().st_size, "mtime_ns": p.stat().st_mtime_ns, "sha256": sha256_of(p)} for p in files
        }
        _write_json(made / MANIFEST, {"made_of": {"name": name, "sha256": sha256}, "notes": notes, "files": entries})
        sync(made)
        _move_in(made, folder, scratch / "replaced")
        sync(folder.parent)
        tell(progress, f"{name} is cached", 1.0)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _move_in(made: Path, folder: Path, aside: Path) -> None:
    """Put a finished copy in its place; a good one that got there first stays, a damaged one is taken out."""
    if folder.exists() and check(folder) is not None:
        folder.rename(aside)
    try:
        made.rename(folder)
    except OSError:
        if check(folder) is not None:
            raise


def _sweep(folder: Path, alone: bool) -> None:
    """Remove what killed builds of this copy left: all of it when no other can be running, else what is a day old."""
    for left in folder.parent.glob(f".building-{folder.name}-*"):
        with contextlib.suppress(OSError):
            if alone or time.time() - left.stat().st_mtime > _STALE_S:
                shutil.rmtree(left, ignore_errors=True)


def _write_json(path: Path, value: object) -> None:
    with written(path, replace=True) as file:
        file.write(json.dumps(value, indent=1).encode())


def _free(home: Path) -> str:
    there = next((p for p in (home, *home.parents) if p.exists()), home)
    return f"{shutil.disk_usage(there).free / 1e9:,.1f} GB are free"
