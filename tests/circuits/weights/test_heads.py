"""Per-head weights: traced on every family, proven against what attention uses, folded and factored rightly."""

import pytest
import torch
from torch import Tensor

import inscape as ins
from inscape.circuits import weights
from inscape.circuits.weights.check import check
from inscape.circuits.weights.layer import attending, layers
from tests.common.small import gpt2, hooks_left
from tests.common.zoo import ZOO, build, inputs_for
from tests.common.zoo_unknown import unknown

ATTENDING = [n for n in ZOO if attending(ins.open(build(n)))]
UNTRACED = {  # what stands between a projection and attention there
    "zamba2": {"q", "k", "v"},  # an adapter of its own in every layer adds to the shared projections
    "dinov3_vit": {"q", "k"},  # patches are turned by where they are, at every position of the probe
    "dinov3_vit_gated": {"q", "k"},
}
SIZED = {"olmo", "deepseek_v2", "deepseek_v3", "deepseek_v3_direct_q"}  # values are clipped, or pass a norm themselves
ROTARY = ["llama", "gptj", "gpt_neox", "falcon_new", "phi3", "smollm3"]


def tokens(rows: int = 3, columns: int = 6) -> Tensor:
    return torch.randint(5, 60, (rows, columns), generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("name", ATTENDING)
def test_the_weights_of_every_layer_give_what_attention_uses(name: str) -> None:
    model = ins.open(build(name))
    hooks = hooks_left(model.module)
    rows = check(model)
    for row in rows:
        if row.what in UNTRACED.get(name, ()):
            assert row.error == torch.inf
            assert "projections" in row.why
        else:
            assert row.error < 1e-5, row
    assert {r.layer for r in rows} == {b.name for b in attending(model)}
    assert hooks_left(model.module) == hooks


@pytest.mark.parametrize("name", [n for n in ATTENDING if n not in {*UNTRACED, *SIZED}])
def test_folded_weights_apply_to_the_stream_over_the_size_of_its_norm(name: str) -> None:
    model = ins.open(build(name))
    block = attending(model)[-1]
    wired = layers(model, [block])[0]
    trace = ins.run(model, inputs_for(name), read=[f"{block.name}.{n}" for n in ("resid_pre", "attn.in", "attn.v")])
    x, v = trace[f"{block.name}.resid_pre"], trace[f"{block.name}.attn.v"]
    assert wired.reads == f"{block.name}.resid_pre"
    if wired.norm is not None:
        x = x / wired.norm.size(x, trace[f"{block.name}.attn.in"] / wired.multiplier)
    for h in (0, wired.heads - 1):
        found = weights.head(model, block.name, h)
        got = v[:, :, found.kv_head]
        torch.testing.assert_close(x @ found.W_V + found.b_V, got, atol=2e-5 * float(got.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("name", ROTARY)
def test_qk_at_an_offset_gives_the_scores_at_that_distance(name: str) -> None:
    model = ins.open(build(name))
    ids = tokens(4, 6)
    for layer in (0, model.n_layers - 1):
        sites = [f"layers.{layer}.attn.{n}" for n in ("in", "scores")]
        x, scores = ins.run(model, ids, read=sites).values()
        for offset in (0, 1, 3):
            found = weights.head(model, layer, 1, fold=False, offsets=[offset])
            left = found.W_Q if found.turn is None else found.W_Q @ found.turn
            bias = found.b_Q if found.turn is None else found.b_Q @ found.turn
            q, k = x @ left + bias, x @ found.W_K + found.b_K
            made = torch.einsum("bqd,bkd->bqk", q, k) * found.scaling
            far = torch.arange(6)[:, None] - torch.arange(6) == offset
            torch.testing.assert_close(made[:, far], scores[:, 1][:, far], atol=1e-4, rtol=1e-3)


def test_offsets_are_averaged_and_said() -> None:
    model = ins.open(build("llama"))
    one, three = (weights.head(model, 1, 2, offsets=[o]) for o in (1, 3))
    both = weights.head(model, 1, 2, offsets=[1, 3])
    mean = (one.QK.dense() + three.QK.dense()) / 2
    torch.testing.assert_close(both.QK.dense(), mean, atol=1e-6, rtol=1e-5)
    assert "offsets 1, 3" in both.turned
    assert "offset zero" in weights.head(model, 1, 2).turned
    assert weights.head(ins.open(build("smollm3")), 1, 0).turned == "QK does not depend on position"  # its layer 1


def test_heads_that_share_keys_and_values_say_so() -> None:
    grouped = weights.heads(ins.open(build("llama")), 0)
    assert [h.shared for h in grouped] == [(1,), (0,), (3,), (2,)]
    assert [h.kv_head for h in grouped] == [0, 0, 1, 1]
    torch.testing.assert_close(grouped[0].W_K, grouped[1].W_K, atol=0, rtol=0)
    assert not torch.equal(grouped[0].W_Q, grouped[1].W_Q)
    multi_query = weights.heads(ins.open(build("falcon_old")), 0)
    assert multi_query[0].shared == (1, 2, 3)
    repeated = weights.heads(ins.open(build("falcon_new")), 0)  # two heads' worth of keys, repeated before attention
    assert [h.shared for h in repeated] == [(1,), (0,), (3,), (2,)]
    assert weights.head(gpt2(), 0, 0).shared == ()


def test_what_the_matrices_leave_out_is_said() -> None:
    said = {n: " ".join(weights.head(ins.open(build(n)), -1, 0).notes) for n in ("gemma3_text", "qwen3", "granite")}
    assert "q passes a norm (q_norm)" in said["gemma3_text"]
    assert "not bilinear" in said["gemma3_text"]
    assert "depends on all heads" in said["gemma3_text"]
    assert "not bilinear" in said["qwen3"]
    assert "multiplied by 0.3" in said["granite"]
    assert weights.head(ins.open(build("granite")), 0, 0).folded.endswith("multiplier after it")
    gates = weights.head(ins.open(build("qwen3_next")), 3, 0).notes
    assert any("gated" in n for n in gates)
    assert any("sink" in n for n in weights.head(ins.open(build("gpt_oss")), 0, 0).notes)
    assert any("clipped" in n for n in weights.head(ins.open(build("olmo")), 0, 0).notes)
    assert weights.head(ins.open(build("gemma2")), 0, 0).scaling is None  # a soft cap
    assert weights.head(gpt2(), 0, 0).notes == ()


def test_a_folded_layer_norm_neither_reads_nor_writes_a_mean() -> None:
    found = weights.head(gpt2(), 1, 2)
    ones = torch.ones(32)
    assert float((ones @ found.W_V).abs().max()) < 1e-5
    assert float((found.W_O @ ones).abs().max()) < 1e-5
    assert found.centred
    raw = weights.head(gpt2(), 1, 2, fold=False)
    torch.testing.assert_close(raw.W_V, model_slice("v", 2), atol=0, rtol=0)
    assert raw.reads == "layers.1.attn.in"


def model_slice(which: str, head: int) -> Tensor:
    weight = gpt2().module.transformer.h[1].attn.c_attn.weight
    start = {"q": 0, "k": 32, "v": 64}[which] + 8 * head
    return weight[:, start : start + 8].detach()


@pytest.mark.parametrize("name", ["tiny", "gpt_bigcode", "stablelm", "persimmon", "nemotron"])
def test_models_without_a_table_have_their_weights_traced_too(name: str) -> None:
    model = ins.open(unknown(name))
    assert max(r.error for r in check(model)) < 1e-4


def test_a_projection_that_is_no_plain_layer_is_asked_for_its_map() -> None:
    module = build_with_adapter()
    model = ins.open(module)
    assert max(r.error for r in check(model)) < 1e-5
    plain = weights.head(ins.open(build("llama")), 0, 0).W_Q
    assert float((weights.head(model, 0, 0).W_Q - plain).abs().max()) > 1e-3


class LinearWithAdapter(torch.nn.Module):
    def __init__(self, base: torch.nn.Linear) -> None:
        super().__init__()
        self.base, self.in_features, self.out_features = base, base.in_features, base.out_features
        g = torch.Generator().manual_seed(0)
        self.down = torch.nn.Parameter(torch.randn(2, base.in_features, generator=g) * 0.1)
        self.up = torch.nn.Parameter(torch.randn(base.out_features, 2, generator=g) * 0.1)

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down.T @ self.up.T


def build_with_adapter() -> torch.nn.Module:
    module = ZOO["llama"]().eval()
    for layer in module.model.layers:
        layer.self_attn.q_proj = LinearWithAdapter(layer.self_attn.q_proj)
    return module


def test_weights_are_read_as_they_are_now() -> None:
    module = ZOO["gpt2"]().eval()
    model = ins.open(module)
    before = weights.head(model, 0, 0).W_O
    with torch.no_grad():
        module.transformer.h[0].attn.c_proj.weight.mul_(2)
    torch.testing.assert_close(weights.head(model, 0, 0).W_O, 2 * before)


def test_half_precision_is_traced_and_given_in_float32() -> None:
    module = ZOO["gemma3_text"]().eval().to(torch.bfloat16)
    found = weights.head(ins.open(module), 1, 0)
    assert found.W_V.dtype == torch.float32
    whole = weights.head(ins.open(build("gemma3_text")), 1, 0)
    torch.testing.assert_close(found.W_V, whole.W_V, atol=0.02, rtol=0.02)


def test_errors_say_what_is_there() -> None:
    model = gpt2()
    with pytest.raises(ins.SiteError, match="has 3"):
        weights.head(model, 3, 0)
    with pytest.raises(ins.SiteError, match=r"layers\.0"):
        weights.head(model, "encoder.layers.0", 0)
    with pytest.raises(ins.ShapeError, match="it has 4"):
        weights.head(model, 0, 4)
    with pytest.raises(ins.ModelError, match=r"attn\.z and attn\.head_out are there"):
        weights.head(ins.open(build("zamba2")), "layers.1", 0)
    with pytest.raises(ins.ModelError, match="no layer whose heads"):
        weights.heads(ins.open(build("mamba")))
    with pytest.raises(ins.ModelError, match="cannot be taken apart"):
        weights.head(ins.open(build("mamba")), 0, 0)
    with pytest.raises(ins.ModelError, match=r"has no QK matrix: attn\.q is no output"):
        _ = weights.head(ins.open(build("dinov3_vit")), 0, 0).QK
    with pytest.raises(ins.InputError, match="distances from query back to key"):
        weights.head(ins.open(build("llama")), 0, 0, offsets=[-1])
    with pytest.raises(ins.ModelError, match="measured on rows of tokens"):
        weights.head(ins.open(build("vit")), 0, 0, offsets=[1])
