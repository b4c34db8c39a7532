"""Attention to the words of a task is the pattern at their positions, on either padding side and beside its control."""

import pytest
import torch

import inscape as ins
from inscape.circuits.role_attention import role_attention
from inscape.models.toy.words import word_tokenizer
from inscape.tasks.pairs import Pairs
from tests.common.small import gpt2
from tests.common.zoo import build

CLEAN = ("ann and bob ate . bob to", "ann and bob . bob to", "bob and ann ate . ann to")
CORRUPTED = ("cat and dan ate . eve to", "cat and dan . eve to", "dan and cat ate . eve to")


def some(model):
    tokenizer = word_tokenizer(["ann", "bob", "cat", "dan", "eve", "and", "ate", ".", "to"])
    model = ins.open(model.module, tokenizer=tokenizer)
    first = [t.split()[0] for t in CLEAN]
    pairs = Pairs.of(
        model, CLEAN, CORRUPTED, [" ann", " ann", " bob"], [" bob", " bob", " ann"], roles={"first": first}
    )
    both = torch.tensor([[1, 3], [1, 3], [1, 3]])
    from dataclasses import replace

    return model, replace(pairs, roles=dict(pairs.roles) | {"names": both})


@pytest.mark.parametrize("name", ["gpt2", "gemma3_text", "falcon_new"])
def test_it_is_the_pattern_read_row_by_row(name):
    model, pairs = some(gpt2() if name == "gpt2" else ins.open(build(name)))
    found = role_attention(model, pairs)
    layers = range(model.n_layers)
    assert (found.roles, found.layers) == (("first", "names"), tuple(layers))
    for ids, values in ((pairs.clean_ids, found.values), (pairs.corrupted_ids, found.control)):
        slow = torch.zeros_like(values)
        for i, row in enumerate(ids):
            trace = ins.run(model, torch.tensor([row]), read="layers.*.attn.pattern")
            for layer in layers:
                line = trace[f"layers.{layer}.attn.pattern"][0, :, -1]
                slow[0, layer] += line[:, int(pairs.roles["first"][i, 0])] / len(ids)
                slow[1, layer] += line[:, [1, 3]].sum(-1) / len(ids)
        torch.testing.assert_close(values, slow, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.per_pair.mean(0), found.values)
    assert found.of(1, 2)["names"] == float(found.to("names")[1, 2])


def test_a_position_that_comes_twice_counts_once_and_the_query_can_be_another_word():
    model, pairs = some(gpt2())
    from dataclasses import replace

    twice = replace(pairs, roles=dict(pairs.roles) | {"first": pairs.roles["first"].repeat(1, 2)})
    torch.testing.assert_close(role_attention(model, twice).to("first"), role_attention(model, pairs).to("first"))
    own = role_attention(model, pairs, ["first"], query="first")  # the first word sees itself and <bos>
    assert bool((own.to("first") > 0).all())
    assert bool((own.to("first") < 1).all())


def test_what_cannot_be_looked_at_says_why():
    model, pairs = some(gpt2())
    with pytest.raises(ins.InputError, match="these pairs have no role 'io'; they have first, end, names"):
        role_attention(model, pairs, ["io"])
    found = role_attention(model, pairs)
    with pytest.raises(ins.InputError, match="no attention to 'io' was measured; there are first, names"):
        found.to("io")
    with pytest.raises(ins.InputError, match=r"head 7.0 has no attention pattern here"):
        found.of(7, 0)
    mamba = ins.open(build("mamba"), tokenizer=model.tokenizer)
    with pytest.raises(ins.ModelError, match="offers no attention pattern"):
        role_attention(mamba, pairs)
