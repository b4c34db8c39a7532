"""What a lens over every layer costs beside the products with the head that it cannot do without.

Gemma 3 270M in float32: 8 rows of 128 tokens, 18 layers, a head of 262,144 tokens. Checked first against the plain way
(all scores of a few positions, log_softmax, entropy, KL, rank, top 5); the baseline is the bare products of the same
shapes, with no statistics, a chunk of rows after the other.

    python -m bench.lens
"""

import gc
import os
from typing import Any

import torch

import inscape as ins
from bench.common import Row, paired, resident, rounds, same, set_up, write
from inscape.engine.unembed import unembedding
from inscape.read.lenses.logit import logit_lens
from inscape.read.lenses.states import stream
from inscape.read.lenses.vocabulary import read_vocabulary
from inscape.tasks.plain_text import plain_text

ROWS, TOKENS = (int(x) for x in os.environ.get("INSCAPE_BENCH_LENS", "8,128").split(","))
CHUNK = 512  # states whose scores the bare products make at once: 512 MB of them


def main() -> None:
    set_up()
    model = ins.open("gemma-3-270m", dtype=torch.float32)
    unembed = unembedding(model)
    ids = model.tokenizer(" ".join(plain_text()))["input_ids"]
    ids = torch.tensor((ids * (1 + ROWS * TOKENS // len(ids)))[: ROWS * TOKENS]).view(ROWS, TOKENS)
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
    rows.append(memory(model, ids))
    write("lens", rows)


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


def memory(model: "ins.Model", ids: torch.Tensor) -> Row:
    """Resident memory that a reading adds at its end; all scores at once would be 19 GB."""
    gc.collect()
    before = resident()
    logit_lens(model, ids)
    added = resident() - before
    print(f"  memory: {added / 2**20:.0f} MiB more after a reading", flush=True)
    return {"title": "memory", "case": "logit_lens", "added_bytes": added}


if __name__ == "__main__":
    main()
