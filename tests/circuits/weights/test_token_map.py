"""Token maps: the same as the model's own head output on lone tokens; relations with their null."""

from types import SimpleNamespace

import pytest
import torch

import inscape as ins
from inscape.circuits import weights
from inscape.circuits.weights import relations
from inscape.circuits.weights.token_states import token_states
from inscape.engine.unembed import unembedding
from tests.common.small import gpt2
from tests.common.zoo import build

FAMILIES = [
    "gpt2",
    "llama",
    "gemma3_text",
    "granite",
    "bloom",
    "gpt_neox",
    "olmo2",
    "deepseek_v3",
    "falcon_h1",
    "cohere",
]
SOURCES, TARGETS = [7, 20, 33, 41, 52], [11, 7, 60, 3, 21, 34, 50, 8, 9, 10]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_map_is_what_the_heads_would_write_on_these_states(name: str) -> None:
    """The states put in front of each layer of the real model: head_out minus its constant, through norm and head."""
    model = ins.open(build(name))
    unembed = unembedding(model)
    found = weights.token_map(model, "all", SOURCES, TARGETS)
    states = token_states(model, torch.tensor(SOURCES)).values
    for layer in (0, model.n_layers - 1):
        site, out = f"layers.{layer}.resid_pre", f"layers.{layer}.attn.head_out"
        put = ins.replace(site, states[:, None])
        lone = torch.tensor(SOURCES)[:, None]
        wrote = ins.run(model, lone, read=out, edits=[put])[out][:, 0]
        constant = _constant(model, layer, wrote.shape[1])
        for h in range(wrote.shape[1]):
            made = unembed(_unscaled(model, layer, wrote[:, h], lone, [put]) - constant[h])[:, TARGETS]
            mine = found.of(f"layers.{layer}.head.{h}")
            assert _alike(mine, made), (layer, h)


def _alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal, or equal up to a positive factor a row (sizes of norms that depend on other heads)."""
    a, b = a.float(), b.float().detach()
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1)
    return bool((cosine > 1 - 1e-4).all())


def _constant(model: "ins.Model", layer: int, heads: int) -> torch.Tensor:
    found = weights.heads(model, layer)
    return torch.stack([h.b_V @ h.W_O for h in found])


def _unscaled(model: "ins.Model", layer: int, wrote: torch.Tensor, lone: torch.Tensor, edits: list) -> torch.Tensor:
    """What a head wrote with a post-norm's size taken out again, so that its constant is one vector for all tokens."""
    from inscape.circuits.weights.layer import block_of, layers

    wired = layers(model, [block_of(model, layer)])[0]
    if wired.post_norm is None:
        return wrote
    path = model.blocks[layer].points["attn.z"].path.split(":")[0]
    trace = ins.run(model, lone, read=[f"@{path}", f"layers.{layer}.attn_out"], edits=edits)
    raw, added = trace[f"@{path}"][:, 0], trace[f"layers.{layer}.attn_out"][:, 0]
    return wrote * wired.post_norm.size(raw, added)


def test_states_of_tokens_are_embedding_and_first_mlp_without_position() -> None:
    model = gpt2()
    module, ids = model.module.transformer, torch.tensor(SOURCES)
    embed = module.wte.weight[ids]
    mlp = module.h[0].mlp(module.h[0].ln_2(embed))
    for which, wanted in (("embed", embed), ("mlp0", mlp), ("embed+mlp0", embed + mlp)):
        found = token_states(model, ids, which)
        torch.testing.assert_close(found.values, wanted.detach(), atol=1e-5, rtol=1e-4)
        assert "without its position embedding" in found.how
    gemma = ins.open(build("gemma3_text"))
    found = token_states(gemma, ids, "embed")
    torch.testing.assert_close(found.values, gemma.module.model.embed_tokens(ids).detach())
    assert "position" not in found.how


def test_states_of_ones_own_go_through_a_head_like_tokens() -> None:
    model = ins.open(build("gemma3_text"))
    head, ids = weights.head(model, 1, 2), torch.tensor(SOURCES)
    mine = weights.token_scores(model, head, token_states(model, ids).values, torch.tensor(TARGETS))
    torch.testing.assert_close(mine, weights.token_map(model, [head], SOURCES, TARGETS).scores[0])


def test_in_context_the_states_are_those_the_head_really_reads() -> None:
    model = gpt2()
    texts = [[5, 7, 9, 20, 7], [20, 7, 1]]
    found = weights.token_map(model, [(1, 2)], [7, 20, 60], TARGETS, pre="context", inputs=texts)
    assert found.count.tolist() == [3, 2, 0]
    assert bool(found.scores[0, 2].isnan().all())
    trace = ins.run(model, texts, read=["layers.1.attn.in"])
    raw = weights.head(model, 1, 2, fold=False)
    norm = model.module.transformer.h[1].ln_1
    places = trace["layers.1.attn.in"][(0, 0, 1), (1, 4, 1)]
    out = (places - norm.bias).mean(0) @ raw.W_V @ raw.W_O
    wanted = unembedding(model)(out[None])[0, TARGETS]
    torch.testing.assert_close(found.scores[0, 0], wanted, atol=1e-4, rtol=1e-3)


def ordinal(name: str, ids: list[int], cyclic: bool = False) -> SimpleNamespace:
    n = len(ids)
    steps = [(i, (i + 1) % n) for i in range(n if cyclic else n - 1)]
    return SimpleNamespace(name=name, ids=torch.tensor(ids), steps=torch.tensor(steps))


CLASSES = [ordinal("days", [10, 11, 12, 13, 14, 15, 16], cyclic=True), ordinal("letters", list(range(30, 50)))]


def planted() -> tuple["ins.Model", str]:
    """A model in which head 3 of layer 2 writes, for each token, the head's row of the next one."""
    model = ins.open(build("llama"))
    relation = relations.successor(CLASSES)
    sources = torch.cat([g.ids[g.pairs[:, 0]] for g in relation.groups])
    targets = torch.cat([g.ids[g.pairs[:, 1]] for g in relation.groups])
    found = weights.token_map(model, "all", relation.tokens)
    scores = found.scores.clone()
    index = {int(t): i for i, t in enumerate(found.sources)}
    for s, t in zip(sources.tolist(), targets.tolist(), strict=True):
        scores[11, index[s], index[t]] = 100.0
    from dataclasses import replace

    return replace(found, scores=scores), relation


def test_a_planted_relation_is_found_in_its_head_alone() -> None:
    found, relation = planted()
    result = weights.relation_score(found, relation, draws=400)
    (name, score, p), *rest = result.top(3)
    assert (name, score) == ("layers.2.head.3", 1.0)
    assert p < 0.01
    assert max(s for _, s, _ in rest) < 0.5
    assert result.by_class["days"][11] == 1.0
    assert len(result.sources) == 7 + 19
    assert result.chance == pytest.approx((7 / 7 + 19 / 20) / 26)
    assert 0.1 < result.corrected.threshold(0.99) < 0.6
    copied = weights.relation_score(found, relations.copy(CLASSES), draws=100)
    assert copied.score[11] == 0.0
    assert weights.relation_score(found, relations.predecessor(CLASSES), draws=100).score[11] < 0.2


def test_the_null_of_random_heads_covers_them() -> None:
    relation = relations.successor(CLASSES)
    found = weights.token_map(ins.open(build("llama")), "all", relation.tokens)
    result = weights.relation_score(found, relation, draws=300)
    assert float(result.null.mean()) == pytest.approx(result.chance, abs=0.02)
    assert float(result.corrected.p.min()) > 0.01


def test_custom_relations_take_any_pairs() -> None:
    relation = relations.custom("opposite", {"size": {5: 6, 6: 5}, "heat": {7: 8, 8: 7}})
    assert relation.tokens.tolist() == [5, 6, 7, 8]
    assert relation.chance == 0.5
    found = weights.token_map(gpt2(), "all", relation.tokens)
    assert weights.relation_score(found, relation, draws=50).score.shape == (12,)


def test_errors_say_what_is_missing() -> None:
    model = gpt2()
    with pytest.raises(ins.InputError, match="needs source_tokens"):
        weights.token_map(model)
    with pytest.raises(ins.TokenError, match="no tokenizer"):
        weights.token_map(model, "all", " Monday")
    with pytest.raises(ins.InputError, match="can be 'all'"):
        weights.token_map(model, "some", [5])
    with pytest.raises(ins.InputError, match=r"norms folded; layers\.0\.head\.0 is not"):
        weights.token_map(model, weights.heads(model, fold=False), [5])
    with pytest.raises(ins.InputError, match="pre='mlp1'"):
        weights.token_map(model, "all", [5], pre="mlp1")
    with pytest.raises(ins.InputError, match="needs inputs="):
        weights.token_map(model, "all", [5], pre="context")
    with pytest.raises(ins.InputError, match="none of the source tokens"):
        weights.token_map(model, "all", [5], pre="context", inputs=[[7, 8]])
    with pytest.raises(ins.InputError, match="pre='embed' runs no text"):
        weights.token_map(model, "all", [5], pre="embed", inputs=[[7, 8]])
    with pytest.raises(ins.TokenError, match="source_tokens is empty"):
        weights.token_map(model, "all", [])
    with pytest.raises(ins.InputError, match="lacks 2 tokens of the class 'days'"):
        weights.relation_score(weights.token_map(model, "all", [10, 11, 12, 13, 14, 15]), relations.successor(CLASSES))
    with pytest.raises(ins.InputError, match="has 1 members"):
        relations.custom("same", {"one": {5: 5}})
    with pytest.raises(ins.InputError, match="no class has two members in a row"):
        relations.successor([SimpleNamespace(name="one", ids=torch.tensor([5]), steps=torch.zeros(0, 2).long())])
    with pytest.raises(ins.InputError, match="no head is called"):
        weights.token_map(model, "all", [5]).of("3.1")
    with pytest.raises(ins.ModelError, match="has no head"):
        weights.token_map(ins.open(build("gpt2").transformer), "all", [5])
