"""What the process holds in memory, and durations in words: for plans and for what came of them."""

import resource
import sys
from pathlib import Path


def resident_bytes() -> int:
    """Memory of this process now (its peak, where the system does not say)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return peak_bytes()


def peak_bytes() -> int:
    """The largest resident memory of this process so far."""
    top = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return top if sys.platform == "darwin" else top * 1024


def words_of(seconds: float) -> str:
    """ "40 s", "3.0 min", "5.0 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
