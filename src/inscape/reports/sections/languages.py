"""Which language the model passes through while it answers in another."""

from inscape.core.errors import InputError, ModelError, ShapeError, TokenError
from inscape.models.model import Model
from inscape.read.lenses.language import LanguageProfile, language_profile
from inscape.read.lenses.token_set import word_sets
from inscape.reports.material import Material
from inscape.reports.words import layer_axis
from inscape.tasks.many_languages import ENGLISH_NAMES as NAMES
from inscape.tasks.many_languages import nouns, translation
from inscape.view.charts import lines
from inscape.view.figure import Figure, Section

TITLE = "Which language it thinks in"
PAIRS = (("fr", "de"), ("fr", "zh"))
N_WORDS = 16
CALL = """from inscape.read.lenses.language import language_profile
from inscape.tasks.many_languages import nouns, translation
words = dict(list(nouns().items())[:16])
profile = language_profile(model, words, [translation(words, "fr", "de"), translation(words, "fr", "zh")])
"""


def section(model: Model, material: Material) -> Section:
    """The right word in six languages by layer, while the model translates French into German and into Chinese."""
    if material.kind != "causal" or model.tokenizer is None:
        return Section(TITLE, skipped="languages are read from a model that predicts the next token, with a tokenizer.")
    words = dict(list(nouns().items())[:N_WORDS])
    try:
        sets = word_sets(model.tokenizer, words)
        if len(sets.sets) < 8:
            return Section(
                TITLE, skipped=f"the tokenizer tells {len(sets.sets)} of {N_WORDS} words apart in six languages."
            )
        tasks = [translation(words, a, b, list(sets.sets), seed=material.seed) for a, b in PAIRS]
        profile = language_profile(model, sets, tasks, seed=material.seed, progress=material.progress)
    except (TokenError, ModelError, InputError, ShapeError) as reason:
        first = str(reason).splitlines()[0]
        return Section(TITLE, skipped=first if first.endswith(".") else f"{first}.")
    figures = tuple(_figure(profile, i, material.seed) for i in range(len(PAIRS)))
    return Section(
        TITLE,
        figures,
        says=f"Lists of {len(profile.concepts)} nouns with their translations, without a word of English. The lens "
        "adds up the tokens that begin the right word in each of six languages, at the place of the answer.",
    )


def _figure(profile: LanguageProfile, at: int, seed: int) -> Figure:
    task = profile.tasks[at]
    mean = profile.mass[at].nanmean(-1)  # [layer, language]
    english = profile.languages.index("en")
    swapped = profile.swapped[at, :, english].nanmean(-1)
    random = profile.random[at, :, english].nanmean(-1)
    found = profile.latent(at, seed=seed)
    spec = lines(
        {NAMES[name]: mean[:, i] for i, name in enumerate(profile.languages)},
        x=layer_axis(profile.layers),
        control={"English word of another item": swapped, "random tokens, as many": random},
        y_title="probability of the right word",
    )
    shown = " and ".join(NAMES[x] for x in task.shown)
    if found.language is None:
        says = f"No language beside {shown} counts before the last layer"
    else:
        number = (
            f"layer {found.layers[0]}" if len(found.layers) == 1 else f"layers {found.layers[0]} to {found.layers[-1]}"
        )
        best = float(mean[list(found.layers), profile.languages.index(found.language)].max())
        says = f"Beside {shown}, which the prompts show, {NAMES[found.language]} leads in {number} (at most {best:.1%})"
    return Figure(
        "vega",
        spec,
        f"{task.name}: {says}. The answer is on top at the end in {found.accuracy:.0%} of the prompts.",
        control=f"the English word of another item gets {float(swapped[:-1].max()):.1%} at most before the last layer, "
        f"random sets of as many tokens {float(random[:-1].max()):.2%}; a language counts where its whole "
        "interval lies above the first.",
        call=CALL + f"profile.latent({at})",
    )
