"""Texts that grow: every look gives what a run of the whole text gives, edited or not, whatever is in the cache."""

import pytest
import torch
from torch import Tensor

import inscape as ins
from inscape.engine.reading_on import ReadingOn
from tests.common.zoo import build

ROWS = [[5, 9, 13, 17, 20, 21], [6, 9, 13], [8, 3, 13, 17]]
READ = {"x": "layers.1.resid_post"}


def whole(model: ins.Model, texts: list[list[int]], edits: list[ins.Edit]) -> tuple[Tensor, Tensor]:
    """Row by row, without padding and without a cache."""
    out = [ins.run(model, [t], read={"x": (READ["x"], "last")}, edits=edits, output="last") for t in texts]
    return torch.cat([o.output.logits[:, -1] for o in out]), torch.cat([o["x"] for o in out])


@pytest.mark.parametrize(
    ("family", "newest"),
    [("gpt2", 3), ("llama", 1), ("gemma3_text", 1), ("gemma3_text", 3), ("bloom", 3), ("mamba", 1)],
)
def test_every_look_is_a_run_of_the_whole_text(family: str, newest: int) -> None:
    model, draw = ins.open(build(family)), torch.Generator().manual_seed(0)
    texts = [list(r) for r in ROWS]
    width = ins.run(model, ROWS[:1], read=READ["x"])[READ["x"]].shape[-1]
    d = ins.Direction("layers.0.resid_post", torch.randn(width, generator=draw), "")
    push, everywhere = ins.add(d, at=ins.newest(newest)), ins.add(d)
    reading = ReadingOn(model, texts, newest)
    assert reading.caches == (family != "mamba")
    for step in range(8):  # past the sliding window of gemma
        for edits, rows, wide in (([], None, False), ([push], [1, 0, 1], False), ([everywhere], [2], True)):
            if rows is not None and step % 4:
                continue
            index = None if rows is None else torch.tensor(rows) % len(texts)
            got = reading.look(edits, READ, rows=index, whole=wide)
            some = texts if index is None else [texts[i] for i in index.tolist()]
            for a, b in zip((got[0], got[1]["x"]), whole(model, some, edits), strict=True):
                torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
        if step == 5:
            reading.keep(torch.tensor([0, 2]))
            texts = [texts[0], texts[2]]
        new = torch.randint(3, 60, (len(texts),), generator=draw)
        reading.append(new)
        texts = [[*t, i] for t, i in zip(texts, new.tolist(), strict=True)]


def test_an_edit_of_what_is_in_the_cache_is_refused() -> None:
    reading = ReadingOn(ins.open(build("gpt2")), ROWS)
    with pytest.raises(ins.NotFiredError):
        reading.look([ins.edit("layers.1.mlp.act", lambda x: 0 * x, at=1)])
    with pytest.raises(ins.TokenError, match="outside this model's vocabulary"):
        ReadingOn(ins.open(build("gpt2")), [[5, 10**6]])
