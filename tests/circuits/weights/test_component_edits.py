"""Components taken out of a head: in the weights and in the activations, the same; and everything put back."""

import pytest
import torch

import inscape as ins
from inscape.circuits import weights
from tests.common.small import gpt2
from tests.common.zoo import ZOO, build, inputs_for

FAMILIES = ["gpt2", "gpt_neox", "llama", "gemma3_text", "granite", "falcon_new", "olmo2", "cohere", "dinov2", "bert"]


def logits(model: "ins.Model", inputs: object, **more: object) -> torch.Tensor:
    return ins.run(model, inputs, output=True, **more).output.logits


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_weight_edit_equals_the_activation_edit_and_is_undone(name: str, fold: bool) -> None:
    model, inputs = ins.open(build(name)), inputs_for(name)
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    plain = logits(model, inputs)
    strengths = weights.head(model, 1, 2, fold=fold).OV.components.strength
    with weights.weight_component(model, 1, 2, (0, 3), 0.25, fold=fold):
        in_weights = logits(model, inputs)
        scaled = weights.head(model, 1, 2, fold=fold).OV.components.strength
    in_activations = logits(model, inputs, edits=[weights.component_edit(model, 1, 2, (0, 3), 0.25, fold=fold)])
    torch.testing.assert_close(in_weights, in_activations, atol=1e-5, rtol=1e-4)
    assert float((in_weights - plain).abs().max()) > 1e-3
    expected = strengths * torch.tensor([0.25 if i in (0, 3) else 1.0 for i in range(len(strengths))])
    torch.testing.assert_close(scaled, expected.sort(descending=True).values, atol=1e-5, rtol=1e-4)
    assert all(torch.equal(before[k], v) for k, v in model.module.state_dict().items())


def test_removing_every_component_removes_the_head() -> None:
    model, inputs = gpt2(), inputs_for("gpt2")
    without = logits(model, inputs, edits=[ins.ablate("layers.1.attn.z", "zero", heads=[2])])
    with weights.weight_component(model, 1, 2, tuple(range(8))):
        torch.testing.assert_close(logits(model, inputs), without, atol=2e-5, rtol=1e-4)


def test_weights_are_put_back_after_an_error_and_in_half_precision() -> None:
    module = ZOO["llama"]().eval().to(torch.bfloat16)
    model = ins.open(module)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    name = "model.layers.0.self_attn.o_proj.weight"

    def fails_inside() -> None:
        with weights.weight_component(model, 0, 0, 0):
            assert not torch.equal(module.state_dict()[name], before[name])
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fails_inside()
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_the_activation_edit_takes_positions() -> None:
    model, ids = gpt2(), torch.tensor([[5, 9, 13, 17, 21]])
    late = logits(model, ids, edits=[weights.component_edit(model, 1, 2, 0, at=3)])
    plain = logits(model, ids)
    torch.testing.assert_close(late[:, :3], plain[:, :3], atol=0, rtol=0)
    assert float((late[:, 3:] - plain[:, 3:]).abs().max()) > 1e-3


def test_errors_say_what_is_there() -> None:
    model = gpt2()
    with (
        pytest.raises(ins.ShapeError, match="has 8 components; there is no 8"),
        weights.weight_component(model, 0, 0, 8),
    ):
        pass
    with pytest.raises(ins.ShapeError, match="has 8 components"):
        weights.component_edit(model, 0, 0, (1, 9))
    quantised = ins.open(_without_plain_output())
    with pytest.raises(ins.ModelError, match="component_edit"), weights.weight_component(quantised, 0, 0, 0):
        pass


def _without_plain_output() -> torch.nn.Module:
    class Rounded(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x, (self.weight * 8).round() / 8)

    module = ZOO["llama"]().eval()
    for layer in module.model.layers:
        old = layer.self_attn.o_proj
        layer.self_attn.o_proj = Rounded(old.in_features, old.out_features, bias=False)
    return module
