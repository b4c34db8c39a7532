"""Do directions for all layers cost 0.4 of the whole forwards? Mean and component, from prompt pairs, on Gemma 3 270M.

The baseline is what a user would write first: the tokenizer and the whole model, logits included, on the same prompts
in the order given, batches of 32. Ours reads batches of like length, stops after the last block, and its mean
difference is compared with that of the baseline's own hidden states before anything is timed; the last layer is the
block's output, which the list of hidden states holds only after the final norm.

    python -m bench.steering_fit [pairs]
"""

import sys
from typing import Any

import torch

import inscape as ins
from bench.common import paired, same, set_up, write
from inscape.core.direction import Direction
from inscape.steer.fit_directions import fit_directions

LIMIT = 0.4
BATCH = 32
SITES = "layers.*.resid_post"
ENDS = ("", " to a friend", " in the morning", " because nobody else was there", " and then went home after a long day")


def prompts(pairs: int) -> tuple[list[str], list[str]]:
    """Pairs of 7 to 20 words that differ in how somebody feels."""
    who = ("The teacher", "My neighbour", "A young doctor", "The driver of the bus", "Her brother", "The old captain")
    what = ("the letter", "the news", "the long report", "that song", "the weather", "a photograph of the harbour")
    texts = [f"{who[i % 6]} talked {{}} about {what[(i // 6) % 6]}{ENDS[i % 5]}, number {i}" for i in range(pairs)]
    return [t.format("gladly") for t in texts], [t.format("bitterly") for t in texts]


def whole(model: ins.Model, texts: list[str], *, states: bool = False) -> torch.Tensor | None:
    """The plain way; states: [layer, text, d] of the last token, before the final norm where that is to be had."""
    kept = []
    for start in range(0, len(texts), BATCH):
        inputs = model.tokenizer(texts[start : start + BATCH], return_tensors="pt", padding=True, padding_side="left")
        with torch.no_grad():
            out = model.module(**inputs, use_cache=False, output_hidden_states=states)
        if states:
            kept.append(torch.stack([h[:, -1] for h in out.hidden_states[1:-1]]))
    return torch.cat(kept, 1) if states else None


def main(pairs: int = 128) -> None:
    set_up()
    model = ins.open("gemma-3-270m")
    high, low = prompts(pairs)
    a, b = (whole(model, texts, states=True) for texts in (high, low))
    assert a is not None
    assert b is not None
    ours = fit_directions(model, high, low, SITES)
    for layer, want in enumerate(a.double().mean(1) - b.double().mean(1)):
        same(f"layer {layer}", ours[f"layers.{layer}.resid_post"].vector, want.float(), 1e-3)
    last: Direction = ours[f"layers.{model.n_layers - 1}.resid_post"]
    loop = [torch.cat([_last(model, t, last.site) for t in texts]).double().mean(0) for texts in (high, low)]
    same("the last block's output", last.vector, (loop[0] - loop[1]).float(), 1e-3)

    def fitted(method: str) -> Any:
        return lambda: fit_directions(model, high, low, SITES, method=method)

    cases = {"mean_difference": (fitted("mean_difference"), LIMIT), "pca_difference": (fitted("pca_difference"), LIMIT),
             "logistic": (fitted("logistic"), None)}  # fmt: skip
    rows = paired(
        f"fit, {model.n_layers} layers, {pairs} pairs",
        lambda: (whole(model, high), whole(model, low)),
        cases,
        samples=5,
        warm_up=1,
    )
    write("steering_fit", rows, pairs=pairs)


def _last(model: ins.Model, text: str, site: str) -> torch.Tensor:
    return ins.run(model, text, read=site, reduce="last")[site]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
