"""Small tokenizers built here: whole words, single bytes, one without offsets, one that knows every word."""

import re
from collections.abc import Sequence

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

SPECIAL = ("<unk>", "<bos>", "<eos>", "<pad>")
SPLIT = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()])


def words_of(*texts: str) -> tuple[str, ...]:
    """Every word and sign of these texts once, in the order they come."""
    return tuple(dict.fromkeys(word for text in texts for word, _ in SPLIT.pre_tokenize_str(text)))


def word_tokenizer(
    words: Sequence[str], *, bos: bool = True, eos: bool = False
) -> transformers.PreTrainedTokenizerFast:
    """One token a word or sign; unknown words become <unk>. bos, eos: put before and after every text."""
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate((*SPECIAL, *words))}, unk_token="<unk>"))
    raw.pre_tokenizer = SPLIT
    if bos or eos:
        pattern = " ".join(["<bos>"] * bos + ["$A"] + ["<eos>"] * eos)
        raw.post_processor = processors.TemplateProcessing(single=pattern, special_tokens=[("<bos>", 1), ("<eos>", 2)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )


def byte_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """One token a byte, so that no word is one token; as GPT-2's without its merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({c: i for i, c in enumerate(("<end>", *alphabet))}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<end>", eos_token="<end>", pad_token="<end>"
    )


class SlowWords(transformers.PreTrainedTokenizer):
    """The same words in plain Python: it gives no offsets. `fold` makes it spell every text in capitals."""

    def __init__(self, words: Sequence[str], fold: bool = False) -> None:
        self.words = [*SPECIAL, *words]
        self.fold = fold
        super().__init__(unk_token="<unk>", bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")

    @property
    def vocab_size(self) -> int:
        return len(self.words)

    def get_vocab(self) -> dict[str, int]:
        return {w: i for i, w in enumerate(self.words)}

    def _tokenize(self, text: str) -> list[str]:
        return [word for word, _ in SPLIT.pre_tokenize_str(text)]

    def _convert_token_to_id(self, token: str) -> int:
        return self.words.index(token) if token in self.words else 0

    def _convert_id_to_token(self, index: int) -> str:
        return "#" if self.fold and index >= len(SPECIAL) else self.words[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return " ".join(tokens)

    def build_inputs_with_special_tokens(self, ids: list[int], more: list[int] | None = None) -> list[int]:
        return [1, *ids, *(more or [])]


class OpenWords:
    """One token a word or sign, whatever comes: words get their id when first seen. No more than tasks ask for.

    `is_fast`: with offsets or without. Digits stay together, so that every number is one token.
    """

    all_special_ids = (0,)

    def __init__(self, words: Sequence[str] = (), *, is_fast: bool = True) -> None:
        self.known = {w: i for i, w in enumerate(("<bos>", *words))}
        self.words = list(self.known)
        self.is_fast = is_fast

    def __call__(self, text: str, *, add_special_tokens: bool = True, return_offsets_mapping: bool = False) -> dict:
        found = [(0, 0)] * add_special_tokens + [m.span() for m in re.finditer(r"\w+|[^\w\s]", text)]
        ids = [self.known.setdefault(text[a:b], len(self.known)) if b else 0 for a, b in found]
        self.words += list(self.known)[len(self.words) :] if len(self.known) > len(self.words) else []
        return {"input_ids": ids} | ({"offset_mapping": found} if return_offsets_mapping else {})

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(self.words[i] for i in ids)

    def get_vocab(self) -> dict[str, int]:
        return dict(self.known)
