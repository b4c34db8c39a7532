"""`inscape record`: activations of a file of texts or a folder of images, into a folder."""

import re
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from inscape.cli.console import Debug, Json, ModelName, open_model, print_json, progress


def record(
    model: ModelName,
    data: Path,
    /,
    *,
    to: Path,
    read: Annotated[list[str] | None, Parameter(negative="")] = None,
    reduce: str | None = None,
    dtype: str | None = None,
    field: str | None = None,
    max_length: int | None = None,
    batch_tokens: int = 4096,
    unit_samples: int | None = None,
    shard_bytes: int = 64 << 20,
    worker: str = "0/1",
    engine: str = "local",
    workers: int = 2,
    overflow: str = "refuse",
    edits: Path | None = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Record sites over data into a folder; the same command again goes on where it was stopped.

    Parameters
    ----------
    data:
        A .txt file (one sample a line), a .jsonl file, or a folder of images.
    to:
        The folder of the store.
    read:
        A site or pattern; may be given more than once. The residual stream after the middle layer if left out.
    reduce:
        Which rows to keep: last, first, mean, or every k-th token, written every:8. Every token if left out.
    dtype:
        Stored type: bfloat16, float16, float32. The model's own if left out.
    field:
        The field of each JSON line that holds the text.
    max_length:
        Cut samples to so many tokens.
    batch_tokens:
        Padded tokens of one forward pass.
    unit_samples:
        Samples that are computed and listed together; 64 if left out.
    shard_bytes:
        Size of a file.
    worker:
        i/n: this process takes every n-th part of the work; start n of them on one folder.
    engine:
        local, or ray for the Ray cluster that is there.
    workers:
        Copies of the model on the Ray cluster.
    overflow:
        What to do with values that the stored type cannot hold: refuse or scale.
    edits:
        A file of edits (ins.save_edits) that are in force while it runs; the store says which they were.
    """
    import inscape as ins

    share = re.fullmatch(r"(\d+)/(\d+)", worker)
    if share is None or not int(share[1]) < int(share[2]):
        raise ins.InputError(f"--worker {worker}: write i/n with i from 0 to n - 1, such as 0/4.")
    every = re.fullmatch(r"every:([1-9]\d*)", reduce or "")
    which = slice(None, None, int(every[1])) if every else reduce
    opened = open_model(model, quiet=as_json)
    sites = read or [f"layers.{opened.n_layers // 2}.resid_post"]
    settings = {
        "reduce": which, "dtype": dtype, "field": field, "max_length": max_length, "batch_tokens": batch_tokens,
        "overflow": overflow, "unit_samples": unit_samples, "shard_bytes": shard_bytes,
        "edits": ins.load_edits(edits) if edits is not None else (),
    }  # fmt: skip
    with progress("looking at the data", as_json) as tell:
        planned = ins.plan(opened, data, "record", sites=sites, **settings)
        tell(str(planned), None)
        store = ins.record(
            opened, data, sites, to, engine=engine, worker=(int(share[1]), int(share[2])), workers=workers,
            plan=planned, progress=tell, **settings,
        )  # fmt: skip
    if as_json:
        print_json({"store": str(store.path), "rows": len(store), "complete": store.is_complete, "plan": planned})
    else:
        print(store)
