"""A disk that is really full: what was listed stays, and after making room the same record goes on."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import inscape as ins
from inscape.store.check import verify
from tests.common.small import gpt2
from tests.store.test_record import SITES, data, same


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB in memory; mounting it takes root, which CI has."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
        made = subprocess.run(command, capture_output=True, text=True)
        refused = made.stderr.strip() if made.returncode else ""
    except FileNotFoundError:
        refused = "there is no mount here"
    if refused:
        if os.environ.get("CI") and os.geteuid() == 0:
            pytest.fail(f"CI runs as root and cannot mount a small disk: {refused}")
        pytest.skip(f"a small disk cannot be mounted: {refused}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # shards are still open


def test_a_record_that_fills_the_disk_loses_nothing_and_goes_on(tmp_path: Path, small_disk: Path) -> None:
    texts, options = data(60), {"unit_samples": 2, "shard_bytes": 4000, "dtype": "float32"}
    whole = ins.record(gpt2(), texts, SITES, tmp_path / "whole", **options)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * (150 << 10))
    with pytest.raises(ins.FileError, match=r"the disk is full.*\n.*rows of this writer are safe") as caught:
        ins.record(gpt2(), texts, SITES, small_disk / "acts", **options)
    kept = ins.Store(small_disk / "acts")
    said = re.search(r"([\d,]+) rows of this writer are safe", str(caught.value))
    assert said is not None
    assert 0 < len(kept) < len(whole)
    assert int(said[1].replace(",", "")) == len(kept)
    assert verify(kept.path).is_sound
    for name in kept:
        assert (kept[name][:] == whole[name][: len(kept)]).all(), name
    ballast.unlink()
    again = ins.record(gpt2(), texts, SITES, small_disk / "acts", **options)
    same(whole, again)
    assert again.is_complete
    assert again.samples() == whole.samples()
    assert verify(again.path).is_sound
