"""What steering costs while text is generated: one edit, ten at once, and every kind of edit, against no edit.

The tokens of each case are checked against a plain loop of hooks before anything is timed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

import inscape as ins
from bench.common import SEED, Row, paired, rounds, set_up, write
from tests.common.small import gpt2

NEW = 32


def main() -> None:
    set_up()
    rows = timed(gpt2(), "a tiny GPT-2", one=1.03, ten=None, samples=rounds(15))
    gemma = ins.open("gemma-3-270m", dtype=torch.float32)
    rows += timed(gemma, "Gemma 3 270M", one=1.02, ten=1.05, samples=rounds(9))
    write("steering_generate", rows, models=["gpt2, 3 layers of 32", "gemma-3-270m"], dtype="float32")


def timed(model: "ins.Model", name: str, one: float | None, ten: float | None, samples: int) -> list[Row]:
    g = torch.Generator().manual_seed(SEED)
    width = model.module.config.get_text_config().hidden_size
    ids = torch.randint(2, min(model.module.config.get_text_config().vocab_size, 50_000), (1, 16), generator=g)
    layers = model.n_layers
    ds = [ins.Direction(f"layers.{i * layers // 10}.resid_post", torch.randn(width, generator=g)) for i in range(10)]
    middle = ds[5]
    check(model, ids, [middle])
    check(model, ids, ds)
    condition = ins.Condition(middle, 0.0)
    course = ins.schedule([4.0 - 0.1 * k for k in range(NEW)])
    cases: dict[str, tuple[list[ins.Edit], float | None]] = {
        "one addition": ([ins.add(middle)], one),
        "ten additions": ([ins.add(d) for d in ds], ten),
        "one relative dose": ([ins.add(middle, 0.1, unit="relative")], None),
        "one schedule": ([ins.add(middle, course)], None),
        "one turn": ([ins.norm_preserving_add(middle, 0.1)], None),
        "one projection": ([ins.project_out(middle)], None),
        "one span of three": (
            [ins.project_out([middle, *(ins.Direction(middle.site, d.vector) for d in ds[:2])])],
            None,
        ),
        "one map": ([ins.affine(middle.site, torch.ones(width) * 1.01, torch.zeros(width))], None),
        "one condition": ([ins.when(condition, ins.add(middle))], None),
    }
    return paired(
        f"{name}, {NEW} new tokens",
        generation(model, ids, []),
        {what: (generation(model, ids, edits), limit) for what, (edits, limit) in cases.items()},
        samples=samples, new_tokens=NEW, prompt=ids.shape[1],
    )  # fmt: skip


def generation(model: "ins.Model", ids: torch.Tensor, edits: Sequence["ins.Edit"]) -> Callable[[], Any]:
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW}
    if not edits:  # the module's own generate: nothing of ours in the baseline
        pad = model.module.generation_config.pad_token_id or 0
        return lambda: model.module.generate(ids, do_sample=False, pad_token_id=pad, **options)
    return lambda: ins.generate(model, ids, edits=edits, **options)


def check(model: "ins.Model", ids: torch.Tensor, directions: Sequence["ins.Direction"]) -> None:
    """Raise unless generation under the edits says what a loop of bare hooks and no cache says."""
    got = ins.generate(model, ids, edits=[ins.add(d) for d in directions], max_new_tokens=NEW, min_new_tokens=NEW)
    handles = []
    for d in directions:
        block = model.module.get_submodule(model.points[d.site].path)

        def hook(module: Any, args: Any, out: Any, v: torch.Tensor = d.vector) -> Any:
            return out + v if isinstance(out, torch.Tensor) else (out[0] + v, *out[1:])

        handles.append(block.register_forward_hook(hook))
    try:
        eos = model.module.generation_config.eos_token_id
        sequence = ids
        for _ in range(NEW):
            with torch.no_grad():
                logits = model.module(input_ids=sequence, use_cache=False).logits[:, -1]
            if eos is not None:
                logits[:, eos] = -torch.inf
            sequence = torch.cat([sequence, logits.argmax(-1, keepdim=True)], 1)
    finally:
        for handle in handles:
            handle.remove()
    said = sequence[:, ids.shape[1] :]
    assert got.tokens.tolist() == said.tolist(), f"{len(directions)} edits: {got.tokens.tolist()} not {said.tolist()}"


if __name__ == "__main__":
    main()
