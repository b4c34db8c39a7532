"""A direction between words, from the model's own embedding: no text is run."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.errors import InputError, ModelError, SiteError, TokenError
from inscape.engine.inputs import tokenizer_of
from inscape.engine.unembed import unembedding
from inscape.models.model import Model

Word = str | int


def token_direction(
    model: Model,
    words_a: Sequence[Word],
    words_b: Sequence[Word],
    *,
    of: str = "embed",
    site: str = "",
) -> Direction:
    """The unit vector from the words of one kind to those of another: mean row of a minus mean row of b.

    A baseline that needs no text and no forward: what the words themselves differ by. `fit_directions` says what the
    model makes of them in context.

    words: texts as the model meets them (" happy", with its space) or token ids; a word of several tokens counts as
    the mean of these. of: "embed", rows of the input embedding; "unembed", rows of the head, which push the scores of
    the words themselves. site: left out, "embed", or "final_norm" for the head: what the head reads. Elsewhere in the
    stream the same vector is a guess, and the final norm's weight stands between it and the head.
    Cost: the rows of the words. Raises: TokenError, InputError for no words or the same ones, ModelError, SiteError.
    """
    weight = _rows(model, of)
    a, b = (_mean(model, weight, words, name) for words, name in ((words_a, "words_a"), (words_b, "words_b")))
    vector = a - b
    if float(vector.norm()) <= 1e-7 * float(a.norm()):
        raise InputError(f"words_a and words_b have the same mean row of the {of}ding: nothing lies between them.")
    prefix = model.blocks[0].name.rsplit("layers.", 1)[0] if model.blocks else ""
    where = site or f"{prefix}{'embed' if of == 'embed' else 'final_norm'}"
    if where not in model.sites:
        raise SiteError(f"this model has no site {where!r}: say at which site the direction is to live, site=...")
    about = f"{of}ding of {_said(words_a)} minus {_said(words_b)}"
    return Direction(where, (vector / vector.norm()).float(), about, model.fingerprint)


def _said(words: Sequence[Word]) -> str:
    return ", ".join(str(w).strip() for w in words[:3]) + (", ..." if words[3:] else "")


def _rows(model: Model, of: str) -> Float[Tensor, "vocab d_model"]:
    if of not in ("embed", "unembed"):
        raise InputError(f"of={of!r}: it is 'embed' or 'unembed'.")
    if of == "embed":
        table = getattr(model.module, "get_input_embeddings", lambda: None)()
    else:
        table = unembedding(model).matrix
    weight = getattr(table, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        raise ModelError(
            f"{type(model.module).__name__} has no {'input embedding' if of == 'embed' else 'head'} of one row a token."
        )
    return weight.detach()


def _mean(model: Model, weight: Tensor, words: Sequence[Word], name: str) -> Float[Tensor, " d_model"]:
    if isinstance(words, str) or not isinstance(words, Sequence) or not len(words):
        raise InputError(f"{name} is a list of words or token ids, one at least; got {words!r}.")
    return torch.stack([weight[_ids(model, word, name, len(weight))].double().mean(0).cpu() for word in words]).mean(0)


def _ids(model: Model, word: Word, name: str, n_vocab: int) -> list[int]:
    if isinstance(word, str):
        ids = list(tokenizer_of(model)(word, add_special_tokens=False)["input_ids"])
    else:
        ids = [int(word)]
    if not ids:
        raise TokenError(f"{name}: {word!r} has no tokens.")
    if not all(0 <= i < n_vocab for i in ids):
        raise TokenError(f"{name}: {word!r} is token {ids}; the vocabulary has ids from 0 to {n_vocab - 1}.")
    return ids
