"""What the model is: its family, the sites that were proven, and where its parameters are."""

from collections import Counter

from inscape.models.model import Model
from inscape.reports.material import Material
from inscape.view.charts import bars
from inscape.view.figure import Figure, Section
from inscape.view.table import table

TITLE = "What the model is"
REST = "rest of the blocks"


def section(model: Model, material: Material) -> Section:
    """Sites by status after `model.verify()`, and parameters by part."""
    checked = any(status == "proven" for status, _ in model.status.values())
    return Section(TITLE, (_sites(model, checked), _parameters(model)), says=_says(model))


def parameters_by_part(model: Model) -> dict[str, int]:
    """Parameters counted once each: of the embedding, of attention, MLP and the rest in the blocks, of the head.

    A head that shares its matrix with the embedding counts there. Parts are told by the modules the sites live in.
    """
    owner: dict[int, str] = {}
    points = model.points
    for name, point in points.items():
        short = name.split(".", 2)[-1] if name.startswith("layers.") or ".layers." in name else name
        part = _part(name.rsplit("layers.", 1)[-1].partition(".")[2] if "layers." in name else short)
        if part is not None and point.kind == "module" and point.module is not model.module:
            for parameter in point.module.parameters():
                owner.setdefault(id(parameter), part)
    inside: dict[int, str] = {}
    for _, blocks in model.resolved.stacks:
        for block in blocks:  # a gate beside the named projections belongs to the part its siblings belong to
            for child in block.module.children():
                parameters = list(child.parameters())
                parts = {owner[id(p)] for p in parameters if id(p) in owner}
                inside |= {id(p): next(iter(parts)) if len(parts) == 1 else REST for p in parameters}
            inside |= {id(p): REST for p in block.module.parameters(recurse=False)}
    counts: Counter[str] = Counter()
    for parameter in model.module.parameters():
        part = owner.get(id(parameter)) or inside.get(id(parameter), "everything else")
        counts[part] += parameter.numel()
    order = ("embedding", "attention", "state space", "MLP", REST, "head", "everything else")
    return {part: counts[part] for part in order if counts[part]}


def _part(short: str) -> str | None:
    if short.endswith("embed"):
        return "embedding"
    if short.endswith("logits") and "router" not in short:
        return "head"
    if short.startswith(("attn", "cross")) and not short.endswith(".in"):
        return "attention"
    if short.startswith("ssm") and not short.endswith(".in"):
        return "state space"
    if short.startswith(("mlp.pre", "mlp.act", "mlp_out", "experts", "router")):
        return "MLP"
    return None


def _says(model: Model) -> str:
    tied = getattr(getattr(model.config, "get_text_config", lambda: model.config)(), "tie_word_embeddings", False)
    words = f"{type(model.module).__name__}, read by the table of the family {model.family.name}"
    words += " (inferred from its structure)" if model.inferred else ""
    words += ", with one matrix for embedding and head." if tied and "logits" in model.points else "."
    missing = [f"{name}: {why}" for name, why in model.family.notes.items() if name]
    return f"{words} Notes on its sites: {'; '.join(missing)}." if missing else words


def _sites(model: Model, checked: bool) -> Figure:
    rows: dict[str, Counter[str]] = {}
    meaning: dict[str, str] = {}
    shape: dict[str, str] = {}
    for site in model.all_sites:
        kind = ".".join("*" if part.isdigit() else part for part in site.name.split("."))
        rows.setdefault(kind, Counter())[site.status] += 1
        meaning.setdefault(kind, site.meaning)
        shape.setdefault(kind, site.shape)
    statuses = [s for s in ("proven", "table", "inferred", "withdrawn") if any(r[s] for r in rows.values())]
    named = {"table": "not yet proven", "inferred": "inferred"}
    lines = [[kind, shape[kind], *[count[s] for s in statuses], meaning[kind]] for kind, count in rows.items()]
    total, good = len(model.all_sites), sum(r["proven"] for r in rows.values())
    caption = (
        f"{good} of {total} sites are proven on this model; withdrawn ones are not offered."
        if checked
        else f"{total} sites, from the family's table; model.verify() proves them on this model."
    )
    return Figure(
        "table",
        table(["site", "axes", *[named.get(s, s) for s in statuses], "what it is"], lines),
        caption,
        control=(
            "verify compares each name with the arithmetic it stands for (sums "
            "of the stream, z times W_O, rows of the "
            "pattern, the neurons through the down projection); a name that fails is withdrawn."
        )
        if checked
        else "",
        call="model.verify()\nprint(model.sites)",
    )


def _parameters(model: Model) -> Figure:
    counts = parameters_by_part(model)
    total = sum(counts.values())
    largest = max(counts, key=lambda part: counts[part])
    unit, word = (
        (1e6, "million parameters")
        if total >= 1e6
        else (1e3, "thousand parameters")
        if total >= 1e4
        else (1, "parameters")
    )
    spec = bars({part: n / unit for part, n in counts.items()}, sideways=True, y_title=word)
    return Figure(
        "vega",
        spec,
        f"{counts[largest] / total:.0%} of the {total / unit:,.1f} {word} are in: {largest}.",
        control="The parts add up to every parameter of the module, shared ones counted once.",
        call="from inscape.reports.sections.model import parameters_by_part\nparameters_by_part(model)",
    )
