"""Small stores for tests: rows whose every number tells where it belongs."""

from pathlib import Path

import torch

from inscape.store import manifest
from inscape.store.schema import Column, Description
from inscape.store.shard import write_shard
from inscape.store.store import Store

COLUMNS = (
    Column(name="sample", dtype="int64"),
    Column(name="pos", dtype="int32"),
    Column(name="token", dtype="int32"),
    Column(name="x", dtype="float32", shape=(4,), site="layers.0.resid_post"),
    Column(name="half", dtype="bfloat16", shape=(2, 3), site="layers.1.attn.z"),
)


def rows(start: int, n: int) -> dict[str, list[torch.Tensor]]:
    i = torch.arange(start, start + n)
    return {
        "sample": [i // 10],
        "pos": [(i % 10).int()],
        "token": [(i % 7).int()],
        "x": [i[:, None].float() + torch.tensor([0.0, 0.25, 0.5, 0.75])],
        "half": [(i[:, None, None] % 128 + torch.arange(6).reshape(2, 3) / 8).bfloat16()],
    }


def make(folder: Path, sizes: list[int], writers: int = 1, n_units: int | None = None) -> Store:
    """One shard a unit; unit u has sizes[u] rows, numbered through; writers take turns."""
    for inner in ("", "manifest", "shards", "samples"):
        (folder / inner).mkdir(parents=True, exist_ok=True)
    about = Description(columns=COLUMNS, n_samples=n_units or len(sizes), unit_samples=1)
    (folder / "store.json").write_text(about.model_dump_json())
    at = 0
    for unit, size in enumerate(sizes):
        writer = f"w{unit % writers}"
        path = folder / "shards" / f"{writer}-{unit:06d}.safetensors"
        listed = write_shard(path, COLUMNS, rows(at, size), [(unit, 0, size)])
        manifest.add_line(folder, writer, listed)
        at += size
    return Store(folder)


def store_with(folder: Path, columns: tuple[Column, ...], pieces: dict[str, list[torch.Tensor]]) -> Store:
    """A store of one shard and one work unit with these columns."""
    for inner in ("", "manifest", "shards", "samples"):
        (folder / inner).mkdir(parents=True, exist_ok=True)
    n = sum(map(len, pieces[columns[0].name]))
    (folder / "store.json").write_text(Description(columns=columns, n_samples=n, unit_samples=n).model_dump_json())
    listed = write_shard(folder / "shards" / "w0-000000.safetensors", columns, pieces, [(0, 0, n)])
    manifest.add_line(folder, "w0", listed)
    return Store(folder)
