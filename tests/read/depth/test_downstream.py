"""Skips and the layers after them: known on a net written by hand, equal to plain runs on others, zero upstream."""

import pytest
import torch

import inscape as ins
from inscape.models.toy.layered import PLAN, READS, SETTLED, layered_net
from inscape.read.depth.downstream import downstream_effects
from tests.common.small import gpt2
from tests.common.zoo import build, inputs_for
from tests.read.planted import silent_gpt2

IDS = [[0, 3, 5, 2, 7, 1], [1, 2, 3, 4, 5, 6, 7]]
ROWS = [[1, 5, 9, 13, 17, 21], [2, 6, 10, 3]]


def known(direct: bool) -> torch.Tensor:
    n = len(PLAN)
    out = torch.zeros(n, n) if direct else torch.eye(n)
    for (skipped, layer), straight in READS.items():
        out[skipped, layer] = float(straight or not direct)
    return out


@pytest.mark.parametrize("part", ["layer", "mlp"])
@pytest.mark.parametrize("direct", [False, True])
def test_who_reads_whom_is_found_where_it_was_written(part: str, direct: bool) -> None:
    made = downstream_effects(ins.open(layered_net()), IDS, part, direct=direct)
    torch.testing.assert_close(made.mean, known(direct), atol=1e-3, rtol=0)
    torch.testing.assert_close(made.max, known(direct), atol=1e-3, rtol=0)
    assert made.control is not None
    assert float(made.control.mean[0, SETTLED:].min()) > 0.1  # noise is read by all
    assert (made.stream is None) == direct


def test_without_attention_no_later_token_minds() -> None:
    made = downstream_effects(ins.open(layered_net()), IDS, tokens="future")
    assert float(made.max.abs().max()) == 0.0
    attention = downstream_effects(ins.open(layered_net()), IDS, "attn")
    assert float(attention.mean.abs().max()) == 0.0


@pytest.mark.parametrize("part", ["layer", "attn", "mlp"])
def test_the_numbers_are_those_of_plain_runs(part: str) -> None:
    model = gpt2()
    made = downstream_effects(model, ROWS, part, control=None)
    n = model.n_layers
    read = [f"layers.{i}.{s}" for i in range(n) for s in ("resid_pre", "resid_post")]
    where = "layers.0" if part == "layer" else f"layers.0.{part}"
    for number, row in enumerate(ROWS):
        clean, gone = (ins.run(model, [row], read=read, edits=e) for e in ((), [ins.skip(where, at=slice(1, None))]))
        for layer in range(n):
            u, v = ((t[f"layers.{layer}.resid_post"] - t[f"layers.{layer}.resid_pre"])[0, 1:] for t in (clean, gone))
            wanted = float(((u - v).norm(dim=-1) / u.norm(dim=-1)).mean())
            assert float(made.per_input[number, 0, layer]) == pytest.approx(wanted, rel=1e-3, abs=1e-5)


def test_the_direct_effect_is_that_of_one_block_given_a_changed_input() -> None:
    model = gpt2()
    made = downstream_effects(model, ROWS[:1], direct=True, control=None)
    read = [f"layers.{i}.{s}" for i in range(model.n_layers) for s in ("resid_pre", "resid_post")]
    clean = ins.run(model, ROWS[:1], read=read)
    last = model.n_layers - 1
    gone = (clean["layers.0.resid_post"] - clean["layers.0.resid_pre"])[0]
    gone[0] = 0
    edit = ins.edit(f"layers.{last}.resid_pre", lambda x: x - gone)
    changed = ins.run(model, ROWS[:1], read=read, edits=[edit])
    u, v = (t[f"layers.{last}.resid_post"] - t[f"layers.{last}.resid_pre"] for t in (clean, changed))
    wanted = ((u - v).norm(dim=-1) / u.norm(dim=-1))[0, 1:]
    assert float(made.mean[0, last]) == pytest.approx(float(wanted.mean()), rel=1e-3)
    assert float(made.max[0, last]) == pytest.approx(float(wanted.max()), rel=1e-3)


def test_later_tokens_are_measured_after_a_cut() -> None:
    model = gpt2()
    row = [1, 5, 9]  # three tokens: the cut can only be before the last
    made = downstream_effects(model, [row], tokens="future", control=None)
    read = ["layers.1.resid_pre", "layers.1.resid_post"]
    clean, gone = (ins.run(model, [row], read=read, edits=e) for e in ((), [ins.skip("layers.0", at=1)]))
    u, v = ((t[read[1]] - t[read[0]])[0, 2] for t in (clean, gone))
    assert float(made.mean[0, 1]) == pytest.approx(float((u - v).norm() / u.norm()), rel=1e-3)
    assert made.n_tokens == 1
    assert float(made.mean.tril().abs().max()) < 1e-5  # the skipped layer itself is not skipped at later tokens


def test_nothing_upstream_changes_and_the_reach_is_the_mean_of_what_follows() -> None:
    made = downstream_effects(gpt2(), ROWS)
    assert float(made.mean.tril(-1).abs().max()) == 0.0
    n = len(made.layers)
    wanted = [float(made.mean[s, s + 1 :].mean()) for s in range(n - 1)]
    assert made.reach().value.tolist() == pytest.approx(wanted, rel=1e-5)


def test_a_layer_that_adds_nothing_has_no_effect() -> None:
    made = downstream_effects(silent_gpt2({1: torch.ones(32)}), ROWS)
    assert float(made.mean[0].abs().max()) == 0.0
    assert made.stream is not None
    assert float(made.stream[:, 1].min()) > 0


@pytest.mark.parametrize("name", ["gemma3_text", "cohere", "bert", "mamba", "vit"])
def test_families_have_effects(name: str) -> None:
    inputs = inputs_for(name)
    one = {k: v[:1] for k, v in inputs.items()} if isinstance(inputs, dict) else inputs
    made = downstream_effects(ins.open(build(name)), [one])
    assert bool((made.mean.diagonal() > 0).all())
    assert bool(torch.isfinite(made.mean).all())


def test_wrong_words_and_inputs_are_refused() -> None:
    with pytest.raises(ins.EditError, match="'layer', 'attn', 'mlp'"):
        downstream_effects(gpt2(), ROWS, "head")
    with pytest.raises(ins.EditError, match="'all', 'future'"):
        downstream_effects(gpt2(), ROWS, tokens="past")
    with pytest.raises(ins.EditError, match="'noise'"):
        downstream_effects(gpt2(), ROWS, control="shuffle")
    with pytest.raises(ins.InputError, match="needs a causal model"):
        downstream_effects(ins.open(build("bert")), [inputs_for("bert")], tokens="future")
    with pytest.raises(ins.InputError, match="no inputs"):
        downstream_effects(gpt2(), [])
    with pytest.raises(ins.InputError, match="has 2 tokens; 3 are needed"):
        downstream_effects(gpt2(), [[1, 2]])
    with pytest.raises(ins.InputError, match="one run of one row"):
        downstream_effects(gpt2(), [[[1, 2, 3], [4, 5, 6]]])
    with pytest.raises(ins.ModelError, match="no residual stream"):
        downstream_effects(ins.open(build("resnet")), [inputs_for("resnet")])
