"""Policies on pools where it is known what each of them must say and spend."""

import pytest
import torch

import inscape as ins
from inscape.read.generation.commitment import answer_over_tokens, commitment_layer, early_answers
from inscape.read.generation.selection import Drawn, choose_threshold, majority, select_traces
from tests.common.small import gpt2

# answer, score, tokens of three traces of two questions
POOL = [[("a", 0.1, 10), ("b", 0.9, 20), ("a", 0.2, 30)], [(None, 0.8, 5), ("c", 0.3, 5), ("d", 0.95, 7)]]


def sample(question, number):
    answer, score, tokens = POOL[question][number]
    value = torch.tensor([score], dtype=torch.float64)
    return Drawn(answer, tokens, value, early=1 - value, early_tokens=4)


def scorer(x):
    return x[:, 0]


def test_every_policy_says_and_spends_what_it_must():
    voted = select_traces(2, sample, policy="majority", k=3)
    assert (voted.answers, voted.tokens) == (("a", "c"), (60, 17))
    best = select_traces(2, sample, scorer, "best_of_k", k=3)
    assert (best.answers, best.tokens) == (("b", "d"), (60, 17))
    first = select_traces(2, sample, scorer, "sequential", k=3, threshold=0.25)
    assert (first.answers, first.tokens, first.drawn) == (("b", "c"), (30, 10), (2, 2))
    none = select_traces(2, sample, scorer, "sequential", k=3, threshold=2.0)
    assert (none.answers, none.tokens, none.log) == (voted.answers, voted.tokens, ("voted, 3", "voted, 3"))
    early = select_traces(2, sample, scorer, "early", k=3)
    assert early.answers == ("a", "c"), "the lowest score is the highest beginning here"
    assert early.tokens == (3 * 4 + 10 - 4, 3 * 4 + 5 - 4)
    short = select_traces(2, sample, policy="majority", k=3, budget=15)
    assert short.tokens == (30, 17)
    assert best.accuracy(["b", "x"]) == 0.5


def test_nothing_beyond_the_accepted_trace_is_drawn():
    asked = []

    def watched(question, number):
        asked.append((question, number))
        return sample(question, number)

    select_traces(1, watched, scorer, "sequential", k=3, threshold=0.5)
    assert asked == [(0, 0), (0, 1)]


def test_the_majority_is_of_answers_that_were_given():
    assert majority([None, "x", None]) == "x"
    assert majority([None, None]) is None
    assert majority([1, 2, 2, 1]) == 1


def questions(n, gap, seed):
    g = torch.Generator().manual_seed(seed)
    right = torch.rand(n, 8, generator=g) < 0.6
    score = torch.randn(n, 8, generator=g) + gap * right
    answers = [[0 if r else 1 + (i % 3) for i, r in enumerate(row)] for row in right.tolist()]
    return score, answers, torch.full((n, 8), 10.0)


def test_a_score_that_knows_saves_tokens_and_one_that_does_not_is_not_trusted():
    bar, share = choose_threshold(*questions(120, 4.0, 0), truth=[0] * 120)
    assert 0.1 < share < 0.9
    score, answers, _ = questions(200, 4.0, 1)

    def drawn(q, i):
        return Drawn(answers[q][i], 10, score[q, i][None].double())

    made = select_traces(200, drawn, scorer, "sequential", k=8, threshold=bar)
    voted = select_traces(200, drawn, policy="majority", k=8)
    assert sum(made.tokens) < 0.5 * sum(voted.tokens)
    assert made.accuracy([0] * 200) >= voted.accuracy([0] * 200) - 0.02
    _, blind = choose_threshold(*questions(120, 0.0, 2), truth=[0] * 120)
    assert blind < 0.2, "accepting at random loses accuracy"


def test_policies_that_miss_something_say_what():
    with pytest.raises(ins.InputError, match="policy='vote' is unknown"):
        select_traces(1, sample, policy="vote")
    with pytest.raises(ins.InputError, match="needs scorer="):
        select_traces(1, sample, policy="early")
    with pytest.raises(ins.InputError, match="needs threshold="):
        select_traces(1, sample, scorer, "sequential")
    with pytest.raises(ins.InputError, match="k=0"):
        select_traces(1, sample, policy="majority", k=0)
    with pytest.raises(ins.InputError, match="signals of their beginnings"):
        select_traces(1, lambda q, i: Drawn("a", 1, torch.zeros(1)), scorer, "early", k=2)
    with pytest.raises(ins.InputError, match="3 questions do not make folds=5"):
        choose_threshold(*questions(3, 1.0, 0), truth=[0] * 3)


def test_the_layer_of_commitment_is_the_first_that_stays():
    rank = torch.tensor([[5, 1, 1, 9], [1, 1, 3, 9], [1, 1, 1, 9], [1, 1, 1, 2]])
    assert commitment_layer(rank).tolist() == [1, 0, 2, 4]


def test_early_answers_are_those_of_the_cut_texts():
    model = gpt2()
    prompts, said = [[1, 2, 3], [9, 8]], [[4, 5, 6, 7, 10, 11], [12, 13, 14]]
    made = early_answers(model, prompts, said, [20, 21], [30, 31, 32], every=2, batch=1)
    assert made.cuts == (0, 2, 4, 6)
    for c, cut in enumerate(made.cuts):
        for row in range(2):
            if cut > len(said[row]):
                assert bool(made.probability[c, row].isnan().all())
                continue
            text = [*prompts[row], *said[row][:cut], 20, 21]
            logits = ins.run(model, [text]).output.logits[0, -1, [30, 31, 32]]
            torch.testing.assert_close(made.probability[c, row], logits.softmax(0), atol=1e-5, rtol=1e-4)
    assert made.control is not None
    torch.testing.assert_close(made.control[0], made.probability[0])
    best = made.probability.nan_to_num(-1).argmax(-1)
    for row, settled in enumerate(made.settled().tolist()):
        last = [c for c, cut in enumerate(made.cuts) if cut <= len(said[row])]
        assert all(best[c, row] == best[last[-1], row] for c in last if made.cuts[c] >= settled)
    assert made.of([0, 2]).shape == (4, 2)
    with pytest.raises(ins.InputError, match="2 prompts and 1 rationales"):
        early_answers(model, prompts, said[:1], [20], [30, 31])
    with pytest.raises(ins.InputError, match="two candidates"):
        early_answers(model, prompts, said, [20], [30])


def test_candidates_over_tokens_end_as_the_model_does():
    model = gpt2()
    made, mask = answer_over_tokens(model, [[1, 2, 3, 4], [9, 8]], [30, 31, 32])
    logits = ins.run(model, [[1, 2, 3, 4], [9, 8]]).output.logits[..., [30, 31, 32]]
    torch.testing.assert_close(made[-1][mask], logits.softmax(-1)[mask], atol=1e-5, rtol=1e-4)
