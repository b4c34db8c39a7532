"""The obvious way to steer: a bare hook on a block, the whole sequence run again for every token, no cache."""

from collections.abc import Callable

import torch
from torch import Tensor

import inscape as ins
from tests.common.small import gpt2_module

ROWS = [[1, 2, 3, 4, 5], [9, 8, 7]]
SITE = "layers.1.resid_post"
ByHand = Callable[[Tensor, Tensor, int], Tensor]  # (x [batch, pos, d], real [batch, pos], columns of the prompt)


def padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask, padded on the left."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(r)) + r for r in rows])
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
    return ids, mask


def by_loop(change: ByHand, n_new: int, rows: list[list[int]] = ROWS) -> tuple[Tensor, Tensor, Tensor]:
    """Greedy tokens, the stream after block 1 with the last new token fed as well, and which columns are real."""
    module = gpt2_module()
    ids, mask = padded(rows)
    prompt, seen = ids.shape[1], {}

    def hook(block: object, args: object, out: Tensor) -> Tensor:
        seen["x"] = change(out, mask.bool(), prompt)
        return seen["x"]

    handle = module.transformer.h[1].register_forward_hook(hook)
    try:
        with torch.no_grad():
            for _ in range(n_new + 1):
                places = (mask.cumsum(1) - 1).clamp(min=0)
                logits = module(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False).logits
                ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    finally:
        handle.remove()
    return ids[:, prompt:-1], seen["x"], mask[:, :-1].bool()


def as_the_loop(edits: "list[ins.Edit]", change: ByHand, n_new: int = 5) -> None:
    """Cached generation with the edits gives the loop's tokens and streams, and so does generation without a cache."""
    model = ins.open(gpt2_module())
    tokens, stream, real = by_loop(change, n_new)
    for use_cache in (True, False):
        got = ins.generate(model, ROWS, edits=edits, read=SITE, max_new_tokens=n_new, use_cache=use_cache)
        assert got.tokens.tolist() == tokens.tolist(), f"use_cache={use_cache}"
        torch.testing.assert_close(got.trace[SITE][real], stream[real], atol=5e-5, rtol=1e-4)


def beams_need_no_cache(edits: "list[ins.Edit]") -> None:
    """Under beams rows change places in the cache; what acts on a row is its prompt's."""
    model = ins.open(gpt2_module())
    options = {"edits": edits, "max_new_tokens": 5, "num_beams": 3, "num_return_sequences": 2}
    one, two = (ins.generate(model, ROWS, use_cache=c, **options).tokens for c in (True, False))
    assert one.tolist() == two.tolist()
