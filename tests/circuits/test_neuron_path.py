"""Neuron paths: scores that are known on paper, searches against the obvious loop, edits a row, and every message."""

import pytest
import torch

import inscape as ins
from inscape.circuits.neuron_path import neuron_path, score_paths
from tests.common.small import gpt2
from tests.common.zoo import build, inputs_for

PIXELS = inputs_for("vit")
HOW = {"steps": 4, "rule": "midpoint"}
SITE = "layers.{}.mlp.act"
LAYERS = (0, 1, 2)


def vit() -> "ins.Model":
    return ins.open(build("vit"))


def label_probability(model: "ins.Model", edits: list, labels: list[int]) -> torch.Tensor:
    return ins.run(model, PIXELS, edits=edits).output.logits.softmax(-1)[torch.arange(2), labels]


def held(acts: torch.Tensor, units: list[list[int]], a: float | torch.Tensor) -> torch.Tensor:
    """The class token's clean activations with each row's units times a."""
    out = acts[:, 0].clone()
    for row, mine in enumerate(units):
        out[row, mine] = out[row, mine] * a
    return out


def test_scores_of_a_path_are_those_of_the_integral_done_by_hand() -> None:
    model, units, labels = vit(), [[[3], [7], [4]], [[5], [9], [6]]], [0, 1]
    made = score_paths(model, PIXELS, labels, torch.tensor(units), **HOW)
    acts = ins.run(model, PIXELS, read="layers.*.mlp.act")
    steps, grads, share = torch.zeros(2), torch.zeros(2), torch.zeros(2)
    for a in (0.125, 0.375, 0.625, 0.875):
        edits = [
            ins.replace(SITE.format(i), held(acts[SITE.format(i)], [u[i] for u in units], a)[:, None], at=0)
            for i in LAYERS
        ]
        trace = ins.run(
            model, PIXELS, edits=edits, read="layers.*.mlp.act", grad=True,
            metric=lambda out: out.logits.softmax(-1)[torch.arange(2), labels].sum(),
        )  # fmt: skip
        for row in range(2):
            for i in LAYERS:
                u = units[row][i][0]
                grads[row] += trace.grads[SITE.format(i)][row, 0, u] / 4
                share[row] += trace.grads[SITE.format(i)][row, 0, u] / 4 * acts[SITE.format(i)][row, 0, u]
    for row in range(2):
        steps[row] = sum(acts[SITE.format(i)][row, 0, units[row][i][0]] for i in LAYERS)
    torch.testing.assert_close(made.product, steps * grads, atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(made.ig, share, atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(made.clean, label_probability(model, [], labels))


def test_the_ig_form_adds_up_and_the_product_form_does_not() -> None:
    model, labels = vit(), [0, 1]
    made = score_paths(model, PIXELS, labels, torch.randint(0, 48, (2, 3, 5)), steps=16, rule="gauss")
    torch.testing.assert_close(made.ig, made.drop, atol=1e-5, rtol=1e-3)
    assert made.gap < 1e-3
    assert float((made.product - made.drop).abs().max()) > 1e-4


def test_the_progressive_search_takes_the_best_of_every_layer_given_those_below() -> None:
    model, labels = vit(), [0, 1]
    made = neuron_path(model, PIXELS, labels, score="ig", **HOW)
    acts = ins.run(model, PIXELS, read="layers.*.mlp.act")
    # the first layer by hand: all its neurons at the class token scaled together
    grads = torch.zeros_like(acts[SITE.format(0)][:, 0])
    for a in (0.125, 0.375, 0.625, 0.875):
        edit = ins.scale(SITE.format(0), a, at=0)
        trace = ins.run(
            model, PIXELS, edits=[edit], read=SITE.format(0), grad=True,
            metric=lambda out: out.logits.softmax(-1)[torch.arange(2), labels].sum(),
        )  # fmt: skip
        grads += trace.grads[SITE.format(0)][:, 0] / 4
    best = (grads * acts[SITE.format(0)][:, 0]).argmax(1)
    assert made.indices[:, 0, 0].tolist() == best.tolist()


def test_a_product_path_scores_at_least_as_much_as_most_chosen_by_chance() -> None:
    model, labels = vit(), [0, 1]
    found = neuron_path(model, PIXELS, labels, **HOW)
    chance = [neuron_path(model, PIXELS, labels, search="random", seed=s, **HOW).product for s in range(10)]
    assert bool((found.product > torch.stack(chance).mean(0)).all())


@pytest.mark.parametrize("search", ["progressive", "activation", "influence", "layer_ig", "random"])
def test_every_search_gives_k_different_neurons_a_layer_and_the_same_again(search: str) -> None:
    model, labels = vit(), [0, 1]
    made, again = (neuron_path(model, PIXELS, labels, search=search, k=3, steps=2) for _ in range(2))
    assert made.indices.shape == (2, 3, 3)
    assert all(len(set(units)) == 3 for row in made.indices.tolist() for units in row)
    assert torch.equal(made.indices, again.indices)


def test_the_activation_search_is_the_largest_and_the_influence_search_follows_the_gradient() -> None:
    model, labels = vit(), [0, 1]
    acts = ins.run(model, PIXELS, read="layers.*.mlp.act")
    made = neuron_path(model, PIXELS, labels, search="activation", steps=1)
    for i in LAYERS:
        assert made.indices[:, i, 0].tolist() == acts[SITE.format(i)][:, 0].argmax(-1).tolist()
    chain = neuron_path(model, PIXELS, labels, search="influence", steps=1)
    trace = ins.run(
        model, PIXELS, read=SITE.format(2), grad=True,
        metric=lambda out: out.logits.softmax(-1)[torch.arange(2), labels].sum(),
    )  # fmt: skip
    assert chain.indices[:, 2, 0].tolist() == trace.grads[SITE.format(2)][:, 0].argmax(-1).tolist()


def test_edits_of_paths_touch_each_rows_own_neurons_at_the_position_alone() -> None:
    model, labels = vit(), [0, 1]
    made = neuron_path(model, PIXELS, labels, k=2, steps=1)
    plain = ins.run(model, PIXELS, read="layers.*.mlp.act")
    for op, want in (("zero", 0.0), ("scale", 2.0)):
        got = ins.run(model, PIXELS, read=SITE.format(0), edits=made.edits(op))[SITE.format(0)]
        expected = plain[SITE.format(0)].clone()
        for row in range(2):
            expected[row, 0, made.indices[row, 0]] *= want
        torch.testing.assert_close(got, expected)
    assert float(ins.run(model, PIXELS, read=SITE.format(0), edits=made.edits("set", 7.0))[SITE.format(0)].max()) == 7.0
    with pytest.raises(ins.EditError, match="'zero', 'scale' or 'set'"):
        made.edits("remove")


@pytest.mark.parametrize("position", [-1, 2, "all", "mean"])
def test_decoders_have_paths_of_their_gated_neurons_at_any_position(position: str | int) -> None:
    model = ins.open(build("llama"))
    rows = [[5, 9, 13, 17], [6, 10, 14]]
    made = neuron_path(model, rows, [3, 7], position=position, steps=12, rule="gauss")
    assert made.indices.shape == (2, 3, 1)
    assert made.gap < 0.05
    if position != 2:
        alone = neuron_path(model, rows[1:], 7, position=position, steps=12, rule="gauss")
        assert torch.equal(alone.indices[0], made.indices[1])


def test_the_logit_can_be_the_target_and_the_mean_the_baseline() -> None:
    model, labels = vit(), torch.tensor([0, 1])
    logit = neuron_path(model, PIXELS, labels, value="logit", steps=8, rule="gauss")
    torch.testing.assert_close(logit.clean, ins.run(model, PIXELS).output.logits[torch.arange(2), labels])
    mean = neuron_path(model, PIXELS, labels, baseline="mean", search="random", steps=8, rule="gauss")
    assert mean.gap < 0.02


def test_channels_of_a_convolutional_net_are_neurons_too() -> None:
    model = ins.open(build("efficientnet_lite"))
    images = inputs_for("efficientnet_lite")
    made = neuron_path(model, images, [0, 1], sites="layers.*.out", position="mean", steps=8, rule="gauss", k=2)
    assert made.indices.shape == (2, len(made.sites), 2)
    assert made.gap < 0.2
    off = ins.run(model, images, read=made.sites[0], edits=made.edits())[made.sites[0]]
    for row in range(2):
        assert float(off[row, made.indices[row, 0]].abs().max()) == 0.0
    with pytest.raises(ins.InputError, match="have no positions"):
        neuron_path(model, images, [0, 1], sites="layers.*.out", position=0)


def test_batches_of_any_size_give_the_same_paths() -> None:
    model, labels = vit(), [0, 1]
    a, b = (neuron_path(model, PIXELS, labels, steps=3, batch_tokens=n) for n in (10_000, 1))
    assert torch.equal(a.indices, b.indices)
    torch.testing.assert_close(a.product, b.product, rtol=1e-3, atol=1e-7)


def test_what_has_no_path_says_why() -> None:
    model = vit()
    with pytest.raises(ins.InputError, match="has no class token"):
        neuron_path(gpt2(), [[1, 2, 3]], 4)
    for said, more in {
        "2 classes, 0 to 1": {"target": [1, 5]},
        "can be progressive, activation": {"search": "greedy"},
        "can be product, ig": {"score": "sum"},
        "can be probability, logit": {"value": "log"},
        "can be cls, all, mean": {"position": "class"},
        "neurons to choose from": {"k": 1000},
    }.items():
        with pytest.raises(ins.InputError, match=said):
            neuron_path(model, PIXELS, **{"target": [0, 1], **more})
    with pytest.raises(ins.InputError, match="no paths of 2 rows"):
        score_paths(model, PIXELS, [0, 1], torch.zeros(2, 2, 1, dtype=torch.long))
    moe = ins.open(build("qwen3_moe"))
    with pytest.raises(ins.InputError, match="have no gradient"):
        neuron_path(moe, [[5, 9, 13]], 3, sites="layers.*.router.experts", position=-1)
