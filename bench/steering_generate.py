"""What steering costs while text is generated: one edit, ten at once, every kind of edit, against the module's own.

Tokens of one and of ten additions are those of bare hooks in the module's own generation, and differ from unsteered
ones, before anything is timed.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

import inscape as ins
from bench.common import SEED, Row, paired, rounds, same, set_up, write
from bench.engine_tiny import tiny

NEW = 32


def main() -> None:
    set_up()
    rows = timed(ins.open(tiny()), "tiny GPT-2, 12 layers", length=1.0, one=1.03, ten=None, samples=rounds(25))
    gemma = ins.open("gemma-3-270m", dtype=torch.float32)
    # a strong push: the stream of this model is thousands long, and a weak one would change no token
    rows += timed(gemma, "Gemma 3 270M", length=500.0, one=1.02, ten=1.05, samples=rounds(15))
    write("steering_generate", rows, models=["random GPT-2, 12 layers, width 128", "gemma-3-270m"], dtype="float32")


def timed(model: "ins.Model", name: str, length: float, one: float, ten: float | None, samples: int) -> list[Row]:
    g = torch.Generator().manual_seed(SEED)
    config = model.module.config.get_text_config()
    ids = torch.randint(10, min(config.vocab_size, 200_000), (1, 16), generator=g)
    sites = [f"layers.{(i + 1) * model.n_layers // 11}.resid_post" for i in range(10)]
    ten_of = [ins.Direction(site, length * torch.randn(config.hidden_size, generator=g), "random") for site in sites]
    middle = ten_of[5]
    bare = generation(model, ids)
    for directions in ([middle], ten_of):
        with hooks(model, directions):
            hand = bare()
        edits = [ins.add(d) for d in directions]
        same(f"tokens of {name} under {len(edits)} edits", generation(model, ids, edits)(), hand)
        assert not torch.equal(hand, bare()), "the directions must matter"
    ones = torch.ones(config.hidden_size)
    span = [ins.Direction(middle.site, d.vector) for d in ten_of[:3]]
    kinds = {
        "a relative dose": ins.add(middle, 0.1, unit="relative"),
        "a schedule": ins.add(middle, ins.schedule([1 - 0.01 * k for k in range(NEW)])),
        "a turn that keeps lengths": ins.norm_preserving_add(middle, 0.1),
        "a direction removed": ins.project_out(middle),
        "a span of three removed": ins.project_out(span),
        "a map of units": ins.affine(middle.site, 1.01 * ones, 0.01 * ones),
        "an addition on a condition that holds": ins.when(ins.Condition(middle, -1e9), ins.add(middle)),
        "an addition on a condition by token": ins.when(ins.Condition(middle, 0.0, at="each"), ins.add(middle)),
    }
    cases: dict[str, tuple[Callable[[], Any], float | None]] = {
        "one addition": (generation(model, ids, [ins.add(middle)]), one),
        "ten additions": (generation(model, ids, [ins.add(d) for d in ten_of]), ten),
    }
    title = f"{name}, {NEW} new tokens"
    about = {"shape": [*ids.shape, NEW]}
    rows = paired(title, bare, cases, samples=samples, **about)
    by_kind = {what: (generation(model, ids, [edit]), None) for what, edit in kinds.items()}
    return rows + paired(title, bare, by_kind, samples=max(samples // 2, 3), **about)


def generation(model: "ins.Model", ids: torch.Tensor, edits: Sequence["ins.Edit"] = ()) -> Callable[[], torch.Tensor]:
    """New tokens; without edits by the module alone, so that nothing of ours is in the baseline."""
    options: dict[str, Any] = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    if edits:
        return lambda: ins.generate(model, ids, edits=edits, **options).tokens

    def bare() -> torch.Tensor:
        with torch.no_grad():
            out = model.module.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
        return out[:, ids.shape[1] :]

    return bare


@contextlib.contextmanager
def hooks(model: "ins.Model", directions: Sequence["ins.Direction"]) -> Iterator[None]:
    """The obvious way: one bare hook a block, in force inside the `with`."""
    handles = []
    for d in directions:

        def hook(module: Any, args: Any, out: Any, v: torch.Tensor = d.vector) -> Any:
            return out + v if isinstance(out, torch.Tensor) else (out[0] + v, *out[1:])

        handles.append(model.points[d.site].module.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


if __name__ == "__main__":
    main()
