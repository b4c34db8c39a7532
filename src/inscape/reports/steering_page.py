"""The page of a steering report: what each dose does, what the model writes, and what speaks against it."""

from typing import Any

from inscape.core.direction import Direction
from inscape.models.model import Model
from inscape.reports.words import layer_axis
from inscape.steer.dose import Best, Dose
from inscape.steer.quality import Quality
from inscape.steer.where import Where
from inscape.view.charts import lines
from inscape.view.figure import Figure, Section
from inscape.view.page import page
from inscape.view.table import table

N_EXAMPLES = 8


def steering_page(
    model: Model, direction: Direction, quality: Quality, dose: Dose, best: Best, judge: Any, kl_budget: float,
    warnings: tuple[str, ...], counts: dict[str, int], where: Where | None,
) -> str:  # fmt: skip
    """The HTML of a finished `Steering`."""
    against = [_against(warnings)] if warnings else []
    sections = [
        *against,
        _doses(dose),
        _chosen(dose, best, kl_budget),
        _written(dose, best),
        *([_tried(where, kl_budget)] if where else []),
        _apart(quality, direction),
    ]
    facts = {
        "Steered at": direction.site,
        "Texts": ", ".join(f"{n} {name}" for name, n in counts.items()),
        "Prompts": f"{len(dose.prompts)}, half to choose the dose on",
        "Judge": _judge(judge, dose.judge),
        "Weights": direction.model or model.fingerprint,
    }
    name = model.source or type(model.module).__name__
    lead = f"{direction.source}, added at {direction.site}; every figure stands beside its controls."
    return page(f"Steering {name}", facts, sections, lead=lead)


def _judge(judge: Any, name: str) -> str:
    error = getattr(judge, "held_out", None)
    if error is None:
        return f"{name}; its errors were not measured: label some texts and ask judge.error_rate(texts, labels)"
    return f"{name}; wrong on {error.error} of examples it was not fitted on"


def _against(warnings: tuple[str, ...]) -> Section:
    rows = [[warning[:1].upper() + warning[1:]] for warning in warnings]
    return Section(
        "What speaks against it",
        (Figure("table", table(["finding"], rows), "What the measurements below say against this direction."),),
    )


def _doses(dose: Dose) -> Section:
    controls = ", ".join(name.replace("_", " ") for name in dose.curves[1:])
    call = (
        "from inscape.steer.dose_response import dose_response\ndose_response(model, direction, prompts, doses, judge)"
    )
    figure = Figure(
        "vega", dose.draw(),
        "Effect by dose as the judge sees it, and what it costs: KL, loss of the written text, repetition.",
        control=f"{controls}, each as long as the direction; an effect that they share is not the direction's.",
        call=call,
    )  # fmt: skip
    says = "A dose is the length that is added, as a share of each token's own length. Bands are 95 % over prompts."
    return Section("What each dose does", (figure,), says=says)


def _chosen(dose: Dose, best: Best, kl_budget: float) -> Section:
    rows = [
        ["score without steering", str(best.base)],
        [f"score at dose {best.dose:g}", str(best.effect)],
        ["change", str(best.change)],
        *([f"score of the {name.replace('_', ' ')} control", str(span)] for name, span in best.controls.items()),
        ["KL from the unsteered model, nats a token", str(best.kl)],
        ["loss of the written text, nats a token, steered", str(best.fluency)],
        ["the same without steering", str(best.base_fluency)],
    ]
    if best.dose:
        says = f"The largest effect within a KL of {kl_budget:g} nats a token is at dose {best.dose:g}."
    else:
        says = f"No dose within a KL of {kl_budget:g} nats a token does better than none."
    caption = f"Measured on {best.on} than those the dose was chosen on." if best.on == "other prompts" else ""
    table_ = table(["measured", "mean and 95 % interval"], rows)
    figure = Figure(
        "table", table_, caption or "Measured on the prompts it was chosen on: too good.",
        control="the other directions at the same dose, in the same table.",
    )  # fmt: skip
    return Section("The dose for a budget", (figure,), says=says)


def _written(dose: Dose, best: Best) -> Section:
    shown = best.dose or dose.strongest
    rows = [list(example) for example in dose.examples(shown, N_EXAMPLES)]
    random = [e[2] for e in dose.examples(shown, N_EXAMPLES, "random")] if "random" in dose.curves else []
    columns = ["prompt", "unsteered", f"dose {shown:g}"] + ["a random direction" for _ in random[:1]]
    rows = [[*row, random[i]] for i, row in enumerate(rows)] if random else rows
    figure = Figure(
        "table", table(columns, rows), "What the model writes, on the first prompts.",
        control="a random direction of the same length" if random else "",
        call="steering.dose.examples(dose, n=8)",
    )  # fmt: skip
    return Section("What it writes", (figure,))


def _tried(where: Where, kl_budget: float) -> Section:
    rows = [[r["site"], f"{r['strength']:.3g}", f"{r['change']:+.3f}"] for r in where.rows()]
    missed = f" {', '.join(where.missed)} never moves predictions so far." if where.missed else ""
    figure = Figure(
        "table", table(["site", "dose that spends the budget", "change of the score"], rows),
        f"On the prompts that the dose was chosen on: the best of several is too good there.{missed}",
        control="the sites are each other's control: every one spends the same KL.",
        call="from inscape.steer.where import choose_site\nchoose_site(model, directions, prompts, judge, kl_budget)",
    )  # fmt: skip
    return Section("Where to steer", (figure,), says=f"At a KL of {kl_budget:g} nats a token, {where.best} does most.")


def _apart(quality: Quality, direction: Direction) -> Section:
    if len(quality.sites) < 2:
        return Section(f"Where the sides differ: {direction.site} was asked for", skipped="one site has no profile.")
    axis = layer_axis([site.rsplit(".", 1)[0] for site in quality.sites])
    ranked = lines(
        {"the direction": quality.auc.value}, x=axis,
        control={"95th percentile of random directions": quality.random_auc},
        band={"the direction": (quality.auc.low, quality.auc.high)}, y_title="AUC on texts kept aside",
    )  # fmt: skip
    stable = lines(
        {"halves of the texts": quality.halves.value}, x=axis,
        control={"95th percentile of random directions": quality.random_cosine},
        band={"halves of the texts": (quality.halves.low, quality.halves.high)}, y_title="cosine of two directions",
    )  # fmt: skip
    call = "from inscape.steer.quality import quality\nquality(directions, model, positive, negative)"
    figures = (
        Figure("vega", ranked, "How well the projection tells the sides apart, by layer.",
               control="random directions that vary as the states do.", call=call),
        Figure("vega", stable, "How alike directions of two halves of the texts are.",
               control="random directions that vary as the states do.", call=call),
    )  # fmt: skip
    says = f"{sum(quality.n)} texts that no direction was fitted on; the direction was taken at {direction.site}."
    return Section("Where the sides differ", figures, says=says)
