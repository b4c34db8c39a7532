"""Two models that write one text: equal to the obvious loop, each control on its own, and nothing in silence."""

import copy
from typing import Any

import pytest
import torch

import inscape as ins
from inscape.steer.hybrid import gap_recovered, hybrid_generate
from tests.common.small import direction, gpt2_module
from tests.common.tokenizers import word_tokenizer

WORDS = [f"w{chr(97 + i)}{chr(97 + j)}" for i in range(8) for j in range(8)]
PROMPTS = [[5, 6, 7, 8, 9], [10, 11, 12]]
SITE = "layers.1.resid_post"


def models() -> tuple["ins.Model", "ins.Model"]:
    """A driver and an executor with the same words; the driver is the executor, moved a little."""
    tokenizer = word_tokenizer(WORDS[:60])
    executor, driver = copy.deepcopy(gpt2_module()), copy.deepcopy(gpt2_module())
    g = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in driver.parameters():
            p.add_(0.04 * torch.randn(p.shape, generator=g))
    return ins.open(driver, tokenizer=tokenizer), ins.open(executor, tokenizer=tokenizer)


class Signs:
    """A taxonomy of two categories: is the first unit above zero?"""

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        return (x[:, 0] > 0).long()


def vectors(executor: "ins.Model") -> dict[int, ins.Direction]:
    return {i: ins.Direction(SITE, 6 * direction(seed=i).vector, f"latent {i}", executor.fingerprint) for i in (0, 1)}


def by_loop(driver: Any, executor: Any, prompt: list[int], n: int, given: dict, coefficients: tuple, windows: tuple):
    """One row, one candidate after the other."""
    told, steered, coefs = list(prompt), [], []
    for _ in range(n):
        seen = ins.run(driver, [told], read="layers.2.resid_post", output=True)
        known = seen.output.logits[0, -1].log_softmax(-1)
        latent = int(Signs().predict(seen["layers.2.resid_post"][0, -1:])[0])
        token = int(ins.run(executor, [told], output=True).output.logits[0, -1].argmax())
        steered.append(int(known.argmax()) != token)
        coefs.append(float("nan"))
        if steered[-1]:
            tried = []
            for window in windows:
                for c in coefficients:
                    at = None if window == "all" else slice(-window, None)
                    edit = ins.add(given[latent], c, at=at)
                    logits = ins.run(executor, [told], edits=[edit], output=True).output.logits[0, -1]
                    tried.append((int(logits.argmax()), c))
            token, coefs[-1] = max(tried, key=lambda t: float(known[t[0]]))
        told.append(token)
    return told[len(prompt) :], steered, coefs


def test_it_is_the_obvious_loop():
    driver, executor = models()
    given, coefficients, windows = vectors(executor), (0.5, 1.0), ("all", 2)
    got = hybrid_generate(driver, executor, PROMPTS, Signs(), given, site="layers.2.resid_post",
                          coefficients=coefficients, windows=windows, max_new_tokens=6)  # fmt: skip
    for row, prompt in enumerate(PROMPTS):
        tokens, steered, coefs = by_loop(driver, executor, prompt, 6, given, coefficients, windows)
        assert got.tokens[row].tolist() == tokens
        assert got.steered[row].tolist() == steered
        assert got.coefficient[row].nan_to_num(-1).tolist() == torch.tensor(coefs).nan_to_num(-1).tolist()
        assert ((got.window[row] >= 0) == got.steered[row]).all()
    assert 0 < got.share < 1
    assert got.text[0] == executor.tokenizer.decode(got.tokens[0], skip_special_tokens=True)


def test_models_that_agree_are_never_steered():
    _, executor = models()
    got = hybrid_generate(executor, executor, PROMPTS, Signs(), vectors(executor), site="layers.2.resid_post",
                          max_new_tokens=5)  # fmt: skip
    assert got.share == 0
    assert got.tokens.tolist() == ins.generate(executor, PROMPTS, max_new_tokens=5).tokens.tolist()


def test_controls_do_what_they_say():
    driver, executor = models()
    options = {"site": "layers.2.resid_post", "max_new_tokens": 6, "seed": 3}
    runs = {c: hybrid_generate(driver, executor, PROMPTS, Signs(), vectors(executor), control=c, **options)
            for c in (None, "random_latent", "random_vector", "sampled")}  # fmt: skip
    again = hybrid_generate(driver, executor, PROMPTS, Signs(), vectors(executor), control="random_vector", **options)
    assert torch.equal(again.tokens, runs["random_vector"].tokens)
    assert torch.isnan(runs["sampled"].coefficient).all()
    assert len({tuple(r.tokens.flatten().tolist()) for r in runs.values()}) >= 3


def test_the_bias_stands_in_for_a_category_without_a_vector():
    driver, executor = models()
    both, bias = vectors(executor), direction(seed=9) * 4
    options = {"site": "layers.2.resid_post", "max_new_tokens": 5, "bias": bias}
    alone = hybrid_generate(driver, executor, PROMPTS, Signs(), {}, **options)
    same = hybrid_generate(driver, executor, PROMPTS, Signs(), {i: 0 * both[i] for i in both}, **options)
    assert torch.equal(alone.tokens, same.tokens)


def test_a_row_that_has_ended_stays_as_it_is():
    driver, executor = models()
    options = {"site": "layers.2.resid_post", "max_new_tokens": 6}
    plain = hybrid_generate(driver, executor, PROMPTS, Signs(), vectors(executor), **options)
    executor.module.generation_config.eos_token_id = int(plain.tokens[0, 1])
    got = hybrid_generate(driver, executor, PROMPTS, Signs(), vectors(executor), **options)
    stop = plain.tokens[0].tolist().index(int(plain.tokens[0, 1])) + 1
    assert got.tokens[0, :stop].tolist() == plain.tokens[0, :stop].tolist()
    assert set(got.tokens[0, stop:].tolist()) <= {-1}


def test_a_gap_that_is_none_is_not_recovered():
    assert gap_recovered(0.2, 0.5, 0.8) == pytest.approx(0.5)
    assert gap_recovered(0.5, 0.6, 0.5) is None


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"control": "shuffle"}, ins.InputError, "'shuffle' is none of 'random_latent'"),
        ({"vectors": {}}, ins.InputError, "no vectors and no bias"),
        ({"coefficients": ()}, ins.InputError, "one at least of each"),
        ({"windows": ("all", 0)}, ins.InputError, "0 is neither 'all' nor a number of last tokens"),
        ({"bias": direction("layers.0.resid_post")}, ins.SiteError, "layers.0.resid_post, layers.1.resid_post"),
        ({"vectors": {0: ins.Direction(SITE, torch.ones(32), "", "other")}}, ins.ModelError, "for two models"),
        ({"prompts": torch.rand(1, 3, 32)}, ins.InputError, "."),
    ],
)
def test_what_cannot_be_written_together_is_refused(asked, error, says):
    driver, executor = models()
    given = {"prompts": PROMPTS, "vectors": vectors(executor)} | asked
    with pytest.raises(error, match=says):
        hybrid_generate(driver, executor, given.pop("prompts"), Signs(), given.pop("vectors"), site=SITE, **given)


def test_models_with_other_words_are_refused():
    driver, executor = models()
    other = ins.open(driver.module, tokenizer=word_tokenizer(WORDS[1:61]))
    with pytest.raises(ins.ModelError, match="driver and executor have other tokens"):
        hybrid_generate(other, executor, PROMPTS, Signs(), vectors(executor), site=SITE)
    with pytest.raises(ins.InputError, match="these inputs have none"):
        hybrid_generate(
            driver, executor, {"inputs_embeds": torch.rand(1, 3, 32)}, Signs(), vectors(executor), site=SITE
        )
