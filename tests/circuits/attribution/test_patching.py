"""Attribution patching: exact on a linear net, the first-order part of an exact sweep elsewhere."""

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import inscape as ins
from inscape.circuits.attribution.patching import attribution_patching
from inscape.circuits.attribution.relevance import relevance
from inscape.circuits.sweep import sweep
from inscape.core.metrics import kl, log_prob, logit_diff
from tests.circuits.attribution.nets import chain, first_class, rows
from tests.common.small import gpt2
from tests.common.zoo import ZOO, build, inputs_for, is_causal_text

CLEAN, CORRUPTED = [[1, 5, 9, 13, 17, 21], [2, 6, 10, 14, 3, 4]], [[1, 5, 8, 13, 17, 20], [2, 7, 10, 14, 9, 4]]
DIFF = logit_diff(3, 7)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_on_a_linear_net_it_is_the_exact_sweep(direction: str) -> None:
    model, a, b = chain(), rows(3, 0)[:, None], rows(3, 1)[:, None]
    told = attribution_patching(
        model, a, b, sites=["@first", "@second"], positions=None, metric=first_class, direction=direction
    )
    base, source = (b, a) if direction == "denoise" else (a, b)
    for j, site in enumerate(told.sites):
        other = ins.run(model, source, read=site)
        done = first_class(ins.run(model, base, edits=[ins.patch(site, other)]).output[:, -1])
        torch.testing.assert_close(told.per_pair[:, j], done.float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(told.normalised_per_pair(), torch.ones(3, 2), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("sites", "heads"), [("layers.*.resid_post", None), ("layers.*.attn.z", "all")])
def test_it_is_the_obvious_loop_over_places(sites: str, heads: str | None) -> None:
    model = gpt2()
    told = attribution_patching(model, CLEAN, CORRUPTED, sites=sites, heads=heads, metric=DIFF)
    for row in range(2):
        clean = ins.run(model, CLEAN[row], read=sites)
        trace = ins.run(
            model, CORRUPTED[row], read=sites, grad=True, metric=lambda out: out.logits[0, -1, 3] - out.logits[0, -1, 7]
        )
        for i, site in enumerate(told.sites):
            part = ((clean[site] - trace[site]) * trace.grads[site])[0].sum(-1)  # [pos] or [pos, head]
            torch.testing.assert_close(told.per_pair[row, i] - told.base[row], part, atol=1e-4, rtol=1e-3)
        assert float(told.base[row]) == pytest.approx(float(trace.metric), abs=1e-4)


def test_sweep_and_estimate_have_the_same_places_and_agree_where_the_net_is_nearly_linear() -> None:
    model = gpt2()
    how = {"sites": "layers.*.mlp_out", "metric": DIFF}
    told, done = (f(model, CLEAN, CORRUPTED, **how) for f in (attribution_patching, sweep))
    assert told.axes == done.axes
    assert told.labels == done.labels
    torch.testing.assert_close(told.base, done.base, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(told.other, done.other, atol=1e-4, rtol=1e-4)
    found = relevance(told, done)
    assert float(found.rank) > 0.8
    assert found.over == "pairs"
    assert found.p < 0.05
    assert relevance(done, done).value == pytest.approx(1.0)
    assert relevance(done, done).top == 1.0


@pytest.mark.parametrize("side", ["left", "right"])
def test_pairs_of_different_lengths_are_patched_by_role(side: str) -> None:
    model = gpt2()
    clean, bad = [CLEAN[0], CLEAN[1][:4]], [CORRUPTED[0], CORRUPTED[1][:4]]
    roles = {"changed": torch.tensor([[2], [1]]), "both": torch.tensor([[1, 2], [0, 1]]), "end": [-1]}
    how = {"sites": "layers.*.mlp_out", "metric": DIFF, "positions": roles, "padding_side": side}
    together = attribution_patching(model, clean, bad, **how)
    for i in range(2):
        alone = attribution_patching(model, [clean[i]], [bad[i]], sites="layers.*.mlp_out", metric=DIFF, positions=None)
        one = attribution_patching(
            model, [clean[i]], [bad[i]], sites="layers.*.mlp_out", metric=DIFF,
            positions=[int(roles["changed"][i, 0]), -1],
        )  # fmt: skip
        torch.testing.assert_close(together.per_pair[i][:, 0], one.per_pair[0][:, 0], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(together.per_pair[i][:, 2], one.per_pair[0][:, 1], atol=1e-4, rtol=1e-3)
        assert alone.axes == ("site",)


def test_it_multiplies_no_more_than_two_forwards_and_a_backward_of_activations_alone() -> None:
    model = gpt2()
    attribution_patching(model, CLEAN, CORRUPTED, metric=DIFF)  # the head is tried once a model
    with FlopCounterMode(display=False) as whole:
        attribution_patching(model, CLEAN, CORRUPTED, metric=DIFF)
    with FlopCounterMode(display=False) as bare:
        ins.run(model, CORRUPTED)
    assert 2 < whole.get_total_flops() / bare.get_total_flops() < 3


def test_words_that_stand_elsewhere_in_the_other_prompt_are_patched_from_there() -> None:
    model, bad = gpt2(), [[4, *CORRUPTED[0]]]  # one token longer, so everything stands one further
    there = (torch.tensor([[3, 4]]), torch.tensor([[2, 3]]))  # of the edited run, of its source
    moved = attribution_patching(
        model, CLEAN[:1], bad, sites="layers.1.mlp_out", metric=DIFF, positions={"word": there}
    )
    clean = ins.run(model, CLEAN[:1], read="layers.1.mlp_out")["layers.1.mlp_out"][0, 2:4]
    trace = ins.run(
        model, bad, read="layers.1.mlp_out", grad=True, metric=lambda o: o.logits[0, -1, 3] - o.logits[0, -1, 7]
    )
    site = "layers.1.mlp_out"
    want = ((clean - trace[site][0, 3:5]) * trace.grads[site][0, 3:5]).sum()
    assert float(moved.values[0, 0] - moved.base[0]) == pytest.approx(float(want), abs=1e-4)
    with pytest.raises(ins.TokenError, match="1 positions here and 2"):
        attribution_patching(
            model, CLEAN[:1], bad, sites="layers.1.mlp_out", metric=DIFF,
            positions={"word": (torch.tensor([[3]]), torch.tensor([[2, 3]]))},
        )  # fmt: skip


@pytest.mark.parametrize("name", [n for n in ZOO if is_causal_text(n)])
def test_every_decoder_can_be_attributed_and_small_differences_are_told_right(name: str) -> None:
    model = ins.open(build(name))
    clean = inputs_for(name)["input_ids"]
    bad = clean.clone()
    bad[:, 2] += 1
    site = [s.name for s in model.sites if s.name.endswith(("mlp_out", "ssm_out", "attn_out"))]

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, 3] - logits[:, 7]

    told = attribution_patching(model, clean, bad, sites=site, metric=metric, positions=[2, -1])
    assert told.values.shape == (len(site), 2)
    trace = ins.run(model, bad, read=site, grad=True, metric=lambda o: metric(o.logits[:, -1].float()).sum())
    other = ins.run(model, clean, read=site)
    for i, s in enumerate(site):
        part = ((other[s] - trace[s]) * trace.grads[s]).sum(-1)[:, 2]
        torch.testing.assert_close(told.per_pair[:, i, 0] - told.base, part, atol=2e-4, rtol=2e-3)


@pytest.mark.parametrize("name", ["bert", "vit", "t5", "efficientnet_lite"])
def test_models_of_every_kind_can_be_attribution_patched(name: str) -> None:
    model, inputs = ins.open(build(name)), inputs_for(name)
    if isinstance(inputs, tuple):
        other = tuple(x.flip(0) for x in inputs)
    else:
        other = {k: v if k == "attention_mask" else v.flip(0) for k, v in inputs.items()}
    site = next(s.name for s in model.sites if s.name.endswith(("mlp_out", ".out")))
    told = attribution_patching(model, inputs, other, sites=site, positions=None, metric=lambda x: x[:, 0])
    assert bool(told.values.isfinite().all())


def test_half_precision_gives_the_same_picture() -> None:
    model = gpt2()
    half = ins.open(copy.deepcopy(model.module).bfloat16())
    a, b = (attribution_patching(m, CLEAN, CORRUPTED, metric=DIFF) for m in (model, half))
    pair = torch.stack([(g.values - g.base.mean()).flatten() for g in (a, b)])
    assert float(torch.corrcoef(pair)[0, 1]) > 0.98


def test_shuffled_pairs_and_random_signs_are_the_controls() -> None:
    model = gpt2()
    clean = [*CLEAN, [3, 6, 11, 12, 7, 4], [1, 2, 3]]
    bad = [*CORRUPTED, [3, 6, 10, 12, 7, 5], [1, 2, 4]]
    told = attribution_patching(model, clean, bad, metric=DIFF, positions=[1, -1], control="shuffle")
    assert told.control is not None
    assert bool(told.control.per_pair[3].isnan().all())  # the short pair has no partner
    assert bool(told.control.per_pair[:3].isfinite().all())
    order = [
        next(j for j in range(3) if j != i and _same(model, clean[j], bad[i], told.control.per_pair[i]))
        for i in range(3)
    ]
    assert sorted(order) == [0, 1, 2]
    alone = attribution_patching(model, clean[:1], bad[:1], metric=DIFF, positions=[-1])
    change = alone.values - alone.base
    assert float((change.abs() / alone.spread).max()) <= 32**0.5 + 1e-4  # Cauchy-Schwarz over 32 units
    assert float(alone.spread.min()) > 0


def _same(model: "ins.Model", source: list[int], base: list[int], want: torch.Tensor) -> bool:
    made = attribution_patching(model, [source], [base], metric=DIFF, positions=[1, -1])
    return bool(torch.allclose(made.per_pair[0], want, atol=1e-3))


def test_a_divergence_from_the_clean_run_is_estimated_when_denoising() -> None:
    model = gpt2()
    told = attribution_patching(model, CLEAN, CORRUPTED, metric=kl(), sites="layers.2.resid_post")
    assert float((told.values - told.base.mean()).min()) < 0  # patching in the clean run brings the two together
    for metric, how in ((kl(), {"direction": "noise"}), (kl("base"), {})):
        with pytest.raises(ins.InputError, match="flat at the run"):
            attribution_patching(model, CLEAN, CORRUPTED, metric=metric, **how)


def test_what_is_no_pair_says_so() -> None:
    model = gpt2()
    with pytest.raises(ins.InputError, match="pair by pair"):
        attribution_patching(model, CLEAN, CORRUPTED[:1], metric=DIFF)
    with pytest.raises(ins.InputError, match="attribution_patching compares two prompts"):
        attribution_patching(model, CLEAN, metric=DIFF)
    with pytest.raises(ins.InputError, match="denoise or noise"):
        attribution_patching(model, CLEAN, CORRUPTED, metric=DIFF, direction="both")
    with pytest.raises(ins.InputError, match="'shuffle' or None"):
        attribution_patching(model, CLEAN, CORRUPTED, metric=DIFF, control="random")
    with pytest.raises(ins.InputError, match="two pairs of equal length"):
        attribution_patching(model, CLEAN[:1], CORRUPTED[:1], metric=DIFF, control="shuffle")
    with pytest.raises(ins.TokenError, match="do not line up"):
        attribution_patching(model, CLEAN[:1], [CORRUPTED[0][:5]], metric=DIFF)


def test_grids_of_other_places_or_runs_are_not_compared() -> None:
    model = gpt2()
    told = attribution_patching(model, CLEAN, CORRUPTED, metric=DIFF)
    with pytest.raises(ins.InputError, match="other places"):
        relevance(told, attribution_patching(model, CLEAN, CORRUPTED, metric=DIFF, sites="layers.1.mlp_out"))
    with pytest.raises(ins.InputError, match="other runs"):
        relevance(told, attribution_patching(model, CLEAN, CORRUPTED, metric=DIFF, direction="noise"))
    with pytest.raises(ins.InputError, match="other runs"):
        relevance(told, attribution_patching(model, CLEAN, CORRUPTED, metric=log_prob(3)))


def test_with_one_pair_the_interval_is_over_places_and_says_so() -> None:
    model = gpt2()
    how = {"sites": "layers.*.mlp_out", "metric": DIFF}
    found = relevance(*(f(model, CLEAN[:1], CORRUPTED[:1], **how) for f in (attribution_patching, sweep)))
    assert found.over == "cells"
    assert found.rank.low <= found.rank.value <= found.rank.high
