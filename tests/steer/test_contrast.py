"""A direction a row, and directions between words: equal to the obvious loop, and loud where they are nothing."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import inscape as ins
from inscape.steer.contrast import contrast_direction
from inscape.steer.tokens import token_direction
from tests.common.small import gpt2
from tests.common.tokenizers import word_tokenizer

SITES = ("layers.0.resid_post", "layers.2.resid_post")
WITH = [[9, 8, 7, 1, 2], [30, 3, 4], [40, 41, 5, 6, 7, 8]]
WITHOUT = [[1, 2], [3, 4], [5, 6, 7, 8]]
PICKED = {"last": lambda x: x[-1], -2: lambda x: x[-2], "mean": lambda x: x.mean(0), "slice": lambda x: x[-2:].mean(0)}


@pytest.mark.parametrize("position", list(PICKED))
def test_each_row_is_its_own_difference(position):
    model = gpt2()
    asked = slice(-2, None) if position == "slice" else position
    got = contrast_direction(model, WITH, WITHOUT, SITES, position=asked)
    for site, d in got.items():
        assert d.vector.shape == (3, 32)
        for row in range(3):
            a, b = (PICKED[position](ins.run(model, [side[row]], read=site)[site][0]) for side in (WITH, WITHOUT))
            torch.testing.assert_close(d.vector[row], a - b, rtol=1e-4, atol=1e-5)
    assert got.model == model.fingerprint


def test_added_at_the_last_token_it_gives_every_row_the_state_with():
    model, site = gpt2(), SITES[1]
    d = contrast_direction(model, WITH, WITHOUT, site)[site]
    steered = ins.run(model, WITHOUT, read=site, edits=[ins.add(d, at="last")], reduce="last")[site]
    torch.testing.assert_close(steered, ins.run(model, WITH, read=site, reduce="last")[site], rtol=1e-4, atol=1e-4)


def test_controls_are_of_another_row_and_random_of_the_same_length():
    model, site = gpt2(), SITES[1]
    d = contrast_direction(model, WITH, WITHOUT, site)[site].vector
    other = contrast_direction(model, WITH, WITHOUT, site, control="another")[site]
    assert torch.equal(other.vector, d.roll(1, 0))
    assert other.source == "another control of with minus without, at last"
    drawn = contrast_direction(model, WITH, WITHOUT, site, control="random")[site].vector
    torch.testing.assert_close(drawn.norm(dim=1), d.norm(dim=1))
    assert float(torch.nn.functional.cosine_similarity(drawn, d).abs().max()) < 0.6
    heads = contrast_direction(model, WITH, WITHOUT, "layers.1.attn.z", control="random")["layers.1.attn.z"].vector
    assert heads.shape == (3, 4, 8)


def test_rows_in_which_nothing_changes_are_zero_and_warned_of():
    model = gpt2()
    with pytest.warns(UserWarning, match=r"changes nothing at 2 of 2 sites, such as layers.0.resid_post in rows 1:"):
        got = contrast_direction(model, [*WITH[:1], [3, 4]], WITHOUT[:2], SITES)
    assert float(got[SITES[0]].vector[1].abs().max()) == 0
    assert float(got[SITES[0]].vector[0].abs().max()) > 0


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"without_input": WITHOUT[:2]}, ins.ShapeError, "3 rows with and 2 rows without"),
        ({"control": "flipped"}, ins.InputError, "'flipped' is none of 'another', 'random'"),
        ({"with_input": WITH[:1], "without_input": WITHOUT[:1], "control": "another"}, ins.InputError, "two rows"),
        ({"position": "all"}, ins.InputError, "which token's state"),
        ({"sites": "layers.9.resid_post"}, ins.SiteError, "no site matches"),
    ],
)
def test_what_cannot_be_contrasted_is_refused(asked, error, says):
    with pytest.raises(error, match=says):
        contrast_direction(gpt2(), **({"with_input": WITH, "without_input": WITHOUT} | asked))


def worded() -> "ins.Model":
    tokenizer = word_tokenizer(("happy", "glad", "sad", "sorry", "king"))
    torch.manual_seed(0)
    module = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=len(tokenizer))).eval()
    return ins.open(module, tokenizer=tokenizer)


def test_words_differ_by_the_mean_of_their_rows():
    model = worded()
    ids = {w: model.tokenizer(w, add_special_tokens=False)["input_ids"] for w in ("happy", "glad", "sad")}
    table = model.module.transformer.wte.weight.detach()
    want = table[[ids["happy"][0], ids["glad"][0]]].mean(0) - table[ids["sad"][0]]
    for asked in ((["happy", "glad"], ["sad"]), ([ids["happy"][0], "glad"], ids["sad"])):
        got = token_direction(model, *asked)
        torch.testing.assert_close(got.vector, want / want.norm())
    assert got.site == "embed"
    whole = token_direction(model, ["happy glad"], ["sad"])  # several tokens count as their mean
    torch.testing.assert_close(whole.vector, want / want.norm())
    assert token_direction(model, ["happy", "glad"], ["sad"]).source == "embedding of happy, glad minus sad"


def test_rows_of_the_head_raise_the_words_own_scores():
    model = worded()
    d = token_direction(model, ["happy"], ["sad"], of="unembed")
    assert d.site == "final_norm"
    ids = [model.tokenizer(w, add_special_tokens=False)["input_ids"][0] for w in ("happy", "sad")]
    plain, steered = (
        ins.run(model, "king", edits=edits).output.logits[0, -1, ids].diff() for edits in ([], [ins.add(d, 2)])
    )
    head = model.module.lm_head.weight.detach()
    torch.testing.assert_close(plain - steered, 2 * (head[ids[0]] - head[ids[1]]).norm()[None], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m: token_direction(m, "happy", ["sad"]), ins.InputError, "words_a is a list of words"),
        (lambda m: token_direction(m, ["happy"], ["sad"], of="head"), ins.InputError, "it is 'embed' or 'unembed'"),
        (lambda m: token_direction(m, [], ["sad"]), ins.InputError, "one at least"),
        (lambda m: token_direction(m, ["sad"], ["sad"]), ins.InputError, "the same mean row of the embedding"),
        (lambda m: token_direction(m, ["happy"], [99]), ins.TokenError, "words_b: 99 is token .*from 0 to"),
        (lambda m: token_direction(m, [""], ["sad"]), ins.TokenError, "words_a: '' has no tokens"),
        (lambda m: token_direction(m, ["happy"], ["sad"], site="layers.7.mlp"), ins.SiteError, "no site 'layers.7"),
        (lambda m: token_direction(gpt2(), ["happy"], ["sad"]), ins.InputError, "no tokenizer"),
    ],
)
def test_words_that_name_no_direction_are_refused(call, error, says):
    with pytest.raises(error, match=says):
        call(worded())
