"""A small store that the tests of exchange share: two sites of a random GPT-2 over token ids."""

from pathlib import Path
from typing import Any

import torch

from inscape.store.record import record
from inscape.store.store import Store
from tests.common.small import gpt2

SITES = ["layers.0.resid_post", "layers.1.attn.z"]


def ids(lengths: list[int], seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, 60, (n,), generator=generator).tolist() for n in lengths]


def made(to: Path, lengths: tuple[int, ...] = (5, 3, 7, 4, 5), dtype: str = "float32", **options: Any) -> Store:
    options = {"sites": SITES, "unit_samples": 2, "shard_bytes": 2000} | options
    return record(gpt2(), ids(list(lengths)), to=to, dtype=dtype, **options)


def same_rows(a: Store, b: Store, columns: list[str]) -> None:
    for name in columns:
        x, y = a[name][:], b[name][:]
        torch.testing.assert_close(y.to(x.dtype), x, rtol=0, atol=0)
