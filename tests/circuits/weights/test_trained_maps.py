"""The weights of a trained model, with its dead units and sizes, are proven against what its attention computes."""

import pytest
import torch
from torch import Tensor

import inscape as ins
from inscape.circuits import weights
from inscape.circuits.weights.check import check
from inscape.circuits.weights.layer import attending, layers
from tests.common.zoo import ZOO


def with_dead_units() -> torch.nn.Module:
    """Norms of queries and keys learn gains of zero where a unit is not wanted."""
    module = ZOO["gemma3_text"]().eval()
    with torch.no_grad():
        for layer in module.model.layers:
            layer.self_attn.q_norm.weight[:3] = -1.0  # the gain is 1 + w
            layer.self_attn.k_norm.weight[1:4] = -1.0
    return module


def test_dead_units_of_keys_are_not_taken_for_those_of_queries() -> None:
    model = ins.open(with_dead_units())
    for wired in layers(model, attending(model)):
        for name in ("q", "k"):
            (part,) = getattr(wired, name).parts
            assert part.path.endswith(f"{name}_norm")
            assert torch.equal(part.columns, part.outputs)
    assert max(row.error for row in check(model)) < 1e-5
    assert float(weights.head(model, 0, 0).W_K[:, 1:4].abs().max()) == 0.0


def test_a_head_whose_keys_are_pruned_is_no_error_of_the_map() -> None:
    module = ZOO["gemma3_text"]().eval()
    with torch.no_grad():
        width = module.config.head_dim
        module.model.layers[0].self_attn.k_proj.weight[:width] = 0
    model = ins.open(module)
    (part,) = layers(model, attending(model))[0].k.parts
    assert torch.equal(part.columns, part.outputs)
    assert max(row.error for row in check(model)) < 1e-5


@pytest.mark.real
def test_the_check_confirms_every_map_of_gemma(gemma: "ins.Model") -> None:
    rows = check(gemma)
    assert len(rows) == 4 * 18
    assert max(row.error for row in rows) < 1e-5


@pytest.mark.real
def test_scores_made_of_gemmas_weights_and_its_stream_are_its_scores(gemma: "ins.Model") -> None:
    from transformers.models.gemma3.modeling_gemma3 import apply_rotary_pos_emb

    module, kinds = gemma.module, gemma.module.config.layer_types
    names = [f"layers.{i}.{n}" for i in range(18) for n in ("resid_pre", "attn.scores")]
    trace = ins.run(gemma, "The sum of the angles of a triangle is 180 degrees, whatever its shape.", read=names)
    heads = iter(weights.heads(gemma))
    for i, layer in enumerate(module.model.layers):
        x, scores = trace[f"layers.{i}.resid_pre"], trace[f"layers.{i}.attn.scores"]
        n, attention = x.shape[1], layer.self_attn
        at = torch.arange(n)[None]
        cos, sin = module.model.rotary_emb(x, at, kinds[i])
        seen = at <= at.T
        unit, inside = over_size(x), layer.input_layernorm(x)
        for h in range(4):
            found = next(heads)
            before_norm = attention.q_proj(inside)[..., 256 * h : 256 * (h + 1)]  # only its size is used
            q = unit @ found.W_Q / size(before_norm)
            k = unit @ found.W_K / size(attention.k_proj(inside))
            q, k = apply_rotary_pos_emb(q[:, None], k[:, None], cos, sin)
            made = (q @ k.mT)[0, 0] * found.scaling
            wanted = scores[0, h][seen]
            torch.testing.assert_close(made[seen], wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.real
@pytest.mark.parametrize("layer", [4, 5])  # a sliding layer and a full one turn at different bases
def test_turns_of_gemma_give_its_scores_at_that_distance(gemma: "ins.Model", layer: int) -> None:
    text = "The sum of the angles of a triangle is 180 degrees, whatever its shape."
    x, scores = ins.run(gemma, text, read=[f"layers.{layer}.{n}" for n in ("resid_pre", "attn.scores")]).values()
    attention, norm = gemma.module.model.layers[layer].self_attn, gemma.module.model.layers[layer].input_layernorm
    for offset in (1, 7):
        found = weights.head(gemma, layer, 2, offsets=[offset])
        q = over_size(x) @ found.QK.left / size(attention.q_proj(norm(x))[..., 512:768])
        k = over_size(x) @ found.W_K / size(attention.k_proj(norm(x)))
        made = (q @ k.mT)[0].diagonal(-offset) * found.scaling
        wanted = scores[0, 2].diagonal(-offset)
        torch.testing.assert_close(made, wanted, rtol=0, atol=1e-3 * float(wanted.abs().max()))


def size(x: Tensor) -> Tensor:
    return (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def over_size(x: Tensor) -> Tensor:
    return x / size(x)
