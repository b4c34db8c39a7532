"""A net whose words lie as the graph is seen to hold it, one whose words lie anyhow is not."""

import pytest
import torch
import transformers

import inscape as ins
from inscape import tasks
from inscape.models.toy.words import word_tokenizer
from inscape.read.geometry.context_sweep import context_sweep
from inscape.read.geometry.graph import spectral_embedding
from inscape.tasks.graph_walk import WORDS
from tests.read.planted import silent_gpt2

TOKENIZER = word_tokenizer(WORDS)
LENGTHS = (8, 20, 58)


def walks(n=4, seed=0):
    return tasks.graph_walk(TOKENIZER, n, graph="grid", size={"rows": 3, "columns": 3}, length=58, seed=seed)


def words_lie_as(places, at):
    """A net that adds nothing to its embeddings, with these nine words' set."""
    model = silent_gpt2()
    with torch.no_grad():
        model.module.transformer.wpe.weight.mul_(0.1)
        model.module.transformer.wte.weight[at, : places.shape[1]] += places.float()
    return model


def test_words_that_lie_as_the_graph_have_low_energy_and_its_layout():
    made = walks()
    model = words_lie_as(spectral_embedding(made.links, 2).vectors * 30, made.tokens)
    found = context_sweep(model, made, "layers.*.resid_post", LENGTHS, window=50)
    assert found.sites == tuple(f"layers.{i}.resid_post" for i in range(3))
    assert found.ratio["graph"].shape == (4, 3, 3)
    assert float(found.ratio["graph"][:, -1].max()) < 0.75
    assert float(found.aligned[-1].min()) > 0.9
    assert float(found.aligned_p[-1].max()) < 0.01
    assert bool((found.energy("layers.1.resid_post").p[-1:] < 0.01).all())
    assert float(found.ratio["other_graph"][:, -1].mean()) > 0.85
    assert float(found.ratio["shuffled_text"][:, -1].max()) < 0.75  # the words lie there whatever the text
    torch.testing.assert_close(found.ratio["no_predecessor"][:, -1], found.ratio["graph"][:, -1], rtol=0.05, atol=0.02)
    assert "3 words" not in repr(found)
    assert found.best() in (0, 1, 2)
    middle = found.interval("graph")
    assert bool((middle.low <= middle.value).all())
    assert bool((middle.value <= middle.high).all())


def test_words_that_lie_anyhow_are_called_a_graph_as_rarely_as_p_says():
    hits = 0
    for seed in range(40):
        made = walks(1, seed)
        generator = torch.Generator().manual_seed(seed)
        model = words_lie_as(torch.randn(9, 30, generator=generator) * 3, made.tokens)
        found = context_sweep(model, made, "layers.0.resid_post", (58,), shuffled=False, n=99, seed=seed)
        hits += float(found.energy("layers.0.resid_post", n=99, seed=seed).p[0]) <= 0.05
    assert hits <= 7  # 2 expected


def test_the_mass_is_that_of_the_models_own_logits():
    made = walks(2)
    model = words_lie_as(torch.randn(9, 8, generator=torch.Generator().manual_seed(1)), made.tokens)
    found = context_sweep(model, made, "layers.0.resid_post", (20, 58), window=10, mass_at=100, shuffled=False)
    for row in range(2):
        logits = ins.run(model, [list(made.ids[row])], output=True).output.logits[0].double()
        for i, t in enumerate((20, 58)):
            steps = torch.arange(t - 10, t)
            at, linked = made.at[row, steps], made.links[made.nodes[row, steps]]
            mass = (logits[at].softmax(-1)[:, made.tokens] * linked).sum(-1).mean()
            share = (logits[at][:, made.tokens].softmax(-1) * linked).sum(-1).mean()
            torch.testing.assert_close(found.mass[row, i], mass, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(found.share[row, i], share, rtol=1e-4, atol=1e-6)
    assert bool(found.ratio["shuffled_text"].isnan().all())


def test_layers_with_a_window_are_told_from_those_that_see_all():
    config = transformers.Gemma3TextConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, sliding_window=16, max_position_embeddings=128,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    )  # fmt: skip
    torch.manual_seed(0)
    model = ins.open(transformers.Gemma3ForCausalLM(config).eval())
    found = context_sweep(model, walks(1), "layers.*.resid_post", LENGTHS, shuffled=False, n=10)
    assert found.sees == (16, 16, None)
    assert found.is_global.tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": (20, 10)}, "give rising lengths of 2 to 58 words"),
        ({"lengths": (90,)}, "give rising lengths of 2 to 58 words"),
        ({"window": 1}, "a window of at least 2"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ins.InputError, match=message):
        context_sweep(silent_gpt2(), walks(1), **options)


def test_what_is_not_there_is_named():
    found = context_sweep(silent_gpt2(), walks(1), "layers.0.resid_post", (58,), shuffled=False, n=10)
    with pytest.raises(ins.InputError, match="is none of the curves: mass, share"):
        found.interval("energy")
    with pytest.raises(ins.InputError, match="at least two of them"):
        found.interval("mass")
    with pytest.raises(ins.InputError, match=r"its sites are layers\.0\.resid_post"):
        found.energy("layers.1.resid_post")
    assert context_sweep(silent_gpt2(), walks(1), "layers.0.resid_post", shuffled=False, n=2).lengths[-1] == 58


def test_where_too_few_words_came_for_an_edge_there_is_no_ratio():
    ratios = [
        context_sweep(silent_gpt2(), walks(1, seed), "layers.0.resid_post", (3, 58), shuffled=False, n=2, seed=seed)
        .ratio["other_graph"][0, :, 0]
        for seed in range(8)
    ]  # fmt: skip
    assert bool(torch.stack(ratios)[:, 0].isnan().any())  # three words, and another graph links none of them
    assert not bool(torch.stack(ratios)[:, 1].isnan().any())
