"""A gradient at a site is what an edit there does, to first order, in every family."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import inscape as ins
from tests.common.test_every_family import outputs
from tests.common.zoo import ZOO, build, inputs_for

# indices; what a choice is made from, which jumps where two are close; replayed beside the model
BESIDE = (".router.experts", ".router.logits", ".ssm.state")
# the tower's last states reach the text through transformers' own recorder; attention is called once an image
OUTSIDE = {"llava": "vision.layers.1.resid", "qwen2_5_vl": "vision."}


def wide(value: Any) -> Any:
    """The same inputs in float64."""
    if isinstance(value, dict):
        return {k: wide(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(wide(v) for v in value)
    return value.double() if value.is_floating_point() else value


def any_number(out: Any) -> Tensor:
    """Every output, times fixed random weights, as one number."""
    generator = torch.Generator().manual_seed(0)
    made = [(o * torch.randn(o.shape, generator=generator, dtype=torch.float64)).sum() for o in outputs(out)]
    return torch.stack(made).sum()


@pytest.mark.parametrize("name", list(ZOO))
def test_the_gradients_of_all_sites_foretell_an_edit_of_all_of_them(name: str) -> None:
    module = copy.deepcopy(build(name)).double()
    if hasattr(module, "set_experts_implementation"):
        module.set_experts_implementation("eager")  # torch's grouped product takes no float64
    model, inputs = ins.open(module), wide(inputs_for(name))
    left_out = OUTSIDE.get(name, "-")
    sites = [s.name for s in model.sites if not s.name.endswith(BESIDE) and not s.name.startswith(left_out)]
    trace = ins.run(model, inputs, read=sites, metric=any_number, grad=True)
    generator = torch.Generator().manual_seed(1)
    steps, told = {}, 0.0
    for site in sites:  # each step is worth about 1, so that no site hides behind another
        noise = torch.randn(trace[site].shape, generator=generator, dtype=torch.float64)
        steps[site] = noise / trace.grads[site].norm().clamp(min=1.0)
        told += float((trace.grads[site] * steps[site]).sum())

    def moved(eps: float) -> float:
        edits = [ins.edit(s, lambda x, d=d: x + eps * d) for s, d in steps.items()]
        value = ins.run(model, inputs, edits=edits, metric=any_number).metric
        assert value is not None
        return float(value)

    # norms compute in float32 inside some models, so the step cannot be smaller
    assert (moved(1e-3) - moved(-1e-3)) / 2e-3 == pytest.approx(told, abs=0.1)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("name", ["falcon_old", "falcon_new", "gpt2", "gemma2"])
def test_values_with_a_graph_are_those_without_also_where_a_model_goes_on_in_place(name: str, trained: bool) -> None:
    model, inputs = ins.open(copy.deepcopy(build(name)).requires_grad_(trained)), inputs_for(name)
    sites = [s.name for s in model.sites if s.name.endswith(("_out", "resid_pre", "resid_post", "mlp.act"))]
    plain, graph = (ins.run(model, inputs, read=sites, grad=g, output=True) for g in (False, True))
    for site in sites:
        torch.testing.assert_close(graph[site].detach(), plain[site], rtol=0, atol=0)
    torch.testing.assert_close(graph.output.logits.detach(), plain.output.logits, rtol=0, atol=0)
