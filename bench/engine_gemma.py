"""The engine on Gemma 3 270M in fp32, against the same module's bare forward and against hand-written hooks."""

import torch

import inscape as ins
from bench import by_hand
from bench.common import SEED, Row, paired, rounds, same, set_up, write

READ = ["layers.*.resid_post", "layers.*.attn_out", "layers.*.mlp_out"]
MIDDLE = "layers.9.resid_post"
PATTERN = "layers.9.attn.pattern"


def main() -> None:
    set_up()
    model = ins.open("gemma-3-270m", dtype=torch.float32)
    rows: list[Row] = []
    for batch, pos, limits, samples in ((8, 128, (1.03, 0.45), rounds(9)), (1, 32, (1.08, 0.55), rounds(51))):
        ids = torch.randint(10, 200_000, (batch, pos), generator=torch.Generator().manual_seed(SEED))
        rows += reading(model, ids, *limits, samples)
        rows += pattern(model, ids, samples)
    rows += generation(model)
    write("engine_gemma", rows, model="gemma-3-270m", dtype="float32")


def reading(model: "ins.Model", ids: torch.Tensor, with_logits: float, without: float, samples: int) -> list[Row]:
    module, points, size = model.module, by_hand.gemma_points(model.module), "x".join(map(str, ids.shape))

    def bare() -> torch.Tensor:
        with torch.no_grad():
            return module(input_ids=ids, use_cache=False).logits

    def body() -> None:
        module.model(input_ids=ids, use_cache=False)

    hand = by_hand.read(points, body)
    full = ins.run(model, ids, read=READ, output=True)
    short = ins.run(model, ids, read=READ)
    same("logits with 54 sites read", full.output.logits, bare())
    assert len(full) == len(short) == 54, f"{len(full)} sites"
    for name, value in hand.items():
        same(name, full[name], value)
        same(name, short[name], value)
    same(MIDDLE, ins.run(model, ids, read=MIDDLE)[MIDDLE], by_hand.read_and_stop(points[MIDDLE], body))
    with_head = paired(  # few cases a round: on a shared machine a ratio is worth what its neighbours are near
        f"Gemma 3 270M, {size}",
        bare,
        {
            "54 sites and the logits": (lambda: ins.run(model, ids, read=READ, output=True), with_logits),
            "54 sites and the logits, hooks by hand": (lambda: by_hand.read(points, bare), None),
        },
        samples=samples, shape=list(ids.shape),
    )  # fmt: skip
    return with_head + paired(
        f"Gemma 3 270M, {size}",
        bare,
        {
            "54 sites": (lambda: ins.run(model, ids, read=READ), without),
            "54 sites, hooks by hand": (lambda: by_hand.read(points, body), None),
            "one middle site": (lambda: ins.run(model, ids, read=MIDDLE), 0.27),
            "one middle site, hook by hand": (lambda: by_hand.read_and_stop(points[MIDDLE], body), None),
        },
        samples=samples, shape=list(ids.shape),
    )  # fmt: skip


def pattern(model: "ins.Model", ids: torch.Tensor, samples: int) -> list[Row]:
    """The pattern of one layer; by hand this needs the explicit attention in every layer."""
    module, size = model.module, "x".join(map(str, ids.shape))

    def bare() -> torch.Tensor:
        with torch.no_grad():
            return module(input_ids=ids, use_cache=False).logits

    def eager() -> torch.Tensor:
        before = module.config._attn_implementation
        module.set_attn_implementation("eager")
        try:
            with torch.no_grad():
                return module(input_ids=ids, use_cache=False, output_attentions=True).attentions[9]
        finally:
            module.set_attn_implementation(before)

    same(PATTERN, ins.run(model, ids, read=PATTERN, output=True)[PATTERN], eager(), 1e-4)
    return paired(
        f"Gemma 3 270M, {size}",
        bare,
        {
            "pattern of one layer and the logits": (lambda: ins.run(model, ids, read=PATTERN, output=True), 1.05),
            "pattern of one layer and the logits, eager attention": (eager, None),
        },
        samples=samples, shape=list(ids.shape),
    )  # fmt: skip


def generation(model: "ins.Model", new: int = 40) -> list[Row]:
    module = model.module
    ids = torch.randint(10, 200_000, (1, 32), generator=torch.Generator().manual_seed(SEED))
    # a strong push: the stream of this model is thousands long, and a weak one would change no token
    vector = torch.randn(module.config.hidden_size, generator=torch.Generator().manual_seed(SEED)) * 500
    edit = ins.add(ins.Direction(MIDDLE, vector, source="random"))
    block = module.model.layers[9]

    def bare() -> torch.Tensor:
        with torch.no_grad():
            return module.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
            )

    def ours() -> torch.Tensor:
        return ins.generate(model, ids, edits=[edit], max_new_tokens=new, min_new_tokens=new).tokens

    hand = by_hand.steered(block, vector, bare)
    same("steered tokens", ours(), hand[:, ids.shape[1] :])
    assert not torch.equal(hand, bare()), "the direction must matter"
    return paired(
        f"Gemma 3 270M, {new} tokens",
        bare,
        {
            "steered": (ours, 1.02),
            "steered, hook by hand": (lambda: by_hand.steered(block, vector, bare), None),
        },
        samples=rounds(15), shape=[1, 32, new],
    )  # fmt: skip


if __name__ == "__main__":
    main()
