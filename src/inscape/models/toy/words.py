"""Tokenizers of toy nets: one token a word (or a character), from a list."""

from collections.abc import Iterable
from typing import Any

from inscape.core.errors import InputError
from inscape.core.extra import package

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")  # ids 0 to 3 in every toy


def word_tokenizer(words: Iterable[str], *, split: str = "words", bos: bool = True, max_length: int = 256) -> Any:
    """A transformers tokenizer whose tokens are `SPECIAL` and these words, in this order.

    split: where a text is cut: "words" (words and signs), "spaces" (only there, so that `t+1` can be a word) or
    "characters" (every one, spaces included). bos: does a text begin with `<bos>`? Unknown words become `<unk>`.
    Raises: InputError for a word that comes twice, MissingExtraError without the extra `hf`.
    """
    tokenizers = package("tokenizers", "hf", "the tokenizer of a toy net")
    transformers = package("transformers", "hf", "the tokenizer of a toy net")
    every = [*SPECIAL, *words]
    twice = sorted({w for w in every if every.count(w) > 1})
    if twice:
        raise InputError(f"{twice[0]!r} is in the list of words twice; every token stands for one word.")
    pre = tokenizers.pre_tokenizers
    cuts = {
        "words": pre.Whitespace,
        "spaces": pre.WhitespaceSplit,
        "characters": lambda: pre.Split(tokenizers.Regex(r"[\s\S]"), "isolated"),
    }
    if split not in cuts:
        raise InputError(f"split={split!r}: a text is cut at {', '.join(map(repr, cuts))}.")
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(every)}, unk_token="<unk>"))
    inner.pre_tokenizer = cuts[split]()
    if split == "characters":
        inner.decoder = tokenizers.decoders.Fuse()
    if bos:
        inner.post_processor = tokenizers.processors.TemplateProcessing(
            single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", 1)]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def piece_tokenizer(texts: Iterable[str], n_vocab: int, *, max_length: int = 1 << 30) -> Any:
    """A transformers tokenizer of `n_vocab` pieces of words, learned from texts: byte-level pairs, in any order alike.

    For nets that read running text. Every text has an encoding; texts begin with `<bos>`. Cost: seconds a megabyte.
    Raises: InputError for fewer than 300 pieces (256 are single bytes), MissingExtraError without the extra `hf`.
    """
    tokenizers = package("tokenizers", "hf", "the tokenizer of a toy net")
    transformers = package("transformers", "hf", "the tokenizer of a toy net")
    if n_vocab < 300:
        raise InputError(f"n_vocab={n_vocab}: single bytes alone are 256, and {len(SPECIAL)} are special; take 300.")
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=n_vocab, special_tokens=list(SPECIAL), show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    inner.train_from_iterator(texts, trainer)
    inner.post_processor = tokenizers.processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        model_max_length=max_length, clean_up_tokenization_spaces=False,
    )  # fmt: skip
