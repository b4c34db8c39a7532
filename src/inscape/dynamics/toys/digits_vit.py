"""toy-digits-vit: a six-layer vision transformer learns to read handwritten digits of 8 x 8 pixels.

Sixteen patches of 2 x 2 and a class token; the class is read from that token alone. Trained on 1,437 digits that are
moved by up to one pixel and have a little noise, as there are few. Source of the shape: Dosovitskiy et al. 2021,
arXiv:2010.11929.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inscape.core.extra import package
from inscape.core.progress import Progress
from inscape.dynamics.toys.making import Check, Trained
from inscape.engine.forward import run
from inscape.models.model import Model
from inscape.tasks.digits import Images, digits
from inscape.train import cosine, fit

BATCH = 64


def train(seed: int = 0, *, steps: int = 1600, checkpoint: Path | None = None, progress: Progress = None) -> Trained:
    """Train it: some minutes on one core."""
    transformers = package("transformers", "hf", "training a toy net")
    config = transformers.ViTConfig(
        image_size=8, patch_size=2, num_channels=1, hidden_size=96, num_hidden_layers=6, num_attention_heads=4,
        intermediate_size=384, num_labels=10, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = transformers.ViTForImageClassification(config)
    history = fit(
        module, partial(moved, digits("train"), seed=seed), _loss, steps=steps, lr=1e-3, schedule=cosine, warmup=100,
        optimizer=partial(torch.optim.AdamW, weight_decay=0.05), seed=seed, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    return Trained(module.eval(), None, history, store_as=torch.float16)


def moved(images: Images, step: int, *, seed: int) -> dict[str, Tensor]:
    """A batch, each digit moved by up to a pixel either way, with noise of a twentieth of the scale."""
    generator = torch.Generator().manual_seed((seed << 32) + step)
    which = torch.randint(len(images), (BATCH,), generator=generator)
    wide = nn.functional.pad(images.pixels[which], (1, 1, 1, 1), value=-1.0)
    down, right = torch.randint(0, 3, (2, BATCH), generator=generator).tolist()
    cut = torch.stack([x[:, i : i + 8, j : j + 8] for x, i, j in zip(wide, down, right, strict=True)])
    cut = cut + 0.1 * torch.randn(cut.shape, generator=generator)
    return {"pixel_values": cut, "labels": images.labels[which]}


def _loss(module: Any, batch: dict[str, Tensor]) -> Tensor:
    logits = module(pixel_values=batch["pixel_values"]).logits
    return nn.functional.cross_entropy(logits, batch["labels"], label_smoothing=0.05)


def check(model: Model) -> dict[str, Check]:
    """Accuracy on the held-out digits, and on the same with their patches in another order."""
    test = digits("test")
    order = torch.randperm(16, generator=torch.Generator().manual_seed(12345))
    patches = nn.functional.unfold(test.pixels, 2, stride=2)[:, :, order]
    mixed = nn.functional.fold(patches, (8, 8), 2, stride=2)
    return {
        "accuracy": Check(_accuracy(model, test.pixels, test.labels), at_least=0.95),
        "accuracy_shuffled": Check(_accuracy(model, mixed, test.labels), at_most=0.3),
    }


def _accuracy(model: Model, pixels: Tensor, labels: Tensor) -> float:
    logits: Any = run(model, {"pixel_values": pixels}, output=True).output
    return float((logits.logits.argmax(-1) == labels).float().mean())
