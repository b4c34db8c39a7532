"""At which layer three properties of texts can be read, from an easy to a hard one."""

from inscape.core.errors import InscapeError
from inscape.models.model import Model
from inscape.read.depth.concept import DepthProfile, depth_profile
from inscape.read.probes import LogisticProbe
from inscape.reports.material import Material
from inscape.reports.words import layer_axis, number_of
from inscape.tasks.concepts import CONCEPTS
from inscape.view.charts import lines
from inscape.view.figure import Figure, Section

TITLE = "At which layer it knows"
N, SITES = 60, 9  # texts of each set; layers that are asked, the last among them
TOKENS = 18  # of a text, about
WORDS = {
    "word_kind": "Which of two kinds is a word that is named: animal or tool",
    "negation": "Is a thing well spoken of, where half of the adjectives are negated",
    "coin_flips": "Which side does a coin show after two people flipped it, or did not",
}


def section(model: Model, material: Material) -> Section:
    """Held-out accuracy of a linear probe by layer for three sets, beside shuffled labels and counts of words."""
    if model.tokenizer is None or material.kind not in ("causal", "tokens"):
        return Section(TITLE, skipped="the question is about texts, and this model reads none.")
    first = f"{model.blocks[0].name}.resid_pre" if model.blocks else ""
    if first not in model.sites or getattr(model.config, "is_encoder_decoder", False):
        return Section(TITLE, skipped="its texts do not pass one main stream with an embedding before it.")
    found: dict[str, DepthProfile] = {}
    try:
        for name, make in CONCEPTS.items():
            made = make(N, seed=material.seed)
            if model.tokenizer.unk_token_id is not None and _unknown(model, made.texts[0]) > 0.3:
                return Section(TITLE, skipped="its tokenizer does not know the words of these texts.")
            sites = _some([f"{b.name}.resid_post" for b in model.blocks if f"{b.name}.resid_post" in model.sites])
            found[name] = depth_profile(
                model, made.texts, made.labels, sites, groups=made.groups, probe=LogisticProbe(tol=1e-4),
                seed=material.seed, template=made.template, progress=material.progress,
            )  # fmt: skip
    except InscapeError as reason:
        return Section(TITLE, skipped=str(reason).splitlines()[0])
    says = (
        f"A logistic probe on the last token's state, {N} texts a set, five folds; texts that share the word or the "
        "names that matter are in one fold. Shaded: 95 % over these groups. With so few texts a difference of ten "
        "points is none, and a longer call takes more."
    )
    return Section(TITLE, tuple(_figure(name, made) for name, made in found.items()), says=says)


def _some(sites: list[str]) -> list[str]:
    """At most SITES of them, evenly apart, the last among them."""
    step = max(1, -(-len(sites) // SITES))
    return sites[::-1][::step][::-1]


def _unknown(model: Model, text: str) -> float:
    """Share of the tokens that the tokenizer has no piece for."""
    ids = list(model.tokenizer(text)["input_ids"])
    return sum(i == model.tokenizer.unk_token_id for i in ids) / max(1, len(ids))


def _figure(name: str, made: DepthProfile) -> Figure:
    scores, dark = made.scores["accuracy"], made.shuffled["accuracy"]
    n = len(made.sites)
    spec = lines(
        {"probe": scores.value},
        x=layer_axis(made.sites),
        control={"shuffled labels": dark, "counts of words": [made.words["accuracy"]] * n,
                 "mean embedding": [made.embedding["accuracy"]] * n},
        band={"probe": (scores.low, scores.high)},
        y_title="accuracy on held-out groups",
        title=WORDS[name],
        height=200,
    )  # fmt: skip
    points, best = made.points(), int(scores.value.argmax())
    where = (
        f"the last change of 3 % or more is at {number_of(made.sites[round(points.converge * n) - 1])}"
        if points.converge is not None
        else "it hardly changes from layer to layer"
    )
    verdict = "" if made.acquired else " No layer surely beats what stands beside it: not shown to be known."
    if made.embedding["accuracy"] > max(points.best - 0.05, float(dark.mean()) + 0.25):
        verdict = " The mean of the embeddings says as much: it is in the words, not made by the layers."
    return Figure(
        "vega",
        spec,
        f"{WORDS[name]}: {points.best:.0%} at {number_of(made.sites[best])}; {where}.{verdict}",
        control=(
            f"shuffled labels {float(dark.mean()):.0%} on average; counts of words alone {made.words['accuracy']:.0%}, "
            f"the mean of the embeddings {made.embedding['accuracy']:.0%}."
        ),
        call=(
            "from inscape import tasks\nfrom inscape.read.depth.concept import depth_profile\n"
            f"made = tasks.{name}({N})\ndepth_profile(model, made.texts, made.labels, groups=made.groups)"
        ),
    )
