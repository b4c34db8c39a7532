"""How every benchmark here measures: cases and their baseline take turns in one process, checked before they are timed.

1. `check` runs first and raises when the two sides do not compute the same; nothing wrong is ever timed.
2. Every case and the baseline run `warm_up` rounds untimed.
3. In each round all of them run once, in an order that is turned round every time, so that a slow spell of the
   machine hits all alike. A sample is the mean of `inner` calls.
4. The ratio of a case is the median over rounds of (its time / the baseline's time in the same round); spread is the
   quartiles of those. Beside it stands the ratio of the fastest samples, which other users of the machine touch least;
   it decides nothing.
"""

import gc
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from inscape.core import machine as kind
from inscape.core.machine import cpu

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
SEED = 0
THREADS = 2

Row = dict[str, Any]


def set_up() -> None:
    """The same seed and threads for every benchmark."""
    import torch

    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)


def paired(
    title: str,
    baseline: Callable[[], Any],
    cases: dict[str, tuple[Callable[[], Any], float | None]],
    *,
    samples: int = 7,
    warm_up: int = 2,
    inner: int = 1,
    **about: Any,
) -> list[Row]:
    """Time the cases against the baseline; cases: name -> (function, the ratio to stay under, or None)."""
    calls = {"": baseline, **{name: call for name, (call, _) in cases.items()}}
    for _ in range(warm_up):
        for call in calls.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    gc.collect()
    for _ in range(samples):
        for name in order:
            start = time.perf_counter()
            for _ in range(inner):
                calls[name]()
            times[name].append((time.perf_counter() - start) / inner)
        order.reverse()
    return [row(title, name, times[name], times[""], limit, inner=inner, **about) for name, (_, limit) in cases.items()]


def row(title: str, name: str, ours: list[float], base: list[float], limit: float | None, **about: Any) -> Row:
    """One line of the result: medians in seconds, the median ratio of pairs and its quartiles."""
    ratios = [a / b for a, b in zip(ours, base, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    ratio = statistics.median(ratios)
    met = None if limit is None else ratio <= limit
    said = "" if met is None else f"  (to reach: {limit:g}; {'met' if met else 'MISSED'})"
    median = statistics.median(ours)
    numbers = f"{ratio:.3f} [{low:.3f}, {high:.3f}], fastest {min(ours) / min(base):.3f}, {1e3 * median:.2f} ms"
    print(f"  {title}: {name}: {numbers}{said}", flush=True)
    return {
        "title": title,
        "case": name,
        "ratio": round(ratio, 4),
        "quartiles": [round(low, 4), round(high, 4)],
        "ratio_of_fastest": round(min(ours) / min(base), 4),
        "median_s": median,
        "baseline_median_s": statistics.median(base),
        "samples": len(ours),
        "limit": limit,
        "met": met,
        **about,
    }


def same(what: str, ours: Any, theirs: Any, tolerance: float = 0.0) -> None:
    """Raise unless two tensors are equal, or equal to a relative tolerance where rounding may differ."""
    import torch

    if ours.shape != theirs.shape:
        raise AssertionError(f"{what}: shapes {tuple(ours.shape)} and {tuple(theirs.shape)}")
    if tolerance == 0.0:
        if not torch.equal(ours, theirs):
            raise AssertionError(f"{what}: not bit-equal")
        return
    error = float((ours - theirs).norm() / theirs.norm())
    if error > tolerance:
        raise AssertionError(f"{what}: relative error {error:.2e} > {tolerance:.0e}")


def machine() -> str:
    """A short name for this kind of machine, no host name; INSCAPE_BENCH_MACHINE overrides it."""
    named = os.environ.get("INSCAPE_BENCH_MACHINE")
    if named:
        return named
    return (
        re.sub(r"[^a-z0-9]+", "-", f"{platform.machine()}-{os.cpu_count()}cpu-{cpu()}".lower())
        .strip("-")[:48]
        .strip("-")
    )


def write(name: str, rows: list[Row], **about: Any) -> Path:
    """Write bench/results/<machine>-<name>.json with all that is needed to measure the same again."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{machine()}-{name}.json"
    packages = {p: version(p) for p in ("torch", "transformers")}
    record = {
        "name": name,
        "machine": {"name": machine(), "cpu": cpu(), "cores": os.cpu_count(), "system": platform.system()},
        "python": platform.python_version(),
        "packages": packages,
        "commit": commit(),
        "threads": THREADS,
        "seed": SEED,
        "date": time.strftime("%Y-%m-%d"),
        **about,
        "rows": rows,
    }
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"  wrote {path.relative_to(ROOT)}")
    return path


def commit() -> str:
    """The commit measured, with + when the working tree differs from it."""
    return kind.commit(ROOT, "src")


def rounds(full: int) -> int:
    """Samples to take; INSCAPE_BENCH_SAMPLES makes a smoke run short (such runs are not results)."""
    return int(os.environ.get("INSCAPE_BENCH_SAMPLES", full))


def resident() -> int:
    """Bytes of memory this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peaked(call: Callable[[], Any]) -> tuple[Any, int]:
    """What a call gives, and how many bytes this process held at most during it, beyond what it held before."""
    gc.collect()
    before = resident()
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts again
    found = call()
    status = Path("/proc/self/status").read_text()
    return found, int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024 - before
