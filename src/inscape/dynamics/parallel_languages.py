"""Small nets that read and translate made-up languages, in any mixture: which language do they think in?"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.extra import package
from inscape.core.progress import Progress
from inscape.models.model import Model
from inscape.models.open import open as open_model
from inscape.tasks.parallel_languages import ParallelLanguages
from inscape.train import cosine, fit
from inscape.train.losses import next_token


def train_on_languages(
    languages: ParallelLanguages,
    shares: Sequence[float],
    *,
    lists: float = 0.4,
    steps: int = 500,
    rows: int = 96,
    width: int = 64,
    layers: int = 4,
    seed: int = 0,
    progress: Progress = None,
) -> tuple[Model, float]:
    """A net trained on texts with these shares of the languages, and its share of right translations.

    lists: share of rows that are lists of translations, between all pairs of languages equally often whatever `shares`:
    nets of different mixtures have seen equally many translations. Llama's architecture with tied embeddings.
    Cost: about a minute on one core as it stands.
    """
    transformers = package("transformers", "hf", "training a small net")
    tokenizer = languages.tokenizer
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=4, max_position_embeddings=64, tie_word_embeddings=True, pad_token_id=0, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = transformers.LlamaForCausalLM(config)

    def batch(step: int) -> Any:
        g = torch.Generator().manual_seed((seed << 32) + step)
        n = round(lists * rows)
        listed, texts = languages.lists(n, g)[0], languages.texts(rows - n, shares, g)
        room = max(listed.shape[1], texts.shape[1])
        both = [torch.nn.functional.pad(x, (0, room - x.shape[1])) for x in (listed, texts)]
        ids = torch.cat(both)
        return {"input_ids": ids, "attention_mask": (ids != 0).long()}

    fit(
        module, batch, next_token, steps=steps, lr=4e-3, schedule=cosine, warmup=30,
        optimizer=partial(torch.optim.AdamW, weight_decay=0.1, betas=(0.9, 0.98)), seed=seed, progress=progress,
    )  # fmt: skip
    model = open_model(module.eval(), tokenizer=tokenizer)
    return model, translated(model, languages)


def translated(model: Model, languages: ParallelLanguages, n: int = 40) -> float:
    """Share of right words over all pairs of languages, at the end of lists."""
    right: list[Float[Tensor, " n"]] = []
    for source in languages.names:
        for target in languages.names:
            if source != target:
                rows, asked = languages.prompts(n, source, target, seed=99)
                with torch.no_grad():
                    said = model.module(rows).logits[:, -1].argmax(-1)
                right.append((said == languages.ids(target, asked)).float())
    return float(torch.cat(right).mean())
