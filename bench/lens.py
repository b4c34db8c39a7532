"""What a lens over every layer costs beside the products with the head that it cannot do without.

Gemma 3 270M in float32: rows of 128 tokens, 18 layers, a head of 262,144 tokens. Checked first against the plain way
(all scores of a few positions, log_softmax, entropy, KL, rank, top 5); the baseline is the bare products of the same
shapes, with no statistics, a chunk of rows after the other. Two rows are timed in five rounds (10 s of products each),
then eight rows once: all is per state, so the rows change nothing but the patience that is needed.

    python -m bench.lens
"""

import os
import time
from typing import Any

import torch

import inscape as ins
from bench.common import Row, paired, peaked, rounds, same, set_up, write
from inscape.engine.unembed import unembedding
from inscape.read.lenses.kl import kl_to_final
from inscape.read.lenses.logit import logit_lens
from inscape.read.lenses.states import stream
from inscape.read.lenses.vocabulary import read_vocabulary
from inscape.tasks.plain_text import plain_text

WHOLE = 8
ROWS, TOKENS = (int(x) for x in os.environ.get("INSCAPE_BENCH_LENS", "2,128").split(","))
CHUNK = 512  # states whose scores the bare products make at once: 512 MB of them


def main() -> None:
    set_up()
    model = ins.open("gemma-3-270m", dtype=torch.float32)
    unembed = unembedding(model)
    ids = model.tokenizer(" ".join(plain_text()))["input_ids"]
    every = torch.tensor((ids * (1 + WHOLE * TOKENS // len(ids)))[: WHOLE * TOKENS]).view(WHOLE, TOKENS)
    ids = every[:ROWS]
    check(model, unembed, ids[:2, :6])
    read = stream(model, ids)
    flat = unembed.ready(read.states.flatten(0, 1))
    weight = unembed.head.weight

    @torch.no_grad()
    def bare() -> None:
        for start in range(0, len(flat), CHUNK):
            flat[start : start + CHUNK] @ weight.T

    def statistics() -> Any:
        return read_vocabulary(unembed, read.states, k=5, tokens=asked, reference=read.ends)

    asked = torch.zeros(len(read.ends), 2, dtype=torch.long)
    about = {"rows": ROWS, "tokens": TOKENS, "layers": len(read.layers), "vocab": unembed.n_vocab}
    rows: list[Row] = paired(
        "products with the head",
        bare,
        {
            "entropy, KL, two ranks, top 5 of every state": (statistics, 3.0),
            "logit_lens, the forward and the final distribution included": (lambda: logit_lens(model, ids), 3.0),
        },
        samples=rounds(5),
        warm_up=1,
        **about,
    )
    rows += training(unembed, read.states[:, :32], read.ends[:32])
    rows.append(whole(model, every, rows[0]["baseline_median_s"] / ROWS))
    write("lens", rows)


def training(unembed: Any, states: torch.Tensor, ends: torch.Tensor) -> list[Row]:
    """What a tuned lens pays a step: KL to the final distribution and its gradient; below: the two products alone."""
    flat, weight = unembed.ready(states.flatten(0, 1)), unembed.head.weight

    @torch.no_grad()
    def bare() -> None:
        (flat @ weight.T) @ weight

    def ours(autocast: bool = False) -> None:
        leaf = states.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            kl_to_final(unembed, leaf, ends).sum().backward()

    cases: dict[str, Any] = {
        "KL and gradient of every state": (ours, 1.5),
        "the same in bfloat16": (lambda: ours(True), None),
    }
    return paired("products of a tuned lens", bare, cases, samples=rounds(5), warm_up=1, states=len(flat))


def check(model: "ins.Model", unembed: Any, ids: torch.Tensor) -> None:
    """Raise unless the lens says what all scores of the same states say."""
    reading = logit_lens(model, ids, k=5)
    read = stream(model, ids)
    with torch.no_grad():
        log_p = unembed(read.states).log_softmax(-1)
        log_q = unembed(read.ends).log_softmax(-1)
    p, final = log_p.exp(), log_q.argmax(-1)
    shape = reading.entropy.shape
    same("entropy", reading.entropy, -(p * log_p).sum(-1).view(shape), 1e-4)
    same("KL", reading.kl, (p * (log_p - log_q)).sum(-1).view(shape), 1e-4)
    same("top", reading.probability, log_p.topk(5).values.exp().view(reading.probability.shape), 1e-4)
    rank = (log_p > log_p.gather(-1, final[None, :, None].expand(len(log_p), -1, 1))).sum(-1) + 1
    far = ((rank.view(shape) - reading.rank).abs() > 1 + 1e-3 * reading.rank).sum()
    if int(far):
        raise AssertionError(f"rank: {int(far)} of {rank.numel()} differ by more than rounding explains")


def whole(model: "ins.Model", ids: torch.Tensor, products_s: float) -> Row:
    """All rows once: time, and memory held at its peak. products_s: the bare products of one row."""
    start = time.perf_counter()
    reading, added = peaked(lambda: logit_lens(model, ids))
    seconds = time.perf_counter() - start
    scores, ratio = reading.entropy.numel() * model.config.vocab_size * 4, seconds / (len(ids) * products_s)
    print(
        f"  {len(ids)} x {ids.shape[1]} tokens, {len(reading.layers)} layers: {seconds:.0f} s, {ratio:.2f} x the "
        f"products of as many states; {added / 1e6:,.0f} MB at the peak, all scores are {scores / 1e6:,.0f} MB",
        flush=True,
    )
    return {"title": "all rows once", "case": "logit_lens", "seconds": seconds, "of_products": ratio,
            "peak_bytes": added, "scores_bytes": scores}  # fmt: skip


if __name__ == "__main__":
    main()
