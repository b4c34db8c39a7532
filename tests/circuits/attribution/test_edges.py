"""Edge scores: they add up to their writer's whole effect, and are those of a loop over edges."""

import copy

import pytest
import torch

import inscape as ins
from inscape.circuits.attribution.edges import EdgeScores, edge_attribution
from inscape.circuits.attribution.first_order import first_order
from inscape.core.metrics import kl, logit_diff
from tests.common.small import gpt2
from tests.common.zoo import ZOO, build, inputs_for, is_causal_text

CLEAN, CORRUPTED = [[1, 5, 9, 13, 17, 21], [2, 6, 10, 14]], [[1, 5, 8, 13, 17, 20], [2, 7, 10, 14]]
DIFF = logit_diff(3, 7)
NO_SUM = {
    "opt_post_norm": (ins.ModelError, "plain sum"),
    "rwkv": (ins.NotConvergedError, "scaled on its way"),  # every second layer halves the stream
}


@pytest.mark.parametrize("split", ["whole", "qkv", "heads"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_edges_of_a_writer_add_up_to_its_own_effect(split: str, side: str) -> None:
    model = gpt2()
    made = edge_attribution(model, CLEAN, CORRUPTED, DIFF, split=split, tolerance=1e-3)
    bad = ins.run(model, CORRUPTED, read=["layers.*.attn.head_out", "layers.*.mlp_out"], padding_side=side)
    told = first_order(model, CLEAN, DIFF, [ins.patch(s, bad) for s in bad])
    sums = made.values.nan_to_num(0.0).sum(1)
    for writer, total in zip(made.writers[1:], sums[1:], strict=True):
        layer, part, *head = writer.removeprefix("layers.").split(".")
        site = f"layers.{layer}.{'attn.head_out' if part == 'attn' else 'mlp_out'}"
        entries = told.over("pos", "head")[site].sum(1)  # [row] or [row, head]
        want = entries[:, int(head[0])] if head else entries
        assert float(total) == pytest.approx(float(want.mean()), abs=1e-4)


def test_an_edge_is_the_first_order_effect_of_its_reader_reading_the_other_value() -> None:
    model, edge = gpt2(), ("layers.0.mlp", "layers.2.attn")
    made = edge_attribution(model, CLEAN[:1], CORRUPTED[:1], DIFF, split="whole")
    score = float(made.values[made.writers.index(edge[0]), made.readers.index(edge[1])])
    bad = ins.run(model, CORRUPTED[:1], read="layers.0.mlp_out")["layers.0.mlp_out"]
    good = ins.run(model, CLEAN[:1], read=["layers.0.mlp_out", "layers.2.resid_pre"])
    norm, small = model.module.transformer.h[2].ln_1, 1e-2

    def number(step: float) -> float:
        with torch.no_grad():
            read = norm(good["layers.2.resid_pre"] + step * (bad - good["layers.0.mlp_out"]))
        out = ins.run(model, CLEAN[:1], edits=[ins.replace("layers.2.attn.in", read)], output="last").output.logits
        return float(out[0, 0, 3] - out[0, 0, 7])

    assert score == pytest.approx((number(small) - number(-small)) / (2 * small), rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("name", [n for n in ZOO if is_causal_text(n)])
def test_edges_add_up_on_every_decoder_whose_stream_is_a_sum(name: str) -> None:
    model = ins.open(build(name))
    clean = inputs_for(name)["input_ids"]

    def run() -> EdgeScores:
        return edge_attribution(model, clean, clean.flip(0), lambda x: x[:, 3] - x[:, 7], split="qkv", tolerance=5e-3)

    if name in NO_SUM:
        with pytest.raises(NO_SUM[name][0], match=NO_SUM[name][1]):
            run()
        return
    made = run()
    assert any(r.endswith(".rest") for r in made.readers) == (name == "qwen3_next")  # its attention has an output gate
    assert made.gap < 5e-3
    assert float(made.values.nan_to_num(0.0).abs().sum()) > 0


def test_a_reader_does_not_hear_what_is_written_after_it() -> None:
    made = edge_attribution(gpt2(), CLEAN, CORRUPTED, DIFF)
    early, late = made.readers.index("layers.0.attn.q.1"), made.writers.index("layers.2.mlp")
    assert bool(made.values[late, early].isnan())
    assert bool(made.values[0].isfinite().all())  # the embedding reaches everyone
    assert bool(made.values[:, made.readers.index("output")].isfinite().all())


def test_a_head_that_writes_the_same_in_both_prompts_has_edges_of_nothing() -> None:
    module = copy.deepcopy(gpt2().module)
    with torch.no_grad():
        module.transformer.h[1].attn.c_proj.weight[8:16] = 0.0  # rows of head 1, of width 8
    made = edge_attribution(ins.open(module), CLEAN, CORRUPTED, DIFF, steps=2)
    of_none, of_one = (made.values[made.writers.index(f"layers.1.attn.{h}")].nan_to_num(0.0) for h in (1, 2))
    assert float(of_none.abs().max()) == 0.0
    assert float(of_one.abs().max()) > 0.0


def test_more_steps_bring_the_sum_of_the_embeddings_edges_to_the_whole_difference() -> None:
    model = gpt2()
    one, many = (edge_attribution(model, CLEAN, CORRUPTED, DIFF, steps=n, rule="gauss") for n in (1, 16))
    clean, bad = many.metric
    gap = [abs(float(m.whole[0]) - float((bad - clean).mean())) for m in (one, many)]
    assert gap[1] < 0.02 * float((bad - clean).abs().mean())
    assert gap[1] < 0.2 * gap[0]


def test_a_divergence_has_edges_only_along_a_path() -> None:
    model = gpt2()
    with pytest.raises(ins.InputError, match="flat at the clean run"):
        edge_attribution(model, CLEAN, CORRUPTED, kl())
    assert float(edge_attribution(model, CLEAN, CORRUPTED, kl(), steps=4).values.nan_to_num(0.0).abs().sum()) > 0


def test_half_precision_finds_the_same_edges() -> None:
    model = gpt2()
    half = ins.open(copy.deepcopy(model.module).bfloat16())
    a, b = (edge_attribution(m, CLEAN, CORRUPTED, DIFF).values.nan_to_num(0.0).flatten() for m in (model, half))
    assert float(torch.corrcoef(torch.stack([a, b]))[0, 1]) > 0.97


def test_the_null_is_the_spread_under_random_signs() -> None:
    model = gpt2()
    made = edge_attribution(model, CLEAN[:1], CORRUPTED[:1], DIFF, split="whole")
    known = made.values.isfinite()
    assert bool((made.null[known] >= 0).all())
    assert bool(made.null[~known].isnan().all())
    assert (
        float((made.values.abs() / made.null)[known].nan_to_num(0.0).max()) < (6 * 32) ** 0.5 + 1e-4
    )  # Cauchy-Schwarz


def test_the_top_edges_are_the_largest() -> None:
    made = edge_attribution(gpt2(), CLEAN, CORRUPTED, DIFF)
    top = made.top(3)
    assert [abs(v) for *_, v in top] == sorted((abs(v) for *_, v in top), reverse=True)
    assert abs(top[0][2]) == pytest.approx(float(made.values.nan_to_num(0.0).abs().max()))


def test_models_and_prompts_without_edges_say_why() -> None:
    with pytest.raises(ins.ModelError, match="normalised after every addition"):
        edge_attribution(ins.open(build("bert")), inputs_for("bert"), inputs_for("bert"), DIFF)
    with pytest.raises(ins.ModelError, match="cross-attention"):
        edge_attribution(ins.open(build("t5")), inputs_for("t5"), inputs_for("t5"), DIFF)
    model = gpt2()
    with pytest.raises(ins.TokenError, match="do not line up"):
        edge_attribution(model, CLEAN, [[1, 2, 3], [4, 5, 6]], DIFF)
    with pytest.raises(ins.InputError, match="pair by pair"):
        edge_attribution(model, CLEAN, CORRUPTED[:1], DIFF)
    with pytest.raises(ins.InputError, match="whole, qkv, heads"):
        edge_attribution(model, CLEAN, CORRUPTED, DIFF, split="head")
    with pytest.raises(ins.InputError, match="at least one"):
        edge_attribution(model, CLEAN, CORRUPTED, DIFF, steps=0)
