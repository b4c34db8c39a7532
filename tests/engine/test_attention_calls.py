"""Attention of modules that compute it themselves: q, k, v, scores and pattern out of the torch calls they make."""

import copy
import functools
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

import inscape as ins
from inscape.engine.infer import infer_family
from inscape.models.model import Model
from tests.common.small import gpt2, hooks_left
from tests.common.zoo import build
from tests.common.zoo_unknown import unknown

NAMES = ("q", "k", "v", "scores", "pattern")
SDPA = ["falcon_old", "falcon_new", "falcon_alibi"]  # these have both kernels; the others know only their own
CASES = [(n, "sdpa") for n in SDPA] + [(n, "eager") for n in [*SDPA, "bloom", "gptj", "gpt_neo"]]
ROWS = [[5, 9, 13, 17, 21, 25, 29], [6, 10, 14, 18]]
each_case = pytest.mark.parametrize(("name", "kernel"), CASES)


@functools.cache
def opened(name: str, kernel: str) -> ins.Model:
    module = build(name)
    if kernel == "eager" and name in SDPA:
        module = AutoModelForCausalLM.from_config(copy.deepcopy(module.config), attn_implementation="eager").eval()
        module.load_state_dict(build(name).state_dict())
    assert module.config._attn_implementation == kernel
    return ins.open(module)


def modes() -> int:
    return torch._C._len_torch_function_stack()


@each_case
def test_all_five_are_proven_and_reading_them_keeps_every_bit(name: str, kernel: str) -> None:
    model = opened(name, kernel)
    plain = ins.run(model, ROWS, padding_side="left").output.logits
    read = ins.run(model, ROWS, read="layers.*.attn.*", output=True, padding_side="left")
    found = model.verify()
    assert {f"layers.1.attn.{n}" for n in NAMES} <= set(read)
    assert torch.equal(read.output.logits, plain)
    assert found.bit_equal
    assert found.proven == found.offered
    assert hooks_left(model.module) == modes() == 0


# without falcon_alibi: transformers' own two kernels give other logits there, since only one scales the bias
@pytest.mark.parametrize("name", ["falcon_old", "falcon_new"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_both_kernels_show_the_same_attention(name: str, side: str) -> None:
    a, b = (ins.run(opened(name, k), ROWS, read="layers.*.attn.[qksvp]*", padding_side=side) for k in ("sdpa", "eager"))
    for site in a:
        real = a.mask if site[-1] in "qkv" else a.mask[:, None].expand(a[site].shape[:3])
        at = real if site[-1] in "qkv" else real.nonzero(as_tuple=True)
        torch.testing.assert_close(a[site][at], b[site][at], atol=2e-5, rtol=1e-4)


@each_case
@pytest.mark.parametrize("side", ["left", "right"])
def test_attention_of_a_padded_batch_equals_that_of_its_rows_alone(name: str, kernel: str, side: str) -> None:
    model = opened(name, kernel)
    batch = ins.run(model, ROWS, read=[f"layers.1.attn.{n}" for n in NAMES], padding_side=side)
    for i, row in enumerate(ROWS):
        alone, real = ins.run(model, row, read=list(batch)), batch.mask[i]
        for site in batch:
            x = batch[site][i]
            x = x[real] if site[-1] in "qkv" else x[:, real][..., real]
            if site.endswith(("scores", "pattern")):
                hidden = x == (-torch.inf if "scores" in site else 0)
                future = torch.ones(x.shape[-2:], dtype=torch.bool).triu(1)
                if name == "gpt_neo":  # its second layer looks at the last four tokens
                    future |= torch.ones_like(future).tril(-4)
                assert torch.equal(hidden, future.expand_as(hidden))
            torch.testing.assert_close(x, alone[site][0], atol=2e-5, rtol=1e-4)


def edits_at(site: str) -> list[ins.Edit]:
    if site.endswith("scores"):
        return [ins.edit(site, lambda x: x * 0.5, at=slice(1, None)), ins.attend("layers.0", "forbid", keys=[1])]
    if site.endswith("pattern"):
        return [ins.attend("layers.1", "cut", keys=[1]), ins.scale("layers.0.attn.pattern", 0.5, heads=2)]
    return [
        ins.scale(site, 1.7, at=slice(1, None), heads=0 if site[-1] == "q" else None),
        ins.scale(site.replace("1", "0"), 0.6, units=[0, 3]),
    ]


@each_case
@pytest.mark.parametrize("inner", NAMES)
def test_edits_in_generate_equal_the_uncached_forward(name: str, kernel: str, inner: str) -> None:
    model, site, stream = opened(name, kernel), f"layers.1.attn.{inner}", "layers.*.resid_post"
    edits = edits_at(site)
    got = ins.generate(model, ROWS, edits=edits, max_new_tokens=5, min_new_tokens=5, read=stream)
    sequences = [list(r) + t for r, t in zip(ROWS, got.tokens.tolist(), strict=True)]
    full = ins.run(model, sequences, edits=edits, read=stream, output=True, padding_side="left")
    plain = ins.run(model, sequences, read=stream, padding_side="left")
    assert not torch.allclose(full["layers.1.resid_post"], plain["layers.1.resid_post"], atol=1e-4)
    for found in full:
        torch.testing.assert_close(got.trace[found][full.mask], full[found][full.mask], atol=5e-5, rtol=1e-3)


@pytest.mark.parametrize(("name", "kernel"), [("falcon_new", "sdpa"), ("gptj", "eager"), ("bloom", "eager")])
def test_a_cached_step_records_the_new_columns_and_scores_over_all_of_them(name: str, kernel: str) -> None:
    model = opened(name, kernel)
    got = ins.generate(model, ROWS[:1], max_new_tokens=3, min_new_tokens=3, read="layers.1.attn.*")
    full = ins.run(model, [ROWS[0] + got.tokens[0].tolist()], read="layers.1.attn.*")
    for inner in ("q", "k", "v"):
        site = f"layers.1.attn.{inner}"
        torch.testing.assert_close(got.trace[site], full[site][:, : got.trace[site].shape[1]], atol=2e-5, rtol=1e-4)


@each_case
def test_gradients_at_all_five_are_those_of_the_output(name: str, kernel: str) -> None:
    model = ins.open(AutoModelForCausalLM.from_config(build(name).config, attn_implementation=kernel).double().eval())
    model.module.load_state_dict(build(name).state_dict())
    sites = [f"layers.1.attn.{n}" for n in NAMES]

    def metric(out: object) -> torch.Tensor:
        return out.logits[:, -1].pow(2).sum()  # type: ignore[attr-defined]

    trace = ins.run(model, torch.tensor([ROWS[0]]), read=sites, grad=True, metric=metric)
    generator = torch.Generator().manual_seed(0)
    for site in sites:
        d = torch.randn(trace[site].shape, generator=generator, dtype=torch.float64) * 1e-3
        d = d.masked_fill(trace[site] == (-torch.inf if "scores" in site else 0), 0.0)
        ends = [
            ins.run(
                model, torch.tensor([ROWS[0]]), edits=[ins.edit(site, lambda x, s=s, d=d: x + s * d)], metric=metric
            )
            for s in (1, -1)
        ]
        slope = float(ends[0].metric - ends[1].metric) / 2  # type: ignore[operator]
        tolerance = 2e-3 if name.startswith("gpt") or name == "bloom" else 1e-4  # these compute scores in float32
        assert slope == pytest.approx(float((trace.grads[site] * d).nan_to_num().sum()), rel=tolerance), site
        assert float(trace.grads[site].abs().sum()) > 0


def test_scores_are_q_k_with_the_models_own_bias_and_mask() -> None:
    trace = ins.run(opened("bloom", "eager"), torch.tensor([ROWS[0]]), read="layers.1.attn.*")
    q, k, scores = (trace[f"layers.1.attn.{n}"] for n in ("q", "k", "scores"))
    alibi = build_alibi_tensor(torch.ones(1, 7), 4, torch.float32)[None]
    expected = torch.einsum("bqhd,bkhd->bhqk", q, k) / 8**0.5 + alibi
    hidden = torch.ones(7, 7, dtype=torch.bool).triu(1)
    torch.testing.assert_close(scores, expected.masked_fill(hidden, -torch.inf))


def test_only_the_asked_layer_is_watched_and_only_while_it_runs() -> None:
    model, inside = opened("bloom", "eager"), []
    attentions = [b.module.self_attention for b in model.blocks]
    handles = [m.query_key_value.register_forward_hook(lambda *a: inside.append(modes())) for m in attentions]
    handles += [b.module.mlp.register_forward_hook(lambda *a: inside.append(modes())) for b in model.blocks]
    try:
        ins.run(model, ROWS, read="layers.1.attn.scores", output=True)
    finally:
        for handle in handles:
            handle.remove()
    assert inside == [0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_stays_when_the_forward_raises_or_is_interrupted(error: type[BaseException]) -> None:
    model = opened("bloom", "eager")

    def fail(x: torch.Tensor) -> torch.Tensor:
        raise error("stop here")

    with pytest.raises(error, match="stop here"):
        ins.run(model, ROWS, edits=[ins.edit("layers.1.attn.scores", fail)])
    with pytest.raises(error, match="stop here"):
        ins.run(model, ROWS, read="layers.1.attn.pattern", edits=[ins.edit("layers.1.attn.z", fail)])
    assert hooks_left(model.module) == modes() == 0
    plain = ins.run(model, ROWS).output.logits
    assert torch.equal(ins.run(model, ROWS, read="*", output=True).output.logits, plain)


@pytest.mark.parametrize("kind", ["bloom", "falcon_new", "gpt2"])
@pytest.mark.parametrize("inner", NAMES)
def test_sessions_over_the_same_attention_add_up_and_a_run_inside_sees_what_goes_on(kind: str, inner: str) -> None:
    model = gpt2() if kind == "gpt2" else opened(kind, build(kind).config._attn_implementation)
    site, ids = f"layers.1.attn.{inner}", torch.tensor([ROWS[0]])
    first, second = ins.scale(site, 0.5, at=[1, 2, 3]), ins.edit(site, lambda x: x * x.abs())
    wanted = ins.run(model, ids, read=site, edits=[first, second], output=True)
    with ins.editing(model, first):
        inner_run = ins.run(model, ids, read=site, edits=[second], output=True)
        with ins.editing(model, second):
            module_alone = model.module(ids).logits
    assert torch.equal(inner_run[site], wanted[site])
    assert torch.equal(inner_run.output.logits, wanted.output.logits)
    torch.testing.assert_close(module_alone, wanted.output.logits)


def test_gradient_checkpointing_reads_and_edits_the_same_attention() -> None:
    module = AutoModelForCausalLM.from_config(build("bloom").config)
    module.load_state_dict(build("bloom").state_dict())
    model, ids = ins.open(module.eval()), torch.tensor([ROWS[0]])
    grads = []
    for wanted in (False, True):
        if wanted:
            module.train()
            module.activation_checkpointing_enable({"use_reentrant": False})
        with ins.editing(model, ins.scale("layers.1.attn.scores", 0.5)):
            module(ids, use_cache=False).logits.pow(2).sum().backward()
        weight = module.transformer.h[1].self_attention.query_key_value.weight
        grads.append(weight.grad.clone())
        module.zero_grad()
    torch.testing.assert_close(*grads)
    assert modes() == 0


def test_a_module_in_which_no_attention_is_seen_says_what_it_looked_for() -> None:
    module = unknown("tiny")
    family = infer_family(module)
    wrong = replace(family, stacks=(replace(family.stacks[0], attention_calls="mlp"),))
    with pytest.raises(ins.ModelError, match=r"layers.0.attn.scores: .*\(Sequential\) ran and no attention was seen"):
        ins.run(Model(module, family=wrong), (torch.tensor([ROWS[0]]),), read="layers.0.attn.scores")
    assert modes() == 0


def test_scores_made_of_several_products_have_no_q_and_k() -> None:
    module = unknown("deberta")
    family = infer_family(module)
    assert family.stacks[0].attention_names == ("v", "scores", "pattern")
    wrong = replace(family, stacks=(replace(family.stacks[0], attention_names=NAMES),))
    with pytest.raises(ins.ModelError, match=r"layers.0.attn.k: .* made of 3 products.*\n.*\.scores, \.pattern"):
        ins.run(Model(module, family=wrong), {"input_ids": torch.tensor([ROWS[0]])}, read="layers.0.attn.k")


class Plain(nn.Module):
    """One attention layer that can be called in every way this file knows."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.n_head = way, 4
        self.qkv, self.proj = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.unflatten(-1, (4, 8)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        n = x.shape[1]
        mask = torch.ones(n, n, dtype=torch.bool).tril()
        if "folded" in self.way:
            q, k, v = (t.flatten(0, 1) for t in (q, k, v))
        if "sdpa" in self.way:
            given = {"is_causal": True} if "causal" in self.way else {"attn_mask": mask}
            z = nn.functional.scaled_dot_product_attention(query=q, key=k, value=v, scale=0.3, **given)
        else:
            scores = (q @ k.mT * 0.3).masked_fill(~mask, torch.finfo(q.dtype).min)
            z = scores.softmax(-1).matmul(v) if "method" in self.way else torch.softmax(scores, dim=-1) @ v
        return self.proj((z.unflatten(0, (-1, 4)) if "folded" in self.way else z).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    "way", ["sdpa causal", "sdpa mask", "sdpa folded mask", "sdpa folded causal", "eager", "eager method folded"]
)
def test_every_way_of_writing_it_gives_the_same(way: str) -> None:
    torch.manual_seed(0)
    models = []
    for kind in ("eager", way):
        module = unknown("tiny")
        family = infer_family(module)
        fresh = type(module)()
        fresh.load_state_dict(module.state_dict())
        for block in fresh.blocks:
            attention = Plain(kind)
            attention.load_state_dict(block.attn.state_dict())
            block.attn = attention
        models.append(Model(fresh.eval(), family=family))
    ids = (torch.tensor(ROWS[:1]),)
    sites = [f"layers.1.attn.{n}" for n in NAMES]
    plain = [ins.run(m, ids).output for m in models]
    a, b = (ins.run(m, ids, read=sites, output=True) for m in models)
    assert torch.equal(a.output, plain[0])
    assert torch.equal(b.output, plain[1])
    for site in sites:
        torch.testing.assert_close(a[site], b[site])
        edited = [ins.run(m, ids, edits=[ins.edit(site, lambda x: x * 0.7)]).output for m in models]
        assert not torch.allclose(edited[0], plain[0], atol=1e-4)
        torch.testing.assert_close(*edited)
