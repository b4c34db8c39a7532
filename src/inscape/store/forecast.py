"""What a record will cost, from a short calibration before it starts."""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass

from inscape.core.costs import resident_bytes, words_of
from inscape.core.errors import InputError
from inscape.core.progress import Progress, tell
from inscape.store.job import Job

LOOKED_AT = 192  # samples whose lengths are looked at
TIMED = 24  # samples that are run


@dataclass(frozen=True)
class RecordPlan:
    """A predicted record.

    seconds: wall time of one worker on this machine as it is now; bytes: on disk; peak_bytes: the largest resident
    memory of the process, weights included; site_bytes: on disk by column; rows, tokens: in all.
    """

    seconds: float
    bytes: int
    peak_bytes: int
    rows: int
    tokens: int
    site_bytes: Mapping[str, int]

    def __str__(self) -> str:
        sites = ", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in self.site_bytes.items())
        return (
            f"record: {self.rows:,} rows of {self.tokens:,} tokens, {self.bytes / 1e6:,.1f} MB on disk ({sites}), "
            f"about {words_of(self.seconds)}, {self.peak_bytes / 2**30:.1f} GiB of memory"
        )


def forecast(job: Job, progress: Progress = None) -> RecordPlan:
    """Predict a record from the lengths of some samples and the time of a few, picked at random (seeded).

    Cost: running 24 samples twice. The prediction assumes that the machine stays as busy as it is.
    """
    n, pick = job.data.n, random.Random(0)
    if n is None:
        raise InputError(
            "a plan needs to know how many samples there are, and these data end somewhere.\n"
            "  plan a list of some of them; the costs of all are in proportion."
        )
    looked = sorted(pick.sample(range(n), min(n, LOOKED_AT)))
    found = [job.data.get(i, i + 1)[0][0] for i in looked]
    timed = found if len(found) <= TIMED else pick.sample(found, TIMED)
    best, rows, lengths = float("inf"), 0, [0]
    for turn in range(2):
        tell(progress, "timing a few samples", turn / 2)
        start = time.perf_counter()
        values, about = job.harvest.unit(0, timed)
        best, rows = min(best, time.perf_counter() - start), len(values.get("sample", ()))
        lengths = [a["tokens"] for a in about]
    timed_tokens = max(1, sum(lengths))
    share = job.harvest.lengths(found)
    tokens = round(sum(share) / len(share) * n)
    all_rows = n if job.is_one_row else round(rows / timed_tokens * tokens)
    widths = {c.name: c.row_bytes for c in job.about.columns}
    text = sum(len(str(s)) if isinstance(s, str) else 0 for s in found) / len(found) * n if job.keep_text else 0
    unit_rows = all_rows / n * min(n, job.about.unit_samples)
    held = 3 * job.shard_bytes + 3 * unit_rows * sum(widths.values())
    return RecordPlan(
        seconds=best / timed_tokens * tokens, bytes=int(all_rows * sum(widths.values()) + text), rows=all_rows,
        peak_bytes=int(resident_bytes() + held), tokens=tokens,
        site_bytes={c.name: all_rows * widths[c.name] for c in job.about.columns if c.site},
    )  # fmt: skip
