"""Cutting edges is what path patching of one edge gives, what a forward written out gives, and what both runs give."""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import inscape as ins
from inscape.circuits.edges.exact import EdgeRuns
from inscape.circuits.edges.wiring import Wiring
from inscape.circuits.paths import path_patching
from inscape.core.circuit import Circuit, Node, circuit_of
from inscape.core.metrics import kl, logit_diff, loss
from tests.common.small import gpt2, gpt2_module, hooks_left
from tests.common.zoo import build, inputs_for

CLEAN = [[5, 9, 13, 17, 21, 25], [6, 10, 14, 18]]
CORRUPTED = [[5, 9, 40, 17, 21, 25], [6, 41, 14, 18]]
DIFF = logit_diff([3, 4], [7, 8])
# fused and split projections, shared key heads, parallel blocks, norms after the parts, latent attention, experts
FAMILIES = ("gpt_neox", "gptj", "opt", "bloom", "falcon_old", "falcon_new", "llama", "gemma3_text", "cohere2", "olmo2",
            "phi3", "deepseek_v3", "mixtral", "gpt_oss")  # fmt: skip


def some(runs: EdgeRuns, seed: int, share: float = 0.6, n: int = 3) -> Tensor:
    drawn = torch.rand(n, *runs.all.shape, generator=torch.Generator().manual_seed(seed))
    return (drawn < share) & runs.all


def by_hand(module: torch.nn.Module, keep: Tensor, wiring: Wiring, ids: Tensor, other: Tensor) -> Tensor:
    """A GPT-2 written out reader by reader: [row, vocab] at the last token."""
    body, n_heads = module.transformer, module.config.n_head
    width = module.config.n_embd // n_heads
    names = [r.name for r in wiring.readers]

    def forward(tokens: Tensor, hear) -> tuple[Tensor, list[Tensor]]:
        said = [body.wte(tokens) + body.wpe(torch.arange(tokens.shape[1]))]
        biases = torch.zeros(())
        for layer, block in enumerate(body.h):
            parts = {}
            for i, kind in enumerate("qkv"):
                columns = slice(i * n_heads * width, (i + 1) * n_heads * width)
                weight, bias = block.attn.c_attn.weight[:, columns], block.attn.c_attn.bias[columns]
                for h in range(n_heads):
                    x = block.ln_1(hear(f"layers.{layer}.attn.{kind}.{h}", said) + biases)
                    own = slice(h * width, (h + 1) * width)
                    parts[kind, h] = x @ weight[:, own] + bias[own]
            for h in range(n_heads):
                z = F.scaled_dot_product_attention(*(parts[k, h][:, None] for k in "qkv"), is_causal=True)[:, 0]
                said.append(z @ block.attn.c_proj.weight[h * width : (h + 1) * width])
            biases = biases + block.attn.c_proj.bias
            said.append(block.mlp(block.ln_2(hear(f"layers.{layer}.mlp", said) + biases)))
        return module.lm_head(body.ln_f(hear("output", said) + biases))[:, -1], said

    _, theirs = forward(other, lambda name, said: sum(said))

    def hear(name: str, said: list[Tensor]) -> Tensor:
        kept = keep[:, names.index(name)]
        return sum(mine if kept[i] else theirs[i] for i, mine in enumerate(said))

    return forward(ids, hear)[0]


def test_any_set_of_edges_is_what_a_forward_written_out_gives() -> None:
    model = gpt2()
    ids, other = torch.tensor(CLEAN[:1]), torch.tensor(CORRUPTED[:1])
    runs = EdgeRuns.of(model, ids, other, logit_diff(3, 7))
    keep = torch.cat([some(runs, 0), some(runs, 1, 0.1)])
    with torch.no_grad():
        logits = torch.cat([by_hand(model.module, k, runs.wiring, ids, other) for k in keep])
    torch.testing.assert_close(runs.measure(keep)[:, 0], logits[:, 3] - logits[:, 7], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_one_edge_is_what_runs_with_another_stream_give_on_every_decoder(name: str) -> None:
    model, ids = ins.open(build(name)), inputs_for(name)["input_ids"]
    other = ids.clone()
    other[:, 2] = torch.tensor([40, 41])
    runs = EdgeRuns.of(model, ids, other, logit_diff(3, 7))
    last, names = model.n_layers - 1, [r.name for r in runs.wiring.readers]
    stream, wrote = f"layers.{last}.resid_pre", f"layers.{last - 1}.attn.head_out"
    mine, theirs = (ins.run(model, x, read=[stream, wrote], output=False) for x in (ids, other))
    moved = mine[stream] + theirs[wrote][:, :, 1] - mine[wrote][:, :, 1]
    keys = max(r.place.head for r in runs.wiring.readers if r.place and r.place.kind == "k" and r.layer == last)
    writer = [w.name for w in runs.wiring.writers].index(f"layers.{last - 1}.attn.1")
    for kind, head in (("q", 1), ("k", keys), ("v", 0)):
        site = f"layers.{last}.attn.{kind}"
        own = ins.run(model, ids, read=site, edits=[ins.replace(stream, moved)], output=False)
        logits = ins.run(model, ids, edits=[ins.patch(site, own, heads=head)], output="last").output.logits[:, -1]
        keep = runs.all.clone()
        keep[writer, names.index(f"{site}.{head}")] = False
        want = (logits[:, 3] - logits[:, 7])[None]
        torch.testing.assert_close(runs.measure(keep[None]), want, rtol=2e-4, atol=2e-4)


def test_one_edge_is_what_path_patching_of_it_gives() -> None:
    model, metric = ins.open(build("llama")), logit_diff([3, 4], [7, 8])
    runs = EdgeRuns.of(model, CLEAN, CORRUPTED, metric)
    reader = [r.name for r in runs.wiring.readers].index("output")
    paths = path_patching(model, CLEAN, CORRUPTED, positions="all", freeze=("heads", "mlps"), metric=metric)
    for layer, head in ((0, 1), (1, 3), (2, 0)):
        keep = runs.all.clone()
        keep[[w.name for w in runs.wiring.writers].index(f"layers.{layer}.attn.{head}"), reader] = False
        torch.testing.assert_close(runs.measure(keep[None])[0], paths.per_pair[:, layer, head], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("split", ["whole", "qkv", "heads"])
def test_no_edge_cut_is_the_clean_run_and_every_edge_cut_the_corrupted_one(split: str) -> None:
    model = ins.open(build("llama"))
    runs = EdgeRuns.of(model, CLEAN, CORRUPTED, DIFF, split=split)
    both = runs.measure(torch.stack([runs.all, torch.zeros_like(runs.all)]))
    for made, ids in zip(both, (CLEAN, CORRUPTED), strict=True):
        logits = [ins.run(model, [row], output="last").output.logits[0, -1] for row in ids]
        want = torch.stack([x[a] - x[b] for x, a, b in zip(logits, (3, 4), (7, 8), strict=True)])
        torch.testing.assert_close(made, want, rtol=1e-4, atol=1e-4)


def test_padding_batches_and_threads_do_not_matter() -> None:
    model = ins.open(build("gemma3_text"))
    runs = EdgeRuns.of(model, CLEAN, CORRUPTED, DIFF)
    keep = some(runs, 0, 0.8)
    made = runs.measure(keep)
    right = EdgeRuns.of(model, CLEAN, CORRUPTED, DIFF, padding_side="right", batch_tokens=16)
    torch.testing.assert_close(right.measure(keep), made, rtol=1e-4, atol=1e-4)
    for row in range(2):
        alone = EdgeRuns.of(model, CLEAN[row : row + 1], CORRUPTED[row : row + 1], logit_diff(3 + row, 7 + row))
        torch.testing.assert_close(alone.measure(keep)[:, 0], made[:, row], rtol=1e-4, atol=1e-4)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.testing.assert_close(runs.measure(keep), made, rtol=1e-4, atol=1e-4)
    finally:
        torch.set_num_threads(threads)
    assert hooks_left(model.module) == 0


def test_shares_of_edges_have_gradients_and_end_in_the_exact_values() -> None:
    runs = EdgeRuns.of(gpt2(), CLEAN, CORRUPTED, DIFF)
    keep = some(runs, 0, n=1)
    share = keep.float().requires_grad_()
    made = runs.values(share, [0, 1])
    torch.testing.assert_close(made.detach(), runs.measure(keep), rtol=1e-4, atol=1e-4)
    (grad,) = torch.autograd.grad(made.sum(), share)
    step = torch.randn(share.shape, generator=torch.Generator().manual_seed(0)) * runs.all
    with torch.no_grad():
        up, down = (runs.values(share + s * step, [0, 1]).sum() for s in (1e-2, -1e-2))
    assert float((grad * step).sum()) == pytest.approx(float(up - down) / 2e-2, rel=2e-2)
    assert float(grad[:, ~runs.all].abs().max()) == 0.0


def test_other_metrics_and_half_precision() -> None:
    model = gpt2()
    for metric in (kl(), loss(), ins.probability(3)):
        runs = EdgeRuns.of(model, CLEAN, CORRUPTED, metric)
        assert bool(runs.measure(some(runs, 0)).isfinite().all())
    runs = EdgeRuns.of(model, CLEAN, CORRUPTED, kl())
    assert float(runs.measure(runs.all[None]).abs().max()) < 1e-6
    half = EdgeRuns.of(ins.open(copy.deepcopy(gpt2_module()).bfloat16()), CLEAN, CORRUPTED, DIFF)
    full = EdgeRuns.of(model, CLEAN, CORRUPTED, DIFF)
    keep = some(full, 2, n=12)
    a, b = half.measure(keep).flatten(), full.measure(keep).flatten()
    assert float(torch.corrcoef(torch.stack([a, b]))[0, 1]) > 0.97


def test_loose_ends_change_nothing() -> None:
    runs = EdgeRuns.of(ins.open(build("llama")), CLEAN, CORRUPTED, DIFF)
    keep = some(runs, 3, 0.08, n=8)
    tidy = torch.stack([runs.wiring.connected(k) for k in keep])
    assert int(tidy.sum()) < int(keep.sum())
    torch.testing.assert_close(runs.measure(keep), runs.measure(tidy), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_circuit_and_its_edges_are_the_same(name: str) -> None:
    wiring = Wiring.of(ins.open(build(name)))
    drawn = torch.rand(wiring.allowed.shape, generator=torch.Generator().manual_seed(0))
    keep = wiring.connected(drawn < 0.3)
    circuit = wiring.circuit(keep, drawn, "drawn")
    assert torch.equal(wiring.keep_of(circuit), keep)
    assert Node(-1) in circuit.nodes
    assert ("embed", "logits", "") in wiring.circuit(wiring.allowed, drawn, "all").edges


def test_what_has_no_edges_to_cut_says_why() -> None:
    model = gpt2()
    with pytest.raises(ins.InputError, match="cutting edges needs a metric"):
        EdgeRuns.of(model, CLEAN, CORRUPTED)
    with pytest.raises(ins.TokenError, match="do not line up"):
        EdgeRuns.of(model, CLEAN, [[1, 2, 3], [4, 5, 6]], DIFF)
    with pytest.raises(ins.ModelError, match=r"layers.0.ssm of MambaForCausalLM is not made of heads"):
        EdgeRuns.of(ins.open(build("mamba")), CLEAN, CORRUPTED, DIFF)
    with pytest.raises(ins.ModelError, match="normalised after every addition"):
        EdgeRuns.of(ins.open(build("opt_post_norm")), CLEAN, CORRUPTED, DIFF)
    wiring = Wiring.of(model)
    with pytest.raises(ins.InputError, match="has no edges"):
        wiring.keep_of(circuit_of([(0, 1)]))
    nodes = {Node(0, 1): 1.0, Node(1, 9): 1.0}
    with pytest.raises(ins.InputError, match=r"0.1 -> 1.9 through k is no edge here"):
        wiring.keep_of(Circuit(nodes, {("0.1", "1.9", "k"): 1.0}))


def test_a_stream_that_is_scaled_on_its_way_is_refused() -> None:
    module = copy.deepcopy(gpt2_module())
    handle = module.transformer.h[1].register_forward_hook(
        lambda m, args, out: out * 0.5 if torch.is_tensor(out) else (out[0] * 0.5, *out[1:])
    )
    try:
        with pytest.raises(ins.ModelError, match="the last stream is off by"):
            EdgeRuns.of(ins.open(module), CLEAN, CORRUPTED, DIFF)
    finally:
        handle.remove()
