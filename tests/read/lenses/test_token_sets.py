"""Token sets of words, and their mass in the lens where the truth is planted."""

import pytest
import torch

import inscape as ins
from inscape.core.errors import TokenError
from inscape.models.toy.words import word_tokenizer
from inscape.read.lenses.token_set import overlaps, token_set, word_sets
from inscape.read.lenses.token_set_lens import _high, token_set_lens
from tests.common.small import gpt2
from tests.common.tokenizers import byte_tokenizer
from tests.common.zoo import build, inputs_for
from tests.read.planted import silent_gpt2

ROWS = [[1, 5, 9, 13, 17, 21], [2, 6, 10]]


class Pieces:
    """A tokenizer of SentencePiece as far as sets need one."""

    def __init__(self, *names: str) -> None:
        self.names = ["<unk>", "▁a", *names]

    def convert_tokens_to_ids(self, name: str) -> int:
        return self.names.index(name) if name in self.names else 0

    def convert_ids_to_tokens(self, i: int) -> str:
        return self.names[i]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.names[i] for i in ids)

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [0]}

    def said(self, ids: tuple[int, ...]) -> set[str]:
        return {self.names[i] for i in ids}


def test_every_beginning_with_and_without_the_space_counts_but_single_latin_letters() -> None:
    t = Pieces("f", "▁f", "fl", "▁fleur", "fleur", "leur", "花", "▁花", "<0xE8>", "<0xE7>")
    assert t.said(token_set(t, "fleur")) == {"fl", "▁fleur", "fleur"}
    assert t.said(token_set(t, "fleur", prefixes=False)) == {"▁fleur", "fleur"}
    assert t.said(token_set(t, "fleur", space_variants=False)) == {"fl", "fleur"}
    assert t.said(token_set(t, "花瓶")) == {"花", "▁花"}
    assert t.said(token_set(t, "狗花")) == {"<0xE7>"}  # the first character has no token: its first byte
    assert t.said(token_set(t, ["f", "花"])) == {"f", "▁f", "花", "▁花"}  # a word of one letter is that word
    with pytest.raises(TokenError, match="no token begins '狗'"):
        token_set(t, "狗", bytes=False)
    with pytest.raises(ins.InputError, match="is no word"):
        token_set(t, " ")


def test_tokenizers_of_bytes_and_of_words_are_known() -> None:
    t = byte_tokenizer()
    assert {t.convert_ids_to_tokens(i) for i in token_set(t, "狗")} == {"ç"}  # its first byte, E7
    words = word_tokenizer(["perro", "chien"])
    assert words.convert_ids_to_tokens(list(token_set(words, "chien"))) == ["chien"]


def test_words_that_share_a_token_are_left_out_with_the_reason() -> None:
    t = Pieces("ra", "▁radio", "rad", "▁roda", "chat", "Katze")
    made = word_sets(t, {"radio": {"fr": "radio", "de": "rad"}, "cat": {"fr": "chat", "de": "Katze"},
                         "dog": {"fr": "xyz", "de": "uvw"}, "car": {"fr": "▁roda", "de": "Katze"}})  # fmt: skip
    assert list(made.sets) == ["cat"] or "radio" in made.dropped
    assert "share" in made.dropped["radio"]
    assert "no token begins" in made.dropped["dog"]
    assert overlaps({"x": (1, 2, 3), "y": (3, 4), "z": (5,)}) == {("x", "y"): (3,)}
    with pytest.raises(TokenError, match="1 of 2 concepts can be told apart"):
        word_sets(t, {"radio": {"fr": "radio", "de": "rad"}, "cat": {"fr": "chat", "de": "Katze"}})
    with pytest.raises(ins.InputError, match="same labels"):
        word_sets(t, {"a": {"fr": "chat"}, "b": {"de": "Katze"}})


def test_masses_are_sums_of_the_models_own_probabilities() -> None:
    model = gpt2()
    sets = {"low": [3, 4, 5], "each": [[7, 8], [9]]}
    read = token_set_lens(model, ROWS, sets, at="all", n_random=5)
    p = ins.run(model, ROWS).output.logits.softmax(-1)
    real = read.mask
    torch.testing.assert_close(read["low"][-1][real], p[..., [3, 4, 5]].sum(-1)[real])
    torch.testing.assert_close(read["each"][-1, 0][real[0]], p[0, :, [7, 8]].sum(-1)[real[0]])
    torch.testing.assert_close(read["each"][-1, 1][real[1]], p[1, :, 9][real[1]])
    best = p[..., [3, 4, 5]].amax(-1)
    assert torch.equal(read.rank[0, -1][real], ((p > best[..., None]).sum(-1) + 1)[real])
    assert read.swapped is not None
    torch.testing.assert_close(read.swapped[1, -1, 0][real[0]], p[0, :, 9][real[0]])  # the other prompt's set
    last = token_set_lens(model, ROWS, sets)
    torch.testing.assert_close(last.mass[:, :, 0, 0], read.mass[:, :, 0, 5])
    torch.testing.assert_close(last.mass[:, :, 1, 0], read.mass[:, :, 1][..., real[1]][..., -1])
    torch.testing.assert_close(last.entropy[:, 0, 0], read.entropy[:, 0, 5])
    assert last.interval().value.shape == (2, 3)


def test_random_sets_have_their_share_of_the_vocabulary_and_a_planted_set_has_all() -> None:
    """The last layer writes the unembedding of tokens 3 and 4, strongly; random sets must find nothing."""
    module = silent_gpt2().module
    target = module.transformer.wte.weight[[3, 4]].sum(0).detach()
    model = silent_gpt2({1: 50 * (target - target.mean())})
    read = token_set_lens(model, [[1, 5, 9]] * 2, {"planted": [3, 4], "other": [[7], [8]]}, n_random=200)
    assert float(read["planted"][1:].min()) > 0.99
    assert bool((read.rank[0, 1:] <= 2).all())
    assert float(read["planted"][0].max()) < 0.2  # before the layer writes it
    assert float(read.random[:, 1:].max()) < 0.01
    assert float(read.rank_p[0, 1:].max()) < 0.1
    uniform = silent_gpt2()
    with torch.no_grad():
        uniform.module.transformer.ln_f.weight.zero_()
    even = token_set_lens(uniform, [[1, 5, 9]], {"x": [3, 4], "y": [7]}, n_random=10)
    torch.testing.assert_close(even.random[:, :, 0, 0], torch.tensor([[2 / 64], [1 / 64]]).expand(2, 3))
    torch.testing.assert_close(even.mass, even.random)


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "cohere", "granite", "llama", "bert", "roberta"])
def test_every_head_is_read_with_its_own_rules(name: str) -> None:
    model, inputs = ins.open(build(name)), inputs_for(name)
    read = token_set_lens(model, inputs, {"low": [3, 4, 5]}, at="all", n_random=3)
    p = ins.run(model, inputs).output.logits.softmax(-1)[..., [3, 4, 5]].sum(-1)
    torch.testing.assert_close(read["low"][-1][read.mask], p[read.mask], atol=1e-5, rtol=1e-3)
    assert "head" in read.how


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        ({}, "no token sets"),
        ({"a": []}, "holds no token"),
        ({"a": [99]}, "the id 99, of 64"),
        ({"a": [[1], [2], [3]]}, "3 lists for 2 prompts"),
        ({"a": [1, 2], "b": [2, 3]}, r"share tokens \(\[2\]\)"),
    ],
)
def test_sets_that_say_nothing_are_refused(sets: dict, says: str) -> None:
    with pytest.raises(ins.InputError, match=says):
        token_set_lens(gpt2(), ROWS, sets)


def test_an_unknown_set_and_an_interval_over_positions_are_refused() -> None:
    read = token_set_lens(gpt2(), ROWS, {"a": [1]}, at="all", n_random=2)
    with pytest.raises(ins.InputError, match="there are a"):
        read["b"]
    with pytest.raises(ins.InputError, match="at=-1"):
        read.interval()


def test_another_random_set_passes_random_high_in_at_most_5_of_100_cases() -> None:
    model, g = silent_gpt2(), torch.Generator().manual_seed(0)
    passed = []
    for seed in range(150):
        drawn = torch.randperm(60, generator=g)[:3] + 4
        read = token_set_lens(model, [[1 + seed % 3, 5]], {"a": drawn.tolist()}, n_random=19, seed=seed)
        high, sets = float(read.random_high[0, 0, 0, 0]), float(read.random[0, 0, 0, 0])
        assert high >= sets
        passed.append(float(read.mass[0, 0, 0, 0]) > high)
    assert sum(passed) <= 15
    assert _high(torch.arange(40.0)) == 38
    assert _high(torch.arange(19.0)) == 18
    assert _high(torch.tensor([3.0])) == 3
