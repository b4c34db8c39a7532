"""The report's section on concepts: three curves with their controls, or a reason."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import inscape as ins
from inscape.models.toy.words import SPECIAL, word_tokenizer
from inscape.reports.material import gather
from inscape.reports.sections import concepts
from tests.common.zoo import build

pytest.importorskip("altair")


def _reader(words: tuple[str, ...]) -> ins.Model:
    """A small net with random weights that knows these words."""
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    return ins.open(LlamaForCausalLM(config).eval(), tokenizer=word_tokenizer(words, split="spaces", max_length=64))


def test_a_model_with_random_weights_is_not_shown_to_know_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concepts, "N", 40)
    words = sorted({w for make in concepts.CONCEPTS.values() for text in make(40, seed=0).texts for w in text.split()})
    model = _reader(tuple(words))
    made = concepts.section(model, gather(model, [list(range(3, 20))]))
    assert made.skipped is None
    assert len(made.figures) == len(concepts.CONCEPTS)
    for figure in made.figures:
        assert "shuffled labels" in figure.control
        assert "counts of words" in figure.control
        assert figure.call
        assert "not shown to be known" in figure.caption


def test_models_without_such_texts_say_why() -> None:
    vit = ins.open(build("vit"))
    assert "reads none" in str(concepts.section(vit, gather(vit)).skipped)
    other = _reader(tuple("abcdefgh"))
    assert "does not know the words" in str(concepts.section(other, gather(other, [[3, 4, 5, 6]])).skipped)
