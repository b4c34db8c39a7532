"""Small figures that several tests draw; the tokens are chosen to break a careless page."""

from inscape.view.charts import bars, lines
from inscape.view.figure import Figure, Section
from inscape.view.lens import lens
from inscape.view.strip import strip
from inscape.view.table import table

HOSTILE = ("</script><script>alert(1)</script>", "<!--<script>", "\x00\x1b\u202e", "\ud800", "'\"&", "\n")


def small_lens(n_tokens: int = 6, n_layers: int = 4, texts: tuple[str, ...] = HOSTILE) -> dict:
    """A lens whose probability grows with the layer: its colours are not all the same."""
    tokens = [texts[at % len(texts)] for at in range(n_tokens)]
    top = [[[tokens[at], "b", "c"] for at in range(n_tokens)] for _ in range(n_layers)]
    chances = [[[(layer + 1) / (n_layers + 1), 0.02, 0.01]] * n_tokens for layer in range(n_layers)]
    ranks = [[n_layers - layer] * n_tokens for layer in range(n_layers)]
    surprise = [[float(n_layers - layer)] * n_tokens for layer in range(n_layers)]
    return lens(
        tokens, [f"layer {i}" for i in range(n_layers)], top, chances, rank=ranks, entropy=surprise, final=tokens
    )


def one_of_each() -> list[Section]:
    """Every kind of figure once, charts twice, and a section that does not apply."""
    growth = lines({"resid.post <b>": [1.0, 2.0, 4.0]}, control={"untrained": [1.0, 1.1, 1.2]}, y_title="norm")
    heads = bars({"L0H0": 0.9, "L0H1": 0.2}, chance=0.25, control={"L0H0": 0.1}, y_title="score")
    text = strip(HOSTILE, {"norm": range(len(HOSTILE)), "change": [-1, 1, 0, 2, -2, float("nan")]})
    figures = (
        Figure(
            "lens", small_lens(), "The answer settles.", "Untrained weights never settle.", "ins.report(model, texts)"
        ),
        Figure("tokens", text, "The first token is loud."),
        Figure("table", table(["token", "count"], [[HOSTILE[0], 3], [HOSTILE[2], None]]), "Counts."),
    )
    charts = (Figure("vega", growth, "It grows.", "dashed"), Figure("vega", heads, "One head copies."))
    skipped = Section("Experts", skipped="this model has none <of them>.")
    return [Section(HOSTILE[0], figures), Section("Growth", charts, says="Norms."), skipped]
