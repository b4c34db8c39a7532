"""Two models on one stream: against a loop over blocks written by hand; cached, batched, padded, beams; messages."""

import copy

import pytest
import torch
from torch import Tensor, nn

import inscape as ins
from inscape.core.edit import make_edit
from inscape.core.errors import EditError, InputError, ModelError, ShapeError
from inscape.steer.two_models.contribution import tuning_contribution
from inscape.steer.two_models.control import random_tuning
from inscape.steer.two_models.guided import guided, guided_generate
from inscape.steer.two_models.scaling import scale_tuning
from tests.common.zoo import build
from tests.common.zoo_decoders import GROUPED, N_NAMES, tiny

PAIRS = ("gpt2", "llama", "gemma2", "gemma3_text", "qwen3", "mixtral", "gpt_neox", "falcon_new", "phi")
ROWS = [[5, 9, 13, 17], [6, 10]]


def pair(name: str, seed: int = 1, by: float = 0.05) -> tuple[ins.Model, ins.Model]:
    """A model and its base: the same with a little noise on the blocks' weights."""
    tuned, base = copy.deepcopy(build(name)), copy.deepcopy(build(name))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in base.parameters():
            p.add_(by * torch.randn(p.shape, generator=generator))
    return ins.open(tuned), ins.open(base)


def by_hand(tuned: ins.Model, base: ins.Model, ids: Tensor, a: float) -> tuple[Tensor, Tensor, Tensor]:
    """(logits, what the base wrote in all, what tuning wrote) of rows without padding, block by block in hooks."""
    sums: list[tuple[Tensor, Tensor]] = []

    def hook(i: int):
        def call(module: nn.Module, args: tuple, kwargs: dict, out: object) -> object:
            own = out if isinstance(out, Tensor) else out[0]  # type: ignore[index]
            other = base.blocks[i].module(*args, **kwargs)
            other = other if isinstance(other, Tensor) else other[0]
            sums.append((other - args[0], own - other))
            new = other + a * (own - other)
            return new if isinstance(out, Tensor) else (new, *out[1:])  # type: ignore[index]

        return call

    handles = [b.module.register_forward_hook(hook(i), with_kwargs=True) for i, b in enumerate(tuned.blocks)]
    try:
        with torch.no_grad():
            logits = tuned.module(input_ids=ids, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return logits, sum(p for p, _ in sums), sum(f for _, f in sums)  # type: ignore[return-value]


@pytest.mark.parametrize("name", PAIRS)
def test_contribution_and_scaling_are_those_of_the_loop_over_blocks(name):
    tuned, base = pair(name)
    ids = torch.tensor([ROWS[0], [7, 8, 9, 10]])
    found = tuning_contribution(tuned, base, ids.tolist())
    _, p, f = by_hand(tuned, base, ids, 1.0)
    p, f = p[:, -1].norm(dim=-1), f[:, -1].norm(dim=-1)
    torch.testing.assert_close(found.tuco, f / (p + f), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.base_sum[:, -1], p, rtol=1e-4, atol=1e-4)
    for a in (0.0, 0.5, 1.5):
        logits = ins.run(tuned, ids, edits=scale_tuning(tuned, base, a)).output.logits
        torch.testing.assert_close(logits, by_hand(tuned, base, ids, a)[0], rtol=1e-4, atol=1e-4)


def test_the_parts_and_the_embedding_are_the_final_state():
    tuned, base = pair("llama")
    ids = torch.tensor([ROWS[0]])
    _, p, f = by_hand(tuned, base, ids, 1.0)
    read = ins.run(tuned, ids, read=["layers.0.resid_pre", "layers.2.resid_post"])
    torch.testing.assert_close(read["layers.0.resid_pre"] + p + f, read["layers.2.resid_post"], rtol=1e-5, atol=1e-5)


def test_a_model_beside_itself_has_no_tuning_and_one_is_the_tuned_model_exactly():
    tuned, base = pair("llama")
    assert tuning_contribution(tuned, tuned, ROWS).tuco.tolist() == [0.0, 0.0]
    ids = torch.tensor([ROWS[0]])
    assert torch.equal(
        ins.run(tuned, ids, edits=scale_tuning(tuned, base, 1)).output.logits, ins.run(tuned, ids).output.logits
    )
    ends = ins.open(copy.deepcopy(base.module))  # the base's blocks between the tuned ends
    ends.module.model.embed_tokens, ends.module.model.norm = tuned.module.model.embed_tokens, tuned.module.model.norm
    ends.module.lm_head = tuned.module.lm_head
    zero = ins.run(tuned, ids, edits=scale_tuning(tuned, base, 0)).output.logits
    torch.testing.assert_close(zero, ins.run(ends, ids).output.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_count_and_every_token_has_a_number(side):
    tuned, base = pair("llama")
    alone = [tuning_contribution(tuned, base, [row], position="all") for row in ROWS]
    both = tuning_contribution(tuned, base, ROWS, position="all")
    last = tuning_contribution(tuned, base, ROWS)
    for i, row in enumerate(ROWS):
        torch.testing.assert_close(both.tuco[i, : len(row)], alone[i].tuco[0], rtol=1e-4, atol=1e-5)
        assert bool(both.tuco[i, len(row) :].isnan().all())
        assert float(last.tuco[i]) == pytest.approx(float(both.tuco[i, len(row) - 1]), rel=1e-4)
    assert both.by_layer.shape == (2, 4, 3)
    assert float(last.beta[0]) >= float(last.tuco[0])
    small = tuning_contribution(tuned, base, ROWS, batch=1, position="all")
    torch.testing.assert_close(small.tuco, both.tuco, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert side  # texts given as ids are padded by the engine


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3_text", "mixtral"])
@pytest.mark.parametrize("scale", [0.5, "schedule", "rows"])
def test_cached_generation_of_a_padded_batch_is_the_one_without_a_cache(name, scale):
    tuned, base = pair(name)
    given = {"schedule": ins.schedule([0.0, 2.0, 1.0, 0.5]), "rows": torch.tensor([0.0, 1.7])}.get(scale, 0.5)
    edits, site = scale_tuning(tuned, base, given), "layers.1.resid_post"
    options = {"edits": edits, "read": site, "max_new_tokens": 5}
    cached = ins.generate(tuned, ROWS, **options)
    without = ins.generate(tuned, ROWS, use_cache=False, **options)
    assert cached.tokens.tolist() == without.tokens.tolist()
    real = cached.trace.mask
    torch.testing.assert_close(cached.trace[site][real], without.trace[site][real], rtol=1e-4, atol=1e-4)


def test_beams_move_the_bases_cache_too():
    tuned, base = pair("llama", by=0.2)
    options = {"edits": scale_tuning(tuned, base, 0.3), "max_new_tokens": 5, "num_beams": 3}
    one, two = (ins.generate(tuned, ROWS, use_cache=c, **options).tokens.tolist() for c in (True, False))
    assert one == two


def test_a_scale_is_trained_and_layers_are_chosen():
    tuned, base = pair("llama")
    ids, scale = torch.tensor([ROWS[0]]), torch.tensor(0.5, requires_grad=True)
    ins.run(tuned, ids, edits=scale_tuning(tuned, base, scale), grad=True).output.logits.square().sum().backward()
    assert scale.grad is not None
    assert float(scale.grad) != 0
    read = "layers.0.resid_post"
    first, none = (
        ins.run(tuned, ids, read=read, edits=e)[read] for e in (scale_tuning(tuned, base, 0, layers=[2]), [])
    )
    assert torch.equal(first, none)


def test_no_weights_are_copied_and_models_are_as_they_were():
    tuned, base = pair("llama")
    before = {p.data_ptr() for m in (tuned, base) for p in m.module.parameters()}
    hooks = sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) for m in (*tuned.module.modules(), *base.module.modules())
    )
    edits = scale_tuning(tuned, base, 0.5)
    ins.generate(tuned, ROWS, edits=edits, max_new_tokens=3)
    tuning_contribution(tuned, base, ROWS)
    assert {p.data_ptr() for m in (tuned, base) for p in m.module.parameters()} == before
    assert hooks == sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) for m in (*tuned.module.modules(), *base.module.modules())
    )
    ids = torch.tensor([ROWS[0]])
    assert torch.equal(ins.run(tuned, ids).output.logits, tuned.module(ids).logits)


def test_models_that_are_no_pair_say_what_differs():
    llama = ins.open(build("llama"))
    for other, said in (
        (tiny("llama", **{**GROUPED, "num_hidden_layers": 2}), "has 3 layers, the base 2"),
        (tiny("llama", **{**GROUPED, "intermediate_size": 24}), r"their widths differ"),
        (build("mistral"), "LlamaDecoderLayer in the tuned model and a MistralDecoderLayer in the base"),
        (copy.deepcopy(build("llama")).to(torch.bfloat16), r"the base torch.bfloat16 on cpu[\s\S]*base.module.to"),
        (tiny("llama", **{**GROUPED, "vocab_size": 97}, attention_bias=True, mlp_bias=True), "different vocabularies"),
        (
            tiny("llama", **{**GROUPED, "max_position_embeddings": 32}, attention_bias=True, mlp_bias=True),
            "positions are not told alike: max_position_embeddings is 64",
        ),
        (nn.Linear(2, 2), "has no repeated blocks"),
    ):
        with pytest.raises(ModelError, match=said):
            scale_tuning(llama, ins.open(other), 0.5)
    bert = ins.open(build("bert"))
    with pytest.raises(ModelError, match="is not residual"):
        tuning_contribution(bert, bert, ROWS)


def test_other_misuse_says_what_to_do():
    tuned, base = pair("llama")
    with pytest.raises(InputError, match="position='first' can be 'last' or 'all'"):
        tuning_contribution(tuned, base, ROWS, position="first")
    with pytest.raises(EditError, match="give numbers from 0 to 2"):
        scale_tuning(tuned, base, 0.5, layers=[3])
    with pytest.raises(EditError, match=r"belongs to another model[\s\S]*make it with the model that you run"):
        ins.run(base, torch.tensor([ROWS[0]]), edits=scale_tuning(tuned, base, 0.5))
    edit = make_edit("layers.0.mlp.act", lambda x, step: x, "", contextual=True, calls=True)
    with pytest.raises(EditError, match="is not what a module returns"):
        ins.run(tuned, torch.tensor([ROWS[0]]), edits=[edit])
    from transformers import DynamicCache

    cache = DynamicCache(config=tuned.module.config)
    tuned.module(torch.tensor([ROWS[0]]), past_key_values=cache)
    edits = scale_tuning(tuned, base, 0.5)
    with (
        pytest.raises(EditError, match=r"filled before the edit was in force[\s\S]*feed the prompt"),
        ins.editing(tuned, edits),
    ):
        tuned.module(torch.tensor([[3]]), past_key_values=cache)
    with pytest.raises(ModelError, match="keep a plain DynamicCache; this run has a StaticCache"):
        ins.generate(tuned, [ROWS[0]], edits=edits, max_new_tokens=2, cache_implementation="static")
    with pytest.raises(EditError, match="holds a Python function"):
        ins.save_edits("/nowhere.safetensors", edits)


def test_zero_parts_give_zero_with_a_warning():
    tuned, base = pair("llama")
    with torch.no_grad():
        for model in (tuned, base):
            for block in model.blocks:
                for p in block.module.parameters():
                    p.zero_()
    with pytest.warns(UserWarning, match="its TuCo is 0"):
        assert tuning_contribution(tuned, base, ROWS).tuco.tolist() == [0.0, 0.0]


# -- a driver's states choose the executor's edits -------------------------------------------------------------------


def sign(states: Tensor) -> Tensor:
    """-1, 0 or 1, as good as at random, by one unit of each token's state."""
    return ((7 * states[..., 3]).floor() % 3).long() - 1


def chosen_by_hand(driver: ins.Model, ids: Tensor) -> Tensor:
    return sign(ins.run(driver, ids, read="layers.1.resid_post")["layers.1.resid_post"])


def test_a_driver_chooses_the_edits_as_a_loop_without_caches_would():
    driver, executor = ins.open(build("gpt2")), ins.open(build("llama"))
    edits = [ins.scale("layers.1.mlp_out", 3.0), ins.skip("layers.2")]
    for row in ROWS:
        ids = torch.tensor([row])
        for _ in range(5):
            chosen = chosen_by_hand(driver, ids)
            by_token = [ins.Edit(e.site, e.fn, at=(chosen == i), contextual=e.contextual, needs=e.needs)
                        for i, e in enumerate(edits) if bool((chosen == i).any())]  # fmt: skip
            logits = ins.run(executor, ids, edits=by_token).output.logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
        found = guided_generate(driver, executor, [row], "layers.1.resid_post", sign, edits, max_new_tokens=5)
        assert found.generation.tokens[0].tolist() == ids[0, len(row) :].tolist()
        assert found.chosen[0].tolist() == chosen_by_hand(driver, ids[:, :-1])[0].tolist()
        assert len(set(found.chosen[0].tolist())) > 1


def test_a_padded_batch_is_guided_row_by_row_with_a_cache_and_without():
    driver, executor = ins.open(build("gpt2")), ins.open(build("llama"))
    edits = [ins.scale("layers.1.mlp_out", 3.0), ins.scale("layers.*.attn_out", -1.0)]
    wrapped = guided(driver, "layers.1.resid_post", sign, edits)
    both = ins.generate(executor, ROWS, edits=wrapped, max_new_tokens=5).tokens.tolist()
    assert both == ins.generate(executor, ROWS, edits=wrapped, max_new_tokens=5, use_cache=False).tokens.tolist()
    assert both == [ins.generate(executor, [r], edits=wrapped, max_new_tokens=5).tokens[0].tolist() for r in ROWS]
    never = guided(driver, "layers.1.resid_post", lambda x: torch.full(x.shape[:2], -1), edits)
    plain = ins.generate(executor, ROWS, max_new_tokens=5).tokens.tolist()
    assert ins.generate(executor, ROWS, edits=never, max_new_tokens=5).tokens.tolist() == plain


def test_misuse_of_a_driver_says_what_to_do():
    driver, executor = ins.open(build("gpt2")), ins.open(build("llama"))
    site, edits, ids = "layers.1.resid_post", [ins.scale("layers.1.mlp_out", 3.0)], torch.tensor([ROWS[0]])
    with pytest.raises(InputError, match="edits is empty"):
        guided(driver, site, sign, [])
    with pytest.raises(ShapeError, match=r"an integer for every token, \(1, 4\); it gave torch.float32 \(1, 4\)"):
        ins.run(executor, ids, edits=guided(driver, site, lambda x: x[..., 0], edits))
    with pytest.raises(ShapeError, match="it gave list"):
        ins.run(executor, ids, edits=guided(driver, site, lambda x: [0], edits))  # type: ignore[arg-type,return-value]
    with pytest.raises(InputError, match="there are 1 edits, numbered from 0, and -1 for none"):
        ins.run(executor, ids, edits=guided(driver, site, lambda x: torch.ones(x.shape[:2], dtype=torch.long), edits))
    ones = guided(driver, site, lambda x: torch.zeros(x.shape[:2], dtype=torch.long), edits)
    with pytest.raises(EditError, match=r"stay in its place[\s\S]*use ins.generate without them"):
        ins.generate(executor, ROWS, edits=ones, max_new_tokens=3, num_beams=2)
    with pytest.raises(ShapeError, match="guided edits read a site of"):
        ins.run(executor, ids, edits=guided(driver, "layers.1.attn.z", sign, edits))
    embeds = executor.module.model.embed_tokens(ids).detach()
    with pytest.raises(EditError, match="these inputs are no tokens"):
        ins.run(executor, {"inputs_embeds": embeds}, edits=ones)
    own = guided(executor, site, lambda x: torch.zeros(x.shape[:2], dtype=torch.long), edits)
    with pytest.raises(EditError, match=r"are one module[\s\S]*ins.when"):
        ins.run(executor, ids, edits=own)
    other = ins.open(tiny("gpt2", **{**N_NAMES, "vocab_size": 97}))
    with pytest.raises(ModelError, match="the driver and the executor have different vocabularies"):
        guided_generate(other, executor, ROWS, site, sign, edits)


def test_the_random_control_changes_every_tensor_by_as_much():
    tuned, base = pair("llama")
    drawn = random_tuning(tuned, base, seed=2)
    moved, other = (dict(m.module.named_parameters()) for m in (tuned, drawn))
    for name, p in base.module.named_parameters():
        change, random = ((m[name] - p).detach().flatten().double() for m in (moved, other))
        assert float(random.norm()) == pytest.approx(float(change.norm()), rel=1e-4)
        if len(change) > 500:
            assert abs(float(torch.cosine_similarity(change, random, dim=0))) < 0.2
    again = random_tuning(tuned, base, seed=2)
    assert again.fingerprint == drawn.fingerprint
    assert random_tuning(tuned, base, seed=3).fingerprint != drawn.fingerprint
