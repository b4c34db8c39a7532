"""Top examples with their words, from a model and from a store; and FLOPs beside a count by hand."""

from pathlib import Path

import pytest
import torch

import inscape as ins
from inscape.read.sparsity.examples import store_examples, top_examples
from inscape.read.sparsity.flops import estimate_flops
from tests.common.small import gpt2
from tests.common.zoo import build

SITE = "layers.1.mlp.act"
ROWS = torch.randint(3, 60, (6, 12), generator=torch.Generator().manual_seed(0)).tolist()


def test_examples_are_the_tokens_where_a_unit_is_largest() -> None:
    model = gpt2()
    made = top_examples(model, [ROWS[:4], ROWS[4:]], SITE, k=3, window=4)
    values = ins.run(model, ROWS, read=SITE)[SITE]
    for unit in (0, 17, 127):
        best = values[:, :, unit].flatten().topk(3)
        found = made(unit)
        assert [e.value for e in found] == pytest.approx(best.values.tolist(), rel=1e-4)
        assert [(e.row, e.pos) for e in found] == [divmod(int(i), 12) for i in best.indices]
        first = found[0]
        ids = ROWS[first.row]
        assert first.token == str(ids[first.pos])
        assert first.before == " ".join(map(str, ids[max(0, first.pos - 4) : first.pos]))
        assert first.z == pytest.approx(
            float((values[..., unit].max() - values[..., unit].mean()) / values[..., unit].flatten().std()), rel=1e-3
        )
    with pytest.raises(ins.InputError, match="no unit 128"):
        made(128)


def test_padding_is_no_example() -> None:
    rows = [ROWS[0], ROWS[1][:5]]
    padded, alone = top_examples(gpt2(), [rows], SITE, k=2), top_examples(gpt2(), [[r] for r in rows], SITE, k=2)
    assert torch.equal(padded.rows, alone.rows)
    assert torch.equal(padded.positions, alone.positions)
    assert padded.n_tokens == 17


def test_a_store_has_the_same_examples(tmp_path: Path) -> None:
    model = gpt2()
    store = ins.record(model, ROWS, sites=[SITE], to=tmp_path / "acts")
    made, want = store_examples(store, SITE, k=3), top_examples(model, ROWS, SITE, k=3)
    for unit in (0, 50):
        assert [(e.row, e.pos, e.before, e.token) for e in made(unit)] == [
            (e.row, e.pos, e.before, e.token) for e in want(unit)
        ]


def test_flops_are_twice_the_weights_passed() -> None:
    d, ff, vocab, layers = 32, 128, 64, 3
    made = estimate_flops(gpt2(), 0.25)
    assert made.down == made.up == 2 * d * ff * layers
    assert made.rest == 2 * (4 * d * d) * layers
    assert made.head == 2 * d * vocab
    assert made.sparse_down == pytest.approx(made.dense - 0.75 * made.down)
    assert made.sparse == pytest.approx(made.dense - 1.5 * made.down)
    assert made.saved[1] == pytest.approx(1.5 * made.down / made.dense)
    gated = estimate_flops(ins.open(build("llama")), [0.5] * ins.open(build("llama")).n_layers)
    assert gated.up == 2 * gated.down
    with pytest.raises(ins.InputError, match="shares of neurons"):
        estimate_flops(gpt2(), [0.5])
    with pytest.raises(ins.ModelError):
        estimate_flops(ins.open(build("resnet")))
