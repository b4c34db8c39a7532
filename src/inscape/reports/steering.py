"""Steering from two lists of texts: a direction, where it is best read, its strength, and its proof beside controls.

1. A third of the texts is kept aside. Directions of all sites are fitted on the others, and measured on what was kept.
2. On half of the prompts some sites are tried, each at the strength that spends the KL budget; the best is kept.
3. There the direction is given at several doses to the model as it writes on from the prompts; so are controls.
4. The dose of the largest effect within the budget is chosen on that half of the prompts and measured on the others.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from inscape.core.direction import Direction
from inscape.core.directions import Directions
from inscape.core.durable import disk_errors, written
from inscape.core.edit import Edit
from inscape.core.edit_file import save_edits
from inscape.core.errors import InputError, SiteError
from inscape.core.progress import Progress, part, tell
from inscape.models.model import Model
from inscape.models.open import open as open_model
from inscape.reports.steering_page import steering_page
from inscape.steer.calibrate import calibrate_strength
from inscape.steer.dose import Best, Dose
from inscape.steer.dose_response import chosen_on, dose_response
from inscape.steer.fit_directions import fit_directions
from inscape.steer.judges import classifier
from inscape.steer.quality import Quality, quality
from inscape.steer.shuffles import fit_shuffles
from inscape.steer.where import Where, choose_site
from inscape.tasks.plain_text import plain_text

DOSES = (-1.0, 0.0, 0.25, 0.5, 1.0, 2.0)  # of the strength that spends the budget
FEWEST = 8  # texts a side
N_PROMPTS, WORDS = 16, 6  # of the package's own: beginnings of sentences of its plain texts, and their length
SITES = "layers.*.resid_post"


@dataclass(frozen=True, eq=False)
class Steering:
    """A direction with its proof.

    direction: at `direction.site`, from the texts that were not kept aside. quality: of every site's direction on the
    texts kept aside. dose: what each strength did, with controls. best: the dose for the budget, measured on prompts it
    was not chosen on. where: the sites that were tried; None where one was given. html: the page about all of it.
    """

    direction: Direction
    quality: Quality
    dose: Dose
    best: Best
    kl_budget: float
    html: str
    where: Where | None = None

    @property
    def edits(self) -> list[Edit]:
        """What `ins.run` and `ins.generate` take; empty where no dose within the budget did anything."""
        return list(self.best.edits)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against the direction, in words."""
        mine = tuple(w for w in self.quality.warnings if w.startswith(f"{self.direction.site}:"))
        none = () if self.best.dose else (f"no dose within a KL of {self.kl_budget:g} changes the score as it should.",)
        return (*mine, *none, *self.dose.warnings)

    def save(self, folder: str | Path) -> list[Path]:
        """Write report.html, direction.safetensors, dose.safetensors, edits.safetensors (where a dose was chosen) and
        numbers.json into a folder, which is made; for directions between blocks a control vector, direction.gguf, too.

        Raises: FileError when the folder cannot be written.
        """
        folder = Path(folder)
        with disk_errors(str(folder), lambda: "choose a folder that can be written to."):
            folder.mkdir(parents=True, exist_ok=True)
            with written(folder / "report.html", replace=True) as file:
                file.write(self.html.encode())
            with written(folder / "numbers.json", replace=True) as file:
                file.write(json.dumps(self.numbers(), indent=1).encode())
        made = [folder / "report.html", folder / "numbers.json"]
        self.direction.save(folder / "direction.safetensors")
        self.dose.save(folder / "dose.safetensors")
        made += [folder / "direction.safetensors", folder / "dose.safetensors"]
        if self.edits:
            save_edits(folder / "edits.safetensors", self.edits, model=self.direction.model)
            made.append(folder / "edits.safetensors")
        try:
            Directions.of(self.direction).save_gguf(folder / "direction.gguf")
            made.append(folder / "direction.gguf")
        except SiteError:
            pass  # llama.cpp has no name for that place
        return made

    def numbers(self) -> dict[str, Any]:
        """Everything that was measured, as plain values."""
        best = self.best
        spans = {n: getattr(best, n) for n in ("effect", "base", "change", "kl", "fluency", "base_fluency")}
        spans |= {f"{name} control": span for name, span in best.controls.items()}
        return {
            "site": self.direction.site,
            "direction": self.direction.source,
            "model": self.direction.model,
            "judge": self.dose.judge,
            "kl_budget": self.kl_budget,
            "dose": best.dose,
            "unit": self.dose.unit,
            "measured_on": best.on,
            "measured": {n: {"value": s.value, "low": s.low, "high": s.high, "n": s.n_items} for n, s in spans.items()},
            "warnings": list(self.warnings),
            "sites": self.quality.rows(),
            "tried": self.where.rows() if self.where else [],
            "doses": self.dose.rows(),
        }


def steering_report(
    model: Any,
    positive: Sequence[str],
    negative: Sequence[str],
    prompts: Sequence[str] | None = None,
    *,
    judge: Any = None,
    site: str | None = None,
    doses: Sequence[float] | None = None,
    kl_budget: float = 0.2,
    method: str = "mean_difference",
    position: Any = "last",
    max_new_tokens: int = 24,
    to: str | Path | None = None,
    seed: int = 0,
    progress: Progress = None,
) -> Steering:
    """From two lists of texts to a direction, a dose for a KL budget, and a page with all controls: `inscape steer`.

    model: an opened model, or what `ins.open` takes. positive, negative: texts that have what is wanted, and like
    ones that do not; a third is kept aside to measure the direction on (pairs by index stay together). prompts:
    beginnings to write on from, 4 at least; the package's own when left out. judge: of `core.judges` or
    `steer.judges`, or a function of a text; when left out a classifier of MiniLM embeddings fitted on the texts.
    site: where to steer; left out, `choose_site` tries five of `layers.*.resid_post` on half of the prompts. doses:
    shares of each token's length; left out, a few times the strength that spends the budget there, which is searched.
    kl_budget: nats a token that the steered model may be from the plain one. method, position: as in `fit_directions`.
    to: a folder for the files of `Steering.save`.
    Cost: one forward a text, and `dose_response` of 5 curves: prompts x doses x 5 texts are written and scored, some
    400 with the defaults, which is minutes for Gemma 3 270M on two cores.
    Raises: InputError for fewer than 8 texts a side or 4 prompts, and as the functions it calls.
    """
    model = open_model(model) if not isinstance(model, Model) else model
    if min(len(positive), len(negative)) < FEWEST:
        raise InputError(
            f"{len(positive)} positive and {len(negative)} negative texts: {FEWEST} a side at least, since a third is "
            "kept aside\n  to measure on; 30 or more give a direction that other texts agree with."
        )
    if judge is None:
        tell(progress, "fitting the judge", 0.02)
        groups = list(range(len(positive))) * 2 if len(positive) == len(negative) else None
        judge = classifier(open_model("minilm-l6"), positive, negative, groups=groups, name="like the positive texts")
    kept, rest = _kept(len(positive), len(negative), seed)
    high, low = _split(positive, rest[0], kept[0]), _split(negative, rest[1], kept[1])
    how: dict[str, Any] = {"method": method, "position": position}
    sites = SITES if site is None else site
    made = fit_directions(model, high[0], low[0], sites, **how, progress=part(progress, 0.05, 0.12))
    found = quality(made, model, high[1], low[1], position=position, seed=seed, progress=part(progress, 0.12, 0.18))
    begun = _prompts(prompts)
    chosen = chosen_on(len(begun), seed=seed)
    mine = [p for p, take in zip(begun, chosen.tolist(), strict=True) if take]
    where = None
    if len(made) > 1 and len(mine) >= 4:
        where = choose_site(
            model, made, mine, judge, kl_budget, max_new_tokens=max_new_tokens, progress=part(progress, 0.18, 0.4)
        )
    direction = made[where.best if where else found.best]
    if doses is None:
        full = where.strength if where else calibrate_strength(
            model, direction, mine, kl_budget, unit="relative", max_new_tokens=max_new_tokens,
            progress=part(progress, 0.3, 0.4),
        ).gamma  # fmt: skip
        doses = [full * share for share in DOSES]
    shuffles = fit_shuffles(
        model, high[0], low[0], direction.site, **how, seed=seed, progress=part(progress, 0.4, 0.42)
    )
    dose = dose_response(
        model, direction, begun, doses, judge, shuffled=shuffles, max_new_tokens=max_new_tokens, seed=seed,
        progress=part(progress, 0.42, 0.97),
    )  # fmt: skip
    best = dose.best(kl_budget)
    counts = {"positive": len(positive), "negative": len(negative), "kept aside": len(kept[0]) + len(kept[1])}
    tell(progress, "writing the page", 0.98)
    bare = Steering(direction, found, dose, best, kl_budget, "", where)
    html = steering_page(model, direction, found, dose, best, judge, kl_budget, bare.warnings, counts, where)
    done = replace(bare, html=html)
    if to is not None:
        done.save(to)
    return done


def _kept(n: int, m: int, seed: int) -> tuple[tuple[list[int], list[int]], tuple[list[int], list[int]]]:
    """Which texts of both sides are kept aside, and which are for the fit; pairs stay together."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randperm(n, generator=generator).tolist()
    second = first if n == m else torch.randperm(m, generator=generator).tolist()
    cut = [max(4, len(order) // 3) for order in (first, second)]
    kept = sorted(first[: cut[0]]), sorted(second[: cut[1]])
    return kept, (sorted(first[cut[0] :]), sorted(second[cut[1] :]))


def _split(texts: Sequence[str], rest: list[int], kept: list[int]) -> tuple[list[str], list[str]]:
    return [texts[i] for i in rest], [texts[i] for i in kept]


def _prompts(given: Sequence[str] | None) -> list[str]:
    """The prompts, or beginnings of sentences from the package's plain texts."""
    if given is not None:
        return list(given)
    sentences = [s.split() for text in plain_text() for s in text.replace('"', "").split(". ")[:2]]
    return [" ".join(s[:WORDS]) for s in sentences if len(s) > WORDS][:N_PROMPTS]
