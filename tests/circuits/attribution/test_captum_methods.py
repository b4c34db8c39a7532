"""Captum's methods on opened models: they agree with this package's own where both exist."""

import sys

import pytest
import torch

import inscape as ins
from inscape.circuits.attribution.captum_methods import input_attribution
from inscape.circuits.attribution.first_order import gradient_times_activation
from inscape.circuits.attribution.integrated import integrated_gradients
from inscape.core.metrics import logit_diff
from tests.circuits.attribution.nets import chain, first_class, rows
from tests.common.small import gpt2
from tests.common.zoo import build, inputs_for

IDS = [[1, 5, 9, 13, 17, 21], [2, 6, 10]]
DIFF = logit_diff(3, 7)


@pytest.mark.real("captum")
def test_input_times_gradient_of_the_embeddings_is_our_own() -> None:
    model = gpt2()
    found = input_attribution(model, IDS, DIFF, "InputXGradient")
    ours = gradient_times_activation(model, IDS, DIFF, "embed")
    torch.testing.assert_close(found.entries["embed"], ours.entries["embed"], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found.metric, ours.metric, atol=1e-5, rtol=1e-5)


@pytest.mark.real("captum")
@pytest.mark.parametrize("internal", [None, 4])
def test_integrated_gradients_of_both_agree(internal: int | None) -> None:
    model, site = gpt2(), "layers.1.resid_pre"
    other = ins.run(model, [[4, 4, 8, 8, 12, 12], [3, 3, 3]], read=site)
    found = input_attribution(
        model, IDS, DIFF, site=site, baselines=other[site], n_steps=24, internal_batch_size=internal
    )
    ours = integrated_gradients(model, IDS, DIFF, site, baseline=other, steps=24)
    torch.testing.assert_close(found.total(), ours.total(), atol=1e-3, rtol=1e-2)


@pytest.mark.real("captum")
def test_pixels_of_images_are_varied_by_themselves() -> None:
    model = ins.open(build("vit"))
    found = input_attribution(model, inputs_for("vit"), lambda logits: logits[:, 0], n_steps=32)
    entries = found.entries["pixel_values"]
    assert entries.shape == (2, 3, 16, 16)
    black = ins.run(model, {"pixel_values": torch.zeros(2, 3, 16, 16)}).output.logits[:, 0]
    torch.testing.assert_close(found.total(), found.metric - black, atol=1e-3, rtol=2e-2)


@pytest.mark.real("captum")
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("Saliency", {}),
        ("FeatureAblation", {}),
        ("GradientShap", {"n_samples": 3, "baselines": torch.zeros(4, 6).double()}),
        ("ShapleyValueSampling", {"n_samples": 2, "perturbations_per_eval": 3}),
        ("Occlusion", {"sliding_window_shapes": (2,)}),
    ],
)
def test_other_methods_run_in_any_order_of_rows(method: str, options: dict) -> None:
    model, x = chain(2), rows(4, 0)
    both = input_attribution(model, x, first_class, method, **options)
    assert both.entries["argument 0"].shape == (4, 6)
    if method in ("Saliency", "FeatureAblation", "Occlusion"):  # no chance in these
        alone = input_attribution(model, x[2:3], first_class, method, **options)
        torch.testing.assert_close(both.entries["argument 0"][2:3], alone.entries["argument 0"], atol=1e-5, rtol=1e-4)


@pytest.mark.real("captum")
def test_methods_that_take_a_module_apart_are_refused_with_those_that_do_not() -> None:
    model = gpt2()
    with pytest.raises(ins.InputError, match=r"takes a module apart[\s\S]*IntegratedGradients"):
        input_attribution(model, IDS, DIFF, "DeepLift")
    with pytest.raises(ins.InputError, match="is no method of Captum"):
        input_attribution(model, IDS, DIFF, "Integrated")
    with pytest.raises(ins.InputError, match="has no baseline"):
        input_attribution(model, IDS, DIFF, "Saliency", baselines=0)


def test_without_captum_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(ins.MissingExtraError, match=r"inscape\[attribution\]"):
        input_attribution(gpt2(), IDS, DIFF)
