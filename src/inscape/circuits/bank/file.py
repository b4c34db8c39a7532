"""An ablation bank as one safetensors file: tables as they are, the keys and the rest as versioned JSON."""

import json
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import torch

from inscape.circuits.bank.bank import Bank
from inscape.circuits.bank.keys import NAMES, Keys
from inscape.core.errors import FileError, InputError
from inscape.core.tensor_file import read_tensors, write_tensors

KIND, VERSION = "an ablation bank", 1
SINGLE = ("counts", "key_pos", "position_counts", "pool_pos", "pool_key")
BY_SITE = ("means", "position_means", "mean", "pool")


def save(bank: Bank, path: str | Path) -> None:
    """See `Bank.save`."""
    tensors = {name: getattr(bank, name) for name in SINGLE}
    tensors |= {f"{kind}/{site}": x for kind in BY_SITE for site, x in getattr(bank, kind).items()}
    about: dict[str, Any] = {"kind": KIND, "version": VERSION, "model": bank.model, "sites": bank.sites}
    about |= {"norm_ratio": bank.norm_ratio, "key": bank.keys.name}
    if isinstance(bank.keys.key, str):
        tensors["keys"] = torch.tensor(bank.keys.values, dtype=torch.long)
    else:
        about["keys"] = [_out(value) for value in bank.keys.values]
    write_tensors(path, tensors, {"inscape": json.dumps(about)})


def load(path: str | Path, key: Callable[..., Hashable] | None = None) -> Bank:
    """See `Bank.load`."""
    tensors, about = read_tensors(path, KIND, VERSION)
    name = about.get("key")
    if name not in NAMES and key is None:
        raise InputError(f"{str(path)!r} has the {name} as its key, and code is never stored: pass key=.")
    try:
        sites = about["sites"]
        if name in NAMES:
            keys = Keys(name, tensors["keys"].tolist())
        else:
            keys = Keys(key, [_in(value) for value in about["keys"]])  # type: ignore[arg-type]
        parts: dict[str, Any] = {kind: {site: tensors[f"{kind}/{site}"] for site in sites} for kind in BY_SITE}
        parts |= {single: tensors[single] for single in SINGLE}
        bank = Bank(keys, **parts, norm_ratio=about["norm_ratio"], model=about["model"])
    except (KeyError, TypeError, AttributeError) as error:
        raise FileError(f"{str(path)!r} is not a complete ablation bank: {type(error).__name__} {error}.") from error
    if any(len(keys.values) != len(x) for x in (bank.counts, bank.key_pos, *bank.means.values())):
        raise FileError(f"{str(path)!r} is damaged: its {len(keys.values)} keys are not as many as its means.")
    return bank


def _out(value: Hashable) -> Any:
    if isinstance(value, tuple):
        return [_out(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise InputError(
        f"a key of this bank is a {type(value).__name__}, which a file cannot hold.\n"
        "  let the key function return numbers, texts, or tuples of them."
    )


def _in(value: Any) -> Hashable:
    return tuple(_in(v) for v in value) if isinstance(value, list) else value
