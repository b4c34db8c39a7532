"""The head atlas: planted heads are found, random weights are not, and what a model does not allow says why."""

import pytest
import torch

import inscape as ins
from inscape.circuits.direct import direct_logits
from inscape.circuits.heads import KINDS, head_atlas
from inscape.circuits.heads.measured import all_of, beside
from inscape.circuits.heads.naming import excess_at_the_end, indirect_effect
from inscape.circuits.heads.probes import Probes
from inscape.core.nulls import sign_flip_test, sign_flipped
from inscape.tasks.name_order import name_order
from inscape.tasks.pairs import Pairs
from tests.common.zoo import build
from tests.read.planted import even_gpt2, positional_gpt2

LOOKS = ["previous", "duplicate", "prefix", "sink"]


def test_a_planted_previous_token_head_is_found_and_is_no_other() -> None:
    made = head_atlas(positional_gpt2(1), kinds=LOOKS, length=8, draws=200)
    assert made.heads("previous")[0][:2] == ("layers.0", 0)
    assert made.kinds(0, 0) == ["previous"]


def test_a_head_that_goes_by_position_is_no_prefix_matching_head() -> None:
    made = head_atlas(positional_gpt2(7), kinds=["prefix"], length=8, draws=200)  # L - 1 back, whatever stands there
    assert float(made.of("prefix").score[0, 0]) > 0.95
    assert made.heads("prefix") == []


def test_even_attention_is_at_chance_and_of_no_kind() -> None:
    made = head_atlas(even_gpt2(), kinds=LOOKS, length=8, draws=200)
    for kind in LOOKS:
        torch.testing.assert_close(made.of(kind).score, torch.full((2, 4), made.of(kind).chance), rtol=0, atol=2e-3)
        assert made.heads(kind) == [], kind


def test_the_induction_net_has_its_induction_head_and_its_previous_token_head() -> None:
    made = head_atlas(ins.open("toy-induction"), draws=300)
    (layer, _, score, p), *_ = made.heads("induction")
    assert layer == "layers.1"
    assert score > 0.5 > float(made.of("induction").line[1, 0])
    assert p < 0.01
    assert made.top("previous", 1)[0][0] == "layers.0"
    assert set(made.of("induction").parts) == {"prefix matching", "copying"}
    assert "induction" in repr(made)


def test_the_net_of_successions_has_its_successor_head() -> None:
    made = head_atlas(ins.open("toy-succession"), kinds=["successor", "copying"], draws=300)
    (layer, head, score, p), *_ = made.heads("successor")
    assert layer == "layers.1"
    assert score > 2 * float(made.of("successor").line.max())
    assert p < 0.01
    assert "copying" not in made.kinds(layer, head)


def test_pairs_of_ones_own_find_movers_with_the_sign_they_have() -> None:
    model = ins.open("toy-name-order")
    pairs = name_order(model, 16, seed=0)
    made = head_atlas(model, kinds=["mover", "negative mover"], pairs=pairs, roles=("first", "second"), draws=300)
    up, down = made.of("mover"), made.of("negative mover")
    torch.testing.assert_close(up.score, -down.score)
    assert up.notes[0].startswith("the model answers")


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3_text", "bloom", "falcon_h1", "deepseek_v3", "bert", "t5"])
def test_families_are_tried_for_what_they_allow(name: str) -> None:
    made = head_atlas(ins.open(build(name)), length=8, rows=4, draws=100)
    assert set(made.found) | set(made.skipped) == {kind.name for kind in KINDS}
    assert set(LOOKS) <= set(made.found)
    assert "tokenizer" in made.skipped["successor"]
    assert "tokenizer" in made.skipped["mover"] or "next token" in made.skipped["mover"]
    for kind, measured in made.found.items():
        assert measured.score.shape == measured.p.shape
        assert bool((measured.score.isnan() | (measured.p > 0)).all()), kind


def test_random_weights_have_no_copying_or_matching_heads() -> None:
    made = head_atlas(ins.open(build("llama")), kinds=["prefix", "copying", "induction"], draws=300)
    for kind in made.found:
        assert made.heads(kind, alpha=0.01) == [], kind


def test_a_kind_of_two_parts_needs_both() -> None:
    null = torch.linspace(0, 1, 99)[:, None, None].expand(99, 1, 2)
    one, other = beside(torch.tensor([[2.0, 2.0]]), null, "x"), beside(torch.tensor([[2.0, 0.5]]), null, "x")
    both = all_of(one, {"a": one, "b": other})
    torch.testing.assert_close(both.p, other.p)
    assert float(both.p[0, 0]) == pytest.approx(0.01)


def test_the_effect_through_later_heads_is_none_in_the_last_layer() -> None:
    model = ins.open("toy-name-order")
    probes = Probes(model, 8, 4, 50, 0, name_order(model, 6, seed=0), ("first", "second"))
    effect = indirect_effect(probes)
    assert float(effect[:, -1].abs().max()) < 1e-3
    assert float(effect[:, :-1].abs().max()) > 1e-2


def test_attention_beyond_other_tokens_is_that_of_the_patterns_row_by_row() -> None:
    model = ins.open("toy-name-order")
    pairs = name_order(model, 5, seed=0)
    found = excess_at_the_end(Probes(model, 8, 4, 50, 0, pairs, ("first", "second")), "first")
    for i, ids in enumerate(pairs.clean_ids):
        for layer in range(3):
            site = f"layers.{layer}.attn.pattern"
            line = ins.run(model, [list(ids)], read=site)[site][0, :, -1]
            at = int(pairs.roles["first"][i, 0])
            rest = [k for k in range(1, len(ids)) if k != at]
            torch.testing.assert_close(found[i, layer], line[:, at] - line[:, rest].mean(1))


def test_flipped_signs_of_many_members_are_those_of_one() -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double()
    null = sign_flipped(x, n=4000, seed=1)
    alone = sign_flip_test(x[:, 1], n=4000, seed=1)
    torch.testing.assert_close(null[:, 1], alone.null)
    torch.testing.assert_close(null.std(0), x.square().sum(0).sqrt() / 50, rtol=0.05, atol=0)


def test_requests_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ins.InputError, match=r"'singer'.*previous"):
        head_atlas(even_gpt2(), kinds=["singer"])
    with pytest.raises(ins.ModelError, match="no attention pattern"):
        head_atlas(ins.open(build("mamba")))
    model = ins.open("toy-name-order")
    with pytest.raises(ins.InputError, match="no role 'io'"):
        head_atlas(model, kinds=["mover"], pairs=name_order(model, 4, seed=0))
    made = head_atlas(even_gpt2(), kinds=["sink"], length=4, draws=20)
    with pytest.raises(ins.InputError, match="no kind of head is called 'singer'"):
        made.top("singer")
    with pytest.raises(ins.InputError, match="no head 9"):
        made.kinds(0, 9)
    with pytest.raises(ins.InputError, match="could not be measured here: "):
        head_atlas(even_gpt2(), kinds=["successor"], length=4, draws=20).of("successor")


@pytest.mark.parametrize("name", ["gpt2", "gemma3_text", "falcon_old", "falcon_new", "gpt_neox", "falcon_h1"])
def test_movers_are_tried_on_any_decoder_with_pairs_of_token_ids(name: str) -> None:
    model = ins.open(build(name))
    clean, corrupted = ((1, 9, 7, 12, 9, 5), (1, 8, 6, 12, 8, 5)), ((1, 30, 31, 12, 32, 5), (1, 33, 34, 12, 35, 5))
    pairs = Pairs(
        ("a", "b"), ("c", "d"), (" x", " y"), (" w", " z"), torch.tensor([7, 6]), torch.tensor([9, 8]),
        {"io": torch.tensor([[2], [2]]), "s2": torch.tensor([[4], [4]])}, 0.5, clean, corrupted,
    )  # fmt: skip
    made = head_atlas(model, kinds=["mover", "inhibition"], pairs=pairs, length=6, rows=2, draws=50)
    direct = direct_logits(model, [list(i) for i in clean], pairs.answer_ids, pairs.wrong_ids, control=None)
    torch.testing.assert_close(made.of("mover").score, direct.heads().mean(-1), equal_nan=True)
    assert float(made.of("inhibition").score[-1].abs().max()) < 1e-3
    assert made.heads("mover") == []  # two pairs can make nothing sure
