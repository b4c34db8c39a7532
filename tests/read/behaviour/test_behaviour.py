"""Continuations, priors, their pull and instructions: against sums written out and planted pulls."""

import pytest
import torch

import inscape as ins
from inscape.core.errors import InputError, ShapeError, TokenError
from inscape.models.toy.words import word_tokenizer
from inscape.read.behaviour.choices import choose
from inscape.read.behaviour.continuations import continuation_log_probs
from inscape.read.behaviour.instruction import instructed
from inscape.read.behaviour.prior import prior, prior_pull
from tests.common.small import gpt2_module

WORDS = word_tokenizer([f"w{i}" for i in range(60)], split="spaces")


@pytest.fixture
def model():
    return ins.open(gpt2_module(), tokenizer=WORDS)


def written_out(model, prompt: str, answer: str) -> float:
    ids = torch.tensor([WORDS(prompt + answer).input_ids])
    n = len(WORDS(prompt).input_ids)
    with torch.no_grad():
        log_probs = model.module(ids).logits.log_softmax(-1)
    return sum(float(log_probs[0, i - 1, ids[0, i]]) for i in range(n, ids.shape[1]))


@pytest.mark.parametrize("side", ["left", "right"])
def test_continuations_equal_the_sum_written_out(model, side):
    model.tokenizer.padding_side = side
    prompts = ["w1 w2", "w1 w2", "w3", "w1 w2", "w9 w8 w7 w6"]
    answers = [" w5", " w5 w6 w7", " w5 w6", " w9", " w1"]
    found = continuation_log_probs(model, prompts, answers, rows=3)
    expected = [written_out(model, p, a) for p, a in zip(prompts, answers, strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-4)
    mean = continuation_log_probs(model, prompts, answers, per_token=True)
    torch.testing.assert_close(mean * torch.tensor([1.0, 3, 2, 1, 1]), found, atol=1e-4, rtol=1e-4)
    model.tokenizer.padding_side = "right"


def test_the_probabilities_of_all_one_token_continuations_sum_to_less_than_one(model):
    found = continuation_log_probs(model, ["w1"] * 60, [f" w{i}" for i in range(60)])
    assert 0.5 < float(found.exp().sum()) < 1  # the special tokens have the rest


def test_beginnings_that_pairs_share_are_run_once(model, monkeypatch):
    from inscape.read.behaviour import continuations

    seen = []
    real = continuations.run
    monkeypatch.setattr(continuations, "run", lambda m, x, **k: (seen.extend(map(tuple, x)), real(m, x, **k))[1])
    continuation_log_probs(model, ["w1"] * 3, [" w2 w3", " w2 w4", " w5"])
    assert len(seen) == len(set(seen)) == 2


def test_the_most_probable_option_is_chosen_of_one_token_or_of_several(model):
    prompts, options = ["w1 w2", "w3"], [[" w5 w6", " w7", " w8 w9"], [" w4", " w5"]]
    found = choose(model, prompts, options)
    for i, (prompt, some) in enumerate(zip(prompts, options, strict=True)):
        each = [written_out(model, prompt, option) for option in some]
        assert found.log_probs[i].tolist() == pytest.approx(each, abs=1e-4)
        assert int(found.index[i]) == each.index(max(each))
        assert float(found.log_prob[i]) == pytest.approx(max(each), abs=1e-4)
    mean = choose(model, prompts, options, per_token=True).log_probs[0]
    torch.testing.assert_close(mean * torch.tensor([2.0, 1, 2]), found.log_probs[0])


def test_options_shared_by_all_are_chosen_as_their_logits_say(model):
    prompts = [f"w{i} w{i + 1}" for i in range(10)]
    found = choose(model, prompts, [f" w{i}" for i in range(20, 40)])
    ids = torch.tensor([WORDS(f"w{i}", add_special_tokens=False).input_ids[0] for i in range(20, 40)])
    logits = ins.run(model, prompts, output="last").output.logits[:, -1, ids]
    assert torch.equal(found.index, logits.argmax(-1))


def test_what_cannot_be_chosen_says_so(model):
    with pytest.raises(InputError, match=r"2 prompts, 1 lists of options, 0 of them empty"):
        choose(model, ["w1", "w2"], [[" w3"]])
    with pytest.raises(InputError, match=r"1 prompts, 1 lists of options, 1 of them empty"):
        choose(model, ["w1"], [[]])


def test_a_prior_is_the_mean_over_frames(model):
    frames = ("w1 w2", "w3")
    found = prior(model, [" w5", " w6 w7", " w5"], frames)
    assert found.answers == (" w5", " w6 w7")
    for i, answer in enumerate(found.answers):
        each = [written_out(model, f, answer) for f in frames]
        assert found.log_probs[i].item() == pytest.approx(sum(each) / 2, abs=1e-4)
        assert found.by_frame[:, i].tolist() == pytest.approx(each, abs=1e-4)
    assert torch.equal(found.of([" w6 w7", " w5"]), found.log_probs[[1, 0]])


def test_the_lead_of_a_rival_is_the_largest_difference_of_priors(model):
    found = prior(model, [" w5", " w6", " w7 w8"], ["w1"])
    a, b, c = found.log_probs
    lead = found.lead([" w5", " w6", " w5"], [[" w6", " w7 w8"], [" w5"], []])
    torch.testing.assert_close(lead, torch.stack([torch.maximum(b, c) - a, a - b, torch.tensor(-torch.inf)]))
    with pytest.raises(ShapeError, match="1 answers and 2 lists of rivals"):
        found.lead([" w5"], [[], []])
    with pytest.raises(InputError, match="the prior of ' w9' was not measured"):
        found.lead([" w5"], [[" w9"]])


def planted(pull: float, n: int = 400, seed: int = 0):
    """Items whose odds of being right follow the prior with slope `pull`; wrong ones get a commoner answer if it is."""
    generator = torch.Generator().manual_seed(seed)
    prior_of_right = torch.randn(n, generator=generator)
    right = torch.rand(n, generator=generator) < torch.sigmoid(pull * prior_of_right)
    other = torch.randn(n, generator=generator) + 2 * pull
    return prior_of_right, right, torch.where(right, prior_of_right, other)


def test_a_planted_pull_is_found_and_none_is_not():
    pulled = prior_pull(*planted(1.0), n=300)
    assert pulled.slope.interval.low > 0.5
    assert pulled.slope.interval.low < 1.0 < pulled.slope.interval.high
    assert pulled.slope.p < 0.01
    assert pulled.asymmetry.low > 0.8
    assert pulled.lift.low > 0.5
    free = prior_pull(*planted(0.0), n=300)
    assert not free.slope.interval.excludes(0.0)
    assert free.asymmetry.low < 0.5 < free.asymmetry.high
    assert free.asymmetry_null == pytest.approx(0.5, abs=0.1)
    assert not free.lift.excludes(0.0)
    assert free.n_errors == int((~planted(0.0)[1]).sum())


def test_the_share_right_rises_with_each_quarter_of_the_prior():
    prior_of_right, right, given = planted(1.5)
    pull = prior_pull(prior_of_right, right, given, n=50)
    edges = prior_of_right.double().quantile(torch.tensor([0.25, 0.5, 0.75]).double())
    quarter = torch.bucketize(prior_of_right.double(), edges, right=True)
    for q, found in enumerate(pull.by_quantile):
        assert found.value == pytest.approx(float(right[quarter == q].double().mean()))
    values = [found.value for found in pull.by_quantile]
    assert values == sorted(values)
    assert pull.echo is None


def test_what_is_said_more_surely_where_it_is_common_is_an_echo():
    prior_of_right, right, given = planted(1.0)
    noise = torch.randn(400, generator=torch.Generator().manual_seed(9))
    sure = prior_pull(prior_of_right, right, given, log_prob_of_given=given + noise, n=99).echo
    assert sure.p <= 0.01
    assert sure.interval.low > 0.4
    assert prior_pull(prior_of_right, right, given, log_prob_of_given=noise, n=99).echo.p > 0.05


def test_when_all_are_right_nothing_follows_the_prior():
    pull = prior_pull(torch.randn(10), torch.ones(10, dtype=torch.bool))
    assert pull.slope is None
    assert float(pull.followed) == 0
    assert (pull.asymmetry, pull.lift, pull.n_errors) == (None, None, 0)


def test_items_of_one_answer_are_drawn_together():
    prior_of_right, right, given = planted(1.0, n=40)
    many = [x.repeat_interleave(10) for x in (prior_of_right, right, given)]
    apart, together = (
        prior_pull(*many, by=by, n=200) for by in (None, torch.arange(40).repeat_interleave(10).tolist())
    )
    for name in ("accuracy", "asymmetry", "lift"):
        width = [getattr(p, name).high - getattr(p, name).low for p in (apart, together)]
        assert width[1] > 2 * width[0], name
    width = [p.slope.interval.high - p.slope.interval.low for p in (apart, together)]
    assert width[1] > 2 * width[0]
    alike = prior_pull(torch.arange(8.0), torch.ones(8, dtype=torch.bool), by=[0, 0, 1, 1, 2, 2, 3, 3])
    assert alike.accuracy.n_items == 4  # eight rows, and no more than four answers


def test_what_is_given_and_is_no_answer_is_left_out_of_the_comparison():
    prior_of_right, right, given = planted(1.0)
    some = given.clone()
    some[~right] = torch.nan
    pull = prior_pull(prior_of_right, right, some)
    assert pull.asymmetry is None
    assert pull.n_errors == int((~right).sum())


def test_an_instruction_stands_beside_a_sentence_as_long(model):
    both = instructed(model, ["w1 w2", "w3"], "w4 w5", ["w6", "w7 w8"])
    assert both.prompts == ("w4 w5 w1 w2", "w4 w5 w3")
    assert both.control == ("w7 w8 w1 w2", "w7 w8 w3")
    assert both.neutral == "w7 w8"
    after = instructed(model, ["w1"], "w4", "w6", form="{prompt} {said}")
    assert after.control == ("w1 w6",)


def test_what_cannot_be_asked_says_so(model):
    with pytest.raises(InputError, match="2 prompts and 1 answers"):
        continuation_log_probs(model, ["w1", "w2"], [" w3"])
    with pytest.raises(TokenError, match=r"' z' does not continue 'w1'[\s\S]*begin the answer with the space"):
        continuation_log_probs(model, ["w1"], [" z"])
    with pytest.raises(InputError, match="0 answers and 5 frames"):
        prior(model, [])
    with pytest.raises(InputError, match=r"the prior of ' w9' was not measured \(1 of 1 answers\)"):
        prior(model, [" w5"], ["w1"]).of([" w9"])
    with pytest.raises(ShapeError, match="3 items have a prior and 2 are in right"):
        prior_pull(torch.zeros(3), torch.ones(2, dtype=torch.bool))
    with pytest.raises(TokenError, match=r"which makes 4 tokens of prompt 0; 'w6' makes 3"):
        instructed(model, ["w1"], "w4 w5", "w6")
    with pytest.raises(InputError, match="need prompts, and a model with its tokenizer"):
        instructed(ins.open(gpt2_module()), ["w1"], "w4", "w6")
    bare = word_tokenizer(["a"], bos=False)
    with pytest.raises(InputError, match="the prompt is empty"):
        continuation_log_probs(ins.open(gpt2_module(), tokenizer=bare), [""], ["a"])
