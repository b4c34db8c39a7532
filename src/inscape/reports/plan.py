"""What a job will cost, from one small forward pass, before it starts."""

import time
from dataclasses import dataclass
from typing import Any

import torch

from inscape.circuits.heads.probes import N_PAIRS
from inscape.circuits.sweep_plan import SweepPlan, plan_sweep
from inscape.core.costs import resident_bytes, words_of
from inscape.core.errors import InputError, InscapeError
from inscape.engine.forward import run
from inscape.engine.unembed import BUDGET, unembedding
from inscape.models.model import Model
from inscape.reports.material import Material, gather
from inscape.reports.sections import concepts, trajectories, voids
from inscape.store.forecast import RecordPlan, forecast
from inscape.store.record import prepare
from inscape.tasks.concepts import CONCEPTS
from inscape.tasks.induction import repeated_probe

JOBS = ("report", "record", "sweep")
PAGE_BYTES = 1_100_000  # the drawing library, once; the data of the figures come on top
PAGE_SECONDS = 6.0  # bundling the library and writing specs
SKIP_POSITIONS = 64
VERIFY_RUNS = 50  # what proving every site costs in forwards without a head, measured on Gemma 3 270M


@dataclass(frozen=True)
class Plan:
    """A predicted cost.

    seconds: wall time on this machine as it is now. bytes: what is written. peak_bytes: the largest resident memory of
    the process, weights included. parts: seconds of each section.
    """

    job: str
    seconds: float
    bytes: int
    peak_bytes: int
    parts: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        return (
            f"{self.job}: about {words_of(self.seconds)}, {self.bytes / 1e6:.1f} MB on "
            f"disk, {self.peak_bytes / 2**30:.1f} GiB of memory"
        )


def plan(model: Model, data: Any = None, job: str = "report", **settings: Any) -> Plan | RecordPlan | SweepPlan:
    """Predict seconds, bytes and peak memory of a job before it starts, from a calibration that writes nothing.

    job: "report", of some texts; "record", with whatever `ins.record` will be given:
    `ins.plan(model, data, "record", sites=...)`. What it gives, passed to `ins.record(plan=...)`, is kept beside the
    outcome. "sweep", of a pair of prompts or of pairs: `ins.plan(model, (clean, corrupted), "sweep", sites=...)`.
    A prediction assumes that the machine stays as busy as it is. Cost: about two percent of a report; 48
    samples of a record. Raises: InputError for an unknown job or setting.
    """
    if job not in JOBS:
        raise InputError(f"there is no plan for {job!r}; jobs with one are {', '.join(JOBS)}.")
    if job == "record":
        sites = settings.pop("sites", None)
        if sites is None:
            raise InputError("a plan for a record needs sites=: what is to be read.")
        return forecast(prepare(model, data, sites, None, **settings))
    if job == "sweep":
        if data is None:
            raise InputError('a plan for a sweep needs its prompts: ins.plan(model, (clean, corrupted), "sweep").')
        pair = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
        return plan_sweep(model, *pair, **settings)
    if settings:
        raise InputError(f"a plan for a report takes no {', '.join(settings)}.")
    return plan_report(model, gather(model, data))


def plan_report(model: Model, material: Material) -> Plan:
    """What a report of this material will cost.

    Four short forwards without the head give the seconds a position; two sizes of head batch the seconds a row.
    """
    n_layers = max(1, len([b for b in model.blocks if f"{b.name}.resid_post" in model.sites]))
    forward = _forward_seconds(model, material)
    per_run = forward * _relative_size(material)
    rows, read = _head_seconds(model)
    lens_rows = (n_layers + 2) * (len(material.names[0]) if material.names else 0)
    batch = _batch_runs(material)
    parts = {
        "what the model is": _verify_seconds(model, forward),
        "lens": per_run + lens_rows * read,
        "languages": _language_prompts(model, material) * (per_run + (n_layers + 2) * read),
        "stream": len(material.runs) * per_run,
        "skipping": (1 + 3 * n_layers) * (batch * per_run + SKIP_POSITIONS * read),
        "depth": 1.5 * n_layers * min(2, len(material.runs)) * per_run,
        "concepts": _concept_runs(model, material) * per_run,
        "outliers": 2 * len(material.runs) * per_run,
        "heads": 4 * _probe_runs(model, material) * per_run + _atlas_tokens(model) * per_run / _length(material),
        "neurons": (1.5 * len(material.runs) + 2 * min(4, len(material.runs)) + 5) * per_run,  # and what cutting costs
        "voids": voids.SAID * _step_seconds(model, forward, rows) if material.kind == "causal" else 0.0,
        "trajectories": trajectories.SAID * _step_seconds(model, forward, rows) if material.kind == "causal" else 0.0,
        "similarity": len(material.runs) * per_run + _compared_seconds(n_layers, material, model),
        "page": PAGE_SECONDS,
    }
    if lens_rows == 0 or rows == 0.0:
        parts["lens"] = 0.0
    width = max((p.shape[-1] for p in model.module.parameters() if p.ndim > 1), default=1)
    held = 4 * width * max(len(n) for n in material.names) * 6 * n_layers if material.names else 32 * 2**20
    peak = (
        resident_bytes() + (3 * BUDGET if rows else 0) + held + 400 * 2**20
    )  # scores in three forms; drawing and browser bundle
    return Plan("report", sum(parts.values()), PAGE_BYTES + 60 * lens_rows, int(peak), tuple(parts.items()))


def _forward_seconds(model: Model, material: Material) -> float:
    """One input through all blocks, no head; the best of four, as the first ones also read the weights from disk."""
    last = [b.name for b in model.blocks][-1:]
    site = next((f"{name}.{s}" for name in last for s in ("resid_post", "out") if f"{name}.{s}" in model.sites), None)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        run(model, material.runs[0], read=site)
        best = min(best, time.perf_counter() - start)
    return best


def _concept_runs(model: Model, material: Material) -> float:
    """Inputs as long as these that the texts of the section of concepts amount to; twice, for the probes."""
    if model.tokenizer is None or material.kind not in ("causal", "tokens"):
        return 0.0
    return 2 * len(CONCEPTS) * concepts.N * concepts.TOKENS / _length(material)


def _step_seconds(model: Model, forward: float, rows: float) -> float:
    """A cached step of a few rows: the weights are read once, which is most of a short forward; and the head."""
    return 0.6 * forward + 4 * rows


def _relative_size(material: Material) -> float:
    """The mean length of an input over that of the first, which was timed."""
    if not material.names:
        return 1.0
    return sum(map(len, material.names)) / len(material.names) / len(material.names[0])


def _head_seconds(model: Model) -> tuple[float, float]:
    """Seconds a row of scores, alone and with the statistics that a lens takes of it."""
    try:
        unembed = unembedding(model)
        weight = next(unembed.head.parameters(), None)
        if weight is None or weight.ndim != 2:
            return 0.0, 0.0
        state = torch.randn(min(24, unembed.rows_at_once()), weight.shape[-1], dtype=weight.dtype, device=weight.device)
        start = time.perf_counter()
        scores = unembed(state, normed=True)
        alone = time.perf_counter() - start
        logp = torch.log_softmax(scores, -1)
        logp.topk(min(5, logp.shape[-1]), -1)
        _ = (logp.exp() * logp).sum(-1), (logp > 0).sum(-1), (logp > 1).sum(-1)
        return alone / len(state), (time.perf_counter() - start) / len(state)
    except (InscapeError, RuntimeError, TypeError, ValueError):
        return 0.0, 0.0


def _verify_seconds(model: Model, forward: float) -> float:
    return 0.0 if model.status else VERIFY_RUNS * forward


def _compared_seconds(n_layers: int, material: Material, model: Model) -> float:
    """Kernels and covariances of all layers: a product is timed, and their operations are counted."""
    width = int(getattr(getattr(model.config, "get_text_config", lambda: model.config)(), "hidden_size", 0) or 256)
    rows = max(1, min(material.n_positions, 2000))
    some = torch.randn(256, width)
    start = time.perf_counter()
    for _ in range(4):
        some @ some.T
    each = (time.perf_counter() - start) / (4 * 256 * 256 * width)
    in_float32, in_float64 = rows * rows * width, 2 * rows * width**2 + 12 * width**3
    return n_layers * each * (in_float32 + 4 * in_float64)


def _batch_runs(material: Material) -> float:
    return float(len(material.batch)) if isinstance(material.batch, (list, torch.Tensor)) else 1.0


def _length(material: Material) -> int:
    return max(1, len(material.names[0])) if material.names else 1


def _atlas_tokens(model: Model) -> float:
    """What the atlas of heads runs beside its probe, in tokens: members of classes in frames, pairs and patches.

    A patched run reads one token, for what ten cost in one run; and as these run many at a time, a token of theirs
    costs less than half of what it does in the one short input that was timed: measured on Gemma 3 270M.
    """
    if model.tokenizer is None:
        return 0.0
    heads = sum(block.points["attn.z"].heads or 1 for block in model.blocks if "attn.z" in block.points)
    return 0.45 * (3 * 340 * 8 + N_PAIRS * (4 * 18 + 10 * heads))


def _language_prompts(model: Model, material: Material) -> float:
    """Prompts of the section on languages, in inputs of the report."""
    if model.tokenizer is None or material.kind != "causal":
        return 0.0
    return 32.0 * 45 / (45 + _length(material)) if material.names else 32.0


def _probe_runs(model: Model, material: Material) -> float:
    """How many of the report's inputs the head probe is as long as."""
    if material.kind not in ("causal", "tokens") or not material.names:
        return 0.0
    try:
        return repeated_probe(model, 24, 8).numel() / len(material.names[0])
    except InscapeError:
        return 0.0
