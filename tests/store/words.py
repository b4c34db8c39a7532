"""A tokenizer of words for tests: no special tokens unless asked for, so that an empty text has no token at all."""

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = [
    "<pad>",
    "<s>",
    "</s>",
    "?",
    "the",
    "ferry",
    "leaves",
    "at",
    "seven",
    "nobody",
    "minds",
    "user",
    "assistant",
    ":",
]
TEMPLATE = (
    "{% for m in messages %}{{ m.role }} : {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


def tokenizer(*, ends: bool = False, starts: bool = False) -> transformers.PreTrainedTokenizerFast:
    """ends: texts are closed by </s> (T5). starts: opened by <s>, too (BART)."""
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if ends or starts:
        around = f"{'<s> ' if starts else ''}$A </s>"
        inner.post_processor = processors.TemplateProcessing(single=around, special_tokens=[("<s>", 1), ("</s>", 2)])
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="?", pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    made.chat_template = TEMPLATE
    return made
