"""A saved model that commands open."""

import pytest
import tokenizers
import transformers

from tests.common.small import gpt2_module


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """A saved tiny GPT-2 with a tokenizer of one word a token."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    gpt2_module().save_pretrained(path)
    words = {"<pad>": 0, "<s>": 1, **{f"w{i}": i for i in range(2, 64)}}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<s>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>").save_pretrained(path)
    return str(path)
