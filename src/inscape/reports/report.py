"""The main job: one self-contained page about one model."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inscape.core.costs import peak_bytes, words_of
from inscape.core.durable import disk_errors, written
from inscape.core.errors import FileError, InputError
from inscape.core.progress import Progress, tell
from inscape.models.model import Model
from inscape.models.open import open as open_model
from inscape.reports.material import Material, gather
from inscape.reports.plan import Plan, plan_report
from inscape.reports.sections import (
    concepts,
    depth,
    heads,
    languages,
    lens,
    neurons,
    outliers,
    similarity,
    skipping,
    stream,
    trajectories,
    voids,
)
from inscape.reports.sections import model as about
from inscape.view.figure import Section
from inscape.view.page import page

SECTIONS: dict[str, Callable[[Model, Material], Section]] = {
    "model": about.section,
    "lens": lens.section,
    "languages": languages.section,
    "stream": stream.section,
    "skipping": skipping.section,
    "depth": depth.section,
    "concepts": concepts.section,
    "outliers": outliers.section,
    "heads": heads.section,
    "neurons": neurons.section,
    "voids": voids.section,
    "trajectories": trajectories.section,
    "similarity": similarity.section,
}


@dataclass(frozen=True, eq=False)
class Report:
    """A finished report. html: the whole page. path: where it was written, None when it was not. plan: what was
    predicted before; took_s, peak_bytes: what it was."""

    html: str
    sections: tuple[Section, ...]
    plan: Plan
    took_s: float
    peak_bytes: int
    path: Path | None = None

    def save(self, to: str | Path) -> Path:
        """Write the page; a reader never sees half of it.

        Raises: FileError when the folder is not there or cannot be written.
        """
        target = Path(to)
        if not target.parent.is_dir():
            raise FileError(f"cannot write {str(target)!r}: there is no folder {str(target.parent)!r}.")
        with (
            disk_errors(str(target), lambda: "choose a folder that can be written to."),
            written(target, replace=True) as file,
        ):
            file.write(self.html.encode())
        return target

    def __fspath__(self) -> str:
        if self.path is None:
            raise FileError("this report was not written; call report.save(path).")
        return str(self.path)

    def __repr__(self) -> str:
        shown = sum(section.skipped is None for section in self.sections)
        return (
            f"Report({shown} of {len(self.sections)} sections, {len(self.html) / 1e6:.1f} "
            f"MB, {self.took_s:.0f} s, {self.path})"
        )


def report(
    model: Any,
    texts: Any = None,
    to: str | Path | None = "report.html",
    progress: Progress = None,
    *,
    sections: Sequence[str] | None = None,
    verify: bool = True,
    seed: int = 0,
) -> Report:
    """Make the report of a model: what it is, what it would say, what each part adds, and what breaks without it.

    model: an opened model, or what `ins.open` takes. texts: texts, token ids, images or the module's own arguments;
    inputs that suit the model when left out. to: the HTML file, None for none. sections: names out of `SECTIONS`.
    verify: prove the sites first (names that fail are withdrawn, on this model object). Sections that do not apply to
    the model say why. progress is told the predicted cost first, then every step.
    Cost: predicted by `ins.plan`; minutes on two cores for a model of 270 million parameters. Memory stays bounded: one
    input at a time, scores over the vocabulary in chunks.
    Raises: InputError for an unknown section or inputs that do not fit; FileError when the page cannot be written.
    """
    started = time.perf_counter()
    names = _named(sections)
    if to is not None and not Path(to).parent.is_dir():  # known now, not after minutes of work
        raise FileError(f"cannot write {str(to)!r}: there is no folder {str(Path(to).parent)!r}.")
    model = open_model(model) if not isinstance(model, Model) else model
    material = gather(model, texts, seed=seed)
    predicted = plan_report(model, material)
    tell(progress, f"predicted: {predicted}", 0.0)
    made: list[Section] = []
    known = dict(predicted.parts)
    weights = [known.get({"model": "what the model is"}.get(name, name), 1.0) + 0.1 for name in names]
    for index, name in enumerate(names):
        low, high = sum(weights[:index]) / sum(weights), sum(weights[: index + 1]) / sum(weights)

        def inner(message: str, fraction: float | None = None, low: float = low, high: float = high) -> None:
            tell(progress, message, low + (high - low) * (fraction or 0.0))

        inner(_doing(name))
        if name == "model" and verify and not model.status:
            inner("proving the sites")
            model.verify()
        made.append(SECTIONS[name](model, _with_progress(material, inner)))
    tell(progress, "writing the page", 0.98)
    took = time.perf_counter() - started
    facts = _facts(model, material, predicted, took)
    html = page(
        f"{model.source or type(model.module).__name__} from the inside", facts, made, lead=_lead(model, material)
    )
    done = Report(html, tuple(made), predicted, time.perf_counter() - started, peak_bytes())
    if to is None:
        return done
    path = done.save(to)
    tell(progress, f"wrote {path} in {words_of(done.took_s)} (predicted {words_of(predicted.seconds)})", 1.0)
    return Report(done.html, done.sections, done.plan, done.took_s, done.peak_bytes, path)


def _named(sections: Sequence[str] | None) -> list[str]:
    if sections is None:
        return list(SECTIONS)
    chosen = [sections] if isinstance(sections, str) else list(sections)
    unknown = [name for name in chosen if name not in SECTIONS]
    if unknown or not chosen:
        raise InputError(
            f"a report has no section {', '.join(map(repr, unknown)) or '(none given)'}; "
            f"there are {', '.join(SECTIONS)}."
        )
    return [name for name in SECTIONS if name in chosen]


def _doing(name: str) -> str:
    return {
        "model": "what the model is",
        "lens": "what it would say after each layer",
        "languages": "which language it thinks in",
        "stream": "what each layer adds",
        "skipping": "skipping each layer",
        "depth": "who depends on which layer",
        "concepts": "at which layer it knows",
        "outliers": "massive activations and sinks",
        "heads": "what the heads do",
        "neurons": "how many neurons work",
        "voids": "watching for voids",
        "trajectories": "watching how the stream drifts",
        "similarity": "which layers hold the same",
    }[name]


def _with_progress(material: Material, progress: Callable[..., None]) -> Material:
    from dataclasses import replace

    return replace(material, progress=progress)


def _facts(model: Model, material: Material, predicted: Plan, took: float) -> dict[str, str]:
    n = sum(p.numel() for p in model.module.parameters())
    size = f"{n / 1e6:,.1f} million" if n >= 1e6 else f"{n:,}"
    proven = sum(status == "proven" for status, _ in model.status.values())
    sites = f"{len(model.sites):,}" + (f", {proven:,} proven" if proven else "")
    return {
        "Family": model.family.name + (" (inferred)" if model.inferred else ""),
        "Layers": str(model.n_layers),
        "Parameters": size,
        "Numbers": f"{str(model.dtype).removeprefix('torch.')} on {model.device.type}",
        "Sites": sites,
        "Inputs": material.said,
        "Seed": str(material.seed),
        "Weights": model.fingerprint,
        "Time": f"{words_of(took)} (predicted {words_of(predicted.seconds)})",
        "Memory": f"{peak_bytes() / 2**30:.1f} GiB at most (predicted {predicted.peak_bytes / 2**30:.1f})",
    }


def _lead(model: Model, material: Material) -> str:
    what = {
        "causal": "a model that predicts the next token",
        "tokens": "a model that reads tokens",
        "image": "a model that looks at images",
    }
    return (
        f"{type(model.module).__name__}, {what.get(material.kind, 'a network')}, run on "
        f"{material.said}; every figure stands beside its control."
    )
