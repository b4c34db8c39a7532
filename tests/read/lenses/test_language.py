"""Language profiles and directions: planted, and where there is nothing."""

import pytest
import torch
import transformers

import inscape as ins
from inscape.read.lenses.language import language_profile
from inscape.read.lenses.language_direction import language_directions
from inscape.tasks.many_languages import LanguagePrompts
from inscape.tasks.parallel_languages import ParallelLanguages

MADE = ParallelLanguages(things=12, doings=6)


def silent(planted: bool) -> "ins.Model":
    """Layers that add nothing; planted: the embedding of a word of c is what the head reads as the word of a."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            n_layer=4, n_embd=64, n_head=4, vocab_size=len(MADE.tokenizer), n_positions=64, tie_word_embeddings=False,
            bos_token_id=1, eos_token_id=None,
        )  # fmt: skip
        module = transformers.GPT2LMHeadModel(config).eval()
        module.transformer.wpe.weight.zero_()
        for block in module.transformer.h:
            for projection in (block.attn.c_proj, block.mlp.c_proj):
                projection.weight.zero_()
                projection.bias.zero_()
        module.lm_head.weight.normal_()
        if planted:
            i = torch.arange(12)
            module.transformer.wte.weight[MADE.ids("c", i)] = 10 * module.lm_head.weight[MADE.ids("a", i)]
    return ins.open(module, tokenizer=MADE.tokenizer)


def words() -> dict[str, dict[str, str]]:
    return {str(i): {x: f"{x}{i}" for x in MADE.names} for i in range(12)}


def asked() -> LanguagePrompts:
    rows, _ = MADE.prompts(12, "c", "b", seed=3)
    return LanguagePrompts("c → b", list(rows), tuple(words()), "b", ("b", "c"))


def test_a_planted_language_is_found_between_the_layers_and_another_items_word_is_not() -> None:
    profile = language_profile(silent(True), words(), [asked()], rows=5)
    assert profile.mass.shape == (1, 4, 3, 12)
    assert float(profile.mass[0, :, 0].min()) > 0.5
    assert float(profile.swapped[0, :, 0].mean()) < 0.1
    found = profile.latent(0, n=500)
    assert (found.language, found.layers) == ("a", (0, 1, 2))
    assert str(found) == "c → b: a in layers 0 to 2"
    assert profile.accuracy(0) == 0.0  # the planted model answers in a to the end
    assert float(profile.interval(0, "c", n=200).low[0, 0]) > 0.3


def test_a_random_net_has_no_latent_language() -> None:
    found = [language_profile(silent(False), words(), [asked()], seed=s).latent(0, n=500, seed=s) for s in range(3)]
    assert all(f.language is None for f in found)
    assert str(found[0]) == "c → b: no latent language found"


def test_tasks_without_words_are_left_out_or_refused() -> None:
    task = asked()
    some = {k: v for k, v in words().items() if int(k) < 5}
    profile = language_profile(silent(True), some, [task])
    assert profile.concepts == tuple("01234")
    with pytest.raises(ins.InputError, match="0 of its concepts"):
        language_profile(silent(True), {f"x{k}": v for k, v in some.items()}, [task])
    shown = LanguagePrompts("all", task.prompts, task.concepts, "b", ("a", "b", "c"))
    with pytest.raises(ins.InputError, match="none can be latent"):
        language_profile(silent(True), words(), [shown]).latent(0)


def test_languages_that_lie_apart_have_a_direction_and_translations_lie_together() -> None:
    """Embeddings of the two languages: the same vectors plus one shared offset."""
    model = silent(False)
    i = torch.arange(12)
    with torch.no_grad():
        weight = model.module.transformer.wte.weight
        offset = torch.zeros(64)
        offset[:3] = 20.0
        weight[MADE.ids("b", i)] = weight[MADE.ids("a", i)].normal_()
        weight[MADE.ids("a", i)] = weight[MADE.ids("b", i)] - offset
    one, two = ([[1, int(t)] for t in MADE.ids(x, i)] for x in ("a", "b"))
    found = language_directions(model, one, two, reduce="last")
    assert found.units.tolist() == [3.0] * 4
    assert float(found.units_shuffled.max()) <= 1
    torch.testing.assert_close(found.directions[2].vector.float()[:3], torch.full((3,), 20.0), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.same, torch.ones(4), atol=1e-4, rtol=0)
    assert float(found.other.abs().max()) < 0.2
    assert bool((found.first_retrieved == 1).all())
    assert found.directions[0].source == "mean of two minus mean of one"
    apart = language_directions(silent(False), one, two, reduce="last")
    assert float(apart.first_retrieved.max()) < 0.5
    with pytest.raises(ins.InputError, match="come in pairs"):
        language_directions(model, one, two[:3])
