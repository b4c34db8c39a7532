"""The data of the token x layer view: what the model would say after each layer, at each token."""

from collections.abc import Iterable, Sequence
from typing import Any

from inscape.core.errors import ShapeError
from inscape.view.numbers import grid, plain, row

MAX_CELLS = 60_000  # layers x positions; about 1.5 MB of page with three guesses a cell
DEEP_CELLS = 8_000  # up to here every guess is kept; beyond, three a cell


def lens(
    tokens: Sequence[str],
    layers: Sequence[str],
    top: Sequence[Sequence[Sequence[str]]],
    probability: Iterable[Any],
    *,
    entropy: Iterable[Any] | None = None,
    rank: Iterable[Any] | None = None,
    final: Sequence[str] | None = None,
    how: str = "",
    label: str = "",
) -> dict[str, Any]:
    """Data for a `Figure("lens", ...)`.

    `top` `[layer][position][k]` are token texts, most probable first, `probability` theirs; `entropy` (nats) and
    `rank` (of `final`, the model's own top token, 1 is the top) are `[layer][position]`. `how` says which norm and
    unembedding were used: a lens without its norm is another lens. Layers are given first to last and drawn upwards.

    The guard for long inputs: above 8,000 cells three guesses a cell are kept, above 60,000 it is refused.
    Raises: ShapeError when the parts do not fit each other or there are too many cells.
    """
    n_layers, n_tokens = len(layers), len(tokens)
    if not n_layers or not n_tokens:
        raise ShapeError("a lens view needs at least one layer and one token.\n  skip the section with its reason.")
    if n_layers * n_tokens > MAX_CELLS:
        raise ShapeError(
            f"{n_layers} layers x {n_tokens} tokens are {n_layers * n_tokens:,} cells; "
            f"a page stays quick up to {MAX_CELLS:,}.\n"
            f"  give the first or last {MAX_CELLS // n_layers} tokens, or every second layer."
        )
    depth = None if n_layers * n_tokens <= DEEP_CELLS else 3
    vocab: dict[str, int] = {}
    if len(top) != n_layers or any(len(line) != n_tokens for line in top):
        raise ShapeError(
            f"top must be {n_layers} layers of {n_tokens} positions.\n"
            f"  it is {len(top)} of {sorted({len(line) for line in top})}."
        )
    if final is not None and len(final) != n_tokens:
        raise ShapeError(f"final has {len(final)} tokens where {n_tokens} are read.\n  give one for each position.")
    chances = plain(probability)
    if len(chances) != n_layers:
        raise ShapeError(f"probability has {len(chances)} layers, top has {n_layers}.")
    indices = [[[vocab.setdefault(str(text), len(vocab)) for text in cell[:depth]] for cell in line] for line in top]
    kept = []
    for index, line in enumerate(chances):
        if len(line) != n_tokens:
            raise ShapeError(f"probability has {len(line)} positions in layer {layers[index]}, top has {n_tokens}.")
        guesses = top[index]
        kept.append(
            [_short(row(cell, "probability of a cell", len(guesses[at]))[:depth], 5) for at, cell in enumerate(line)]
        )
    return {
        "tokens": [str(token) for token in tokens],
        "layers": [str(layer) for layer in layers],
        "top": indices,
        "p": kept,
        "entropy": None
        if entropy is None
        else [_short(line, 3) for line in grid(entropy, "entropy", n_layers, n_tokens)],
        "rank": None if rank is None else [_whole(line) for line in grid(rank, "rank", n_layers, n_tokens)],
        "final": None if final is None else [vocab.setdefault(str(text), len(vocab)) for text in final],
        "vocab": list(vocab),
        "how": how,
        "label": label,
    }


def _short(values: list[float | None], digits: int) -> list[float | None]:
    """Rounded: what a tooltip shows needs no more, and the page is half the size."""
    return [None if value is None else round(value, digits) for value in values]


def _whole(values: list[float | None]) -> list[int | None]:
    if any(value is not None and value < 1 for value in values):
        raise ShapeError("rank begins at 1, the top; a rank below 1 was given.\n  add 1 to ranks that count from 0.")
    return [None if value is None else int(value) for value in values]
