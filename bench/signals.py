"""What it costs to watch a generation for voids and trajectories, on Gemma 3 270M in fp32.

Checked first: the watched generation chooses the very tokens of the plain one, and what was watched is what a trace of
the finished text gives.
"""

from typing import Any

import torch

import inscape as ins
from bench.common import SEED, paired, rounds, set_up, write
from inscape.read.generation.trajectory import trajectory_signals
from inscape.read.generation.trajectory_stream import TrajectoryStream
from inscape.read.generation.void_stream import VoidStream
from inscape.read.generation.voids import void_map

BLOCK = 6


def main(model_name: str = "gemma-3-270m", new: int = 24) -> None:
    set_up()
    model = ins.open(model_name, dtype=torch.float32)
    rows = []
    for batch, pos in ((1, 32), (8, 32)):
        top = min(200_000, model.config.vocab_size)
        ids = torch.randint(10, top, (batch, pos), generator=torch.Generator().manual_seed(SEED))
        rows += signals(model, ids, new, model_name)
    write("signals", rows, model=model_name, dtype="float32")


def signals(model: Any, ids: torch.Tensor, new: int, name: str) -> list[dict[str, Any]]:
    def bare() -> torch.Tensor:
        with torch.no_grad():
            return model.module.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new,
                do_sample=False, pad_token_id=0,
            )[:, ids.shape[1] :]  # fmt: skip

    def ours(*watches: Any) -> torch.Tensor:
        return ins.generate(model, ids, watch=list(watches), max_new_tokens=new, min_new_tokens=new).tokens

    checked(model, ids, bare(), ours)
    return paired(
        f"{name}, {'x'.join(map(str, ids.shape))}, {new} tokens",
        bare,
        {
            "nobody looks on": (ours, 1.02),
            "voids": (lambda: ours(VoidStream()), 1.05),
            "trajectory": (lambda: ours(TrajectoryStream(BLOCK)), 1.05),
            "both": (lambda: ours(VoidStream(), TrajectoryStream(BLOCK)), 1.05),
            "norms of every layer read into a trace": (
                lambda: ins.generate(
                    model, ids, read="layers.*.resid_post", reduce="norm", max_new_tokens=new, min_new_tokens=new
                ),
                None,
            ),
        },
        samples=rounds(5), warm_up=1, shape=[*ids.shape, new],
    )  # fmt: skip


def checked(model: Any, ids: torch.Tensor, plain: torch.Tensor, ours: Any) -> None:
    """The tokens are the plain ones, and the signals those of the whole text."""
    voids, path = VoidStream(), TrajectoryStream(BLOCK)
    assert torch.equal(ours(voids, path), plain), "watching changed a token"
    text = torch.cat([ids, plain[:, :-1]], 1)
    whole = void_map(model, text)
    torch.testing.assert_close(voids.map.norm, whole.norm, rtol=1e-3, atol=1e-2)
    sure = (whole.change - whole.threshold).abs() > 1e-3 * whole.norm[1:]
    assert torch.equal(voids.map.void[sure], whole.void[sure]), "the voids are others"
    names = [f"{n}.resid_post" for n in whole.layers]
    trace = ins.run(model, text, read=names)
    states = torch.stack([trace[n] for n in names], 2)[:, ids.shape[1] :]
    torch.testing.assert_close(
        path.signals.table(), trajectory_signals(list(states), block=BLOCK).table(), rtol=1e-3, atol=1e-3
    )


if __name__ == "__main__":
    main()
