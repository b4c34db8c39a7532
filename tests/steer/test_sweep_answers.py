"""Sweeps over closed answers are the obvious loop, tested on other prompts, beside random vectors at equal KL."""

import functools
from typing import Any

import pytest
import torch

import inscape as ins
from inscape.models.toy.words import SPECIAL, word_tokenizer
from inscape.steer.closed_answers import closed_answers, first_tokens
from inscape.steer.equal_kl import beside_random
from inscape.steer.kl_search import search_strength
from inscape.steer.sweep_answers import AnswerSweep, sweep_answers
from tests.common.small import direction, gpt2_module

LIST = [" a1", " a2", " a3"]
IDS = [5, 6, 7]
WORDS = [f"w{i}" for i in range(4, 64)]
WORDS[1:4] = ["a1", "a2", "a3"]
DRAW = torch.Generator().manual_seed(0)
PROMPTS = [
    " ".join(f"w{int(i)}" for i in torch.randint(8, 64, (int(n),), generator=DRAW))
    for n in torch.randint(2, 6, (24,), generator=DRAW)
]
RIGHT = [LIST[int(i)] for i in torch.randint(0, 3, (24,), generator=DRAW)]
D = direction()
GRID = [-1.0, 0.5, 1.0]


@functools.cache
def model() -> ins.Model:
    assert len(SPECIAL) == 4
    return ins.open(gpt2_module(), tokenizer=word_tokenizer(WORDS, split="spaces"))


@functools.cache
def swept() -> AnswerSweep:
    return sweep_answers(model(), {"direction": D, "other": direction(seed=3)}, PROMPTS, RIGHT, LIST, GRID)


def test_it_is_the_obvious_loop():
    found = swept()
    assert found.curves == ("direction", "other", "random", "flipped")
    assert found.alphas == (-1.0, 0.0, 0.5, 1.0)
    for i in (0, 7, 20):
        p = ins.run(model(), [PROMPTS[i]], output="last").output.logits[0, -1].softmax(-1)
        for a, alpha in enumerate(found.alphas):
            q = ins.run(model(), [PROMPTS[i]], edits=ins.add(D, alpha), output="last").output.logits[0, -1].softmax(-1)
            k = LIST.index(RIGHT[i])
            want = {
                "kl": (p * (p / q).log()).sum(), "entropy": -(q * q.log2()).sum(), "mass": q[IDS[k]],
                "others": q[IDS].sum() - q[IDS[k]], "right": (q[IDS].argmax() == k).float(),
                "share": q[IDS[k]] / q[IDS].sum(),
            }  # fmt: skip
            for name, value in want.items():
                assert float(getattr(found, name)[0, a, i]) == pytest.approx(float(value), rel=2e-3, abs=1e-6), name
    plain = closed_answers(model(), PROMPTS, RIGHT, LIST).plain
    p = ins.run(model(), [PROMPTS[7]], output="last").output.logits[0, -1].softmax(-1)[IDS]
    p[LIST.index(RIGHT[7])] = 0
    assert int(plain.rival[7]) == int(p.argmax())
    assert len(found.rows()) == 16
    assert {"curve", "alpha", "kl_low", "share_high"} <= set(found.rows()[0])
    assert float(found.mean("mass").value[0, 1]) == pytest.approx(float(found.mass[0, 1].mean()))


def test_no_strength_is_the_plain_model_and_flipping_mirrors():
    found = swept()
    zero = found.alphas.index(0.0)
    assert bool((found.kl[:, zero] == 0).all())
    for name in ("kl", "mass", "entropy", "right", "others"):
        table = getattr(found, name)
        assert bool((table[:, zero] == table[0, zero]).all())
        assert torch.equal(table[3, found.alphas.index(1.0)], table[0, found.alphas.index(-1.0)])
        again = sweep_answers(model(), -D, PROMPTS, RIGHT, LIST, [-1.0, 1.0], controls=())
        assert torch.equal(getattr(again, name)[0, 0], table[0, -1])
    random = found.vectors["random"]
    assert isinstance(random, ins.Direction)
    assert float(random.vector.norm()) == pytest.approx(float(D.vector.norm()))


def test_a_strength_is_chosen_here_and_tested_elsewhere():
    """A vector that raises the score of one answer: on prompts where that is right it is found to help elsewhere."""
    head: Any = model().module.lm_head
    planted = ins.Direction("layers.2.resid_post", (head.weight[IDS[1]] - head.weight[IDS[0]]).detach())
    here, there = PROMPTS[:12], PROMPTS[12:]
    found = sweep_answers(model(), planted, here, [LIST[1]] * 12, LIST, [-4.0, 2.0, 4.0, 8.0])
    assert found.best() > 0
    assert found.best("flipped") < 0
    assert float(found.right[0, found.alphas.index(found.best())].mean()) == 1.0
    assert found.best() == min(
        a for a in found.alphas if float(found.right[0, found.alphas.index(a)].mean()) == 1.0
    )  # of equal ones the nearest to 0
    assert found.best(kl_budget=1e-9) == 0.0
    tested = found.test(model(), there, [LIST[1]] * 12)
    assert tested.on == "other prompts"
    assert tested.steered.value == 1.0
    assert tested.change.value == pytest.approx(tested.steered.value - tested.base.value)
    assert tested.also["kl"].value > 0
    again = closed_answers(model(), there, [LIST[1]] * 12, LIST)
    assert found.test(model(), again).also == tested.also
    assert found.test(model(), again, alpha=0.0).change.value == 0.0
    with pytest.raises(ins.InputError, match="12 of 12 prompts are those that the strength was chosen on"):
        found.test(model(), here, [LIST[1]] * 12)
    assert found.test(model(), here, [LIST[1]] * 12, force=True).on == "the same prompts"
    flipped = sweep_answers(model(), planted, here, [LIST[0]] * 12, LIST, [2.0, -4.0], controls=())
    assert flipped.best(measure="mass") < 0
    assert [e.site for e in found.edits("direction", 2.0)] == [planted.site]
    beside = beside_random(model(), {"it": planted}, here, [LIST[1]] * 12, LIST, 0.3, n=6)
    assert beside.rank("it") == 1
    assert beside.rank("it", "right") >= 1
    kls = [float(a.kl.mean()) for a in (*beside.vectors.values(), *beside.random)]
    assert kls == pytest.approx([0.3] * 7, rel=0.03)
    assert max(beside.random_strengths) > 1.2 * min(beside.random_strengths)
    assert bool((beside.random_changes() < beside.change("it")).all())


def test_what_cannot_be_asked_is_refused():
    m = model()
    with pytest.raises(ins.InputError, match=r"' a1' and ' a1 w9' both begin with the token 'a1'"):
        first_tokens(m, [" a1", " a2", " a1 w9"])
    with pytest.raises(ins.TokenError, match="begins with no token"):
        first_tokens(m, [" a1", " never"])
    with pytest.raises(ins.InputError, match="two answers or more"):
        first_tokens(m, [" a1"])
    with pytest.raises(ins.TokenError, match="no tokenizer"):
        first_tokens(ins.open(gpt2_module()), LIST)
    with pytest.raises(ins.InputError, match="' w9' is none of the list"):
        closed_answers(m, PROMPTS[:2], [" a1", " w9"], LIST)
    with pytest.raises(ins.ShapeError, match="2 prompts and 1 right answers"):
        closed_answers(m, PROMPTS[:2], [" a1"], LIST)
    with pytest.raises(ins.InputError, match="give others as vectors"):
        sweep_answers(m, D, PROMPTS, RIGHT, LIST, GRID, controls=("shuffled",))
    with pytest.raises(ins.InputError, match="several by name"):
        sweep_answers(m, {}, PROMPTS, RIGHT, LIST, GRID)
    with pytest.raises(ins.InputError, match="measure='loss'"):
        swept().best(measure="loss")
    with pytest.raises(ins.InputError, match="no curve is called 'mine'"):
        swept().best("mine")
    with pytest.raises(ins.InputError, match="kl_budget=0"):
        swept().best(kl_budget=0.0)
    never = beside_random(m, {"it": D}, PROMPTS[:2], RIGHT[:2], LIST, 1e3, n=1)
    assert never.strengths["it"] != never.strengths["it"]
    assert never.change("it") != never.change("it")
    assert never.rank("it") == 2
    with pytest.raises(ins.InputError, match="no vector is called 'that'; there are it"):
        never.change("that")
    with pytest.raises(ins.InputError, match="a KL above 0"):
        beside_random(m, {"it": D}, PROMPTS, RIGHT, LIST, 0.0)


def test_a_search_ends_within_the_budget_or_says_that_it_cannot():
    assert 0.98 * 2 <= search_strength(lambda s: s**2, 2.0) ** 2 <= 2
    with pytest.raises(ins.NotConvergedError, match="did not reach 2 nats"):
        search_strength(lambda s: s / (1 + s), 2.0)
