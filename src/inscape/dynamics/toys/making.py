"""From a training script to the files of a toy net: train, write, open as a user would, check, and only then keep."""

import dataclasses
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from inscape.core.durable import sync, written
from inscape.core.errors import InscapeError, ModelError
from inscape.core.extra import package
from inscape.core.progress import Progress, tell
from inscape.models.model import Model
from inscape.models.open import open as open_model
from inscape.models.toy.files import load_own
from inscape.models.toy.toy import ABOUT, Toy
from inscape.train import History
from inscape.train.losses import IGNORED


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """What a training script gives. store_as: the dtype in the file; the net is opened in its own."""

    module: nn.Module
    tokenizer: Any
    history: History
    store_as: torch.dtype | None = None


@dataclasses.dataclass(frozen=True)
class Check:
    """A number that was measured, and the bounds it has to keep."""

    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def holds(self) -> bool:
        above = self.at_least is None or self.value >= self.at_least
        return above and (self.at_most is None or self.value <= self.at_most)


class NotLearnedError(InscapeError, RuntimeError):
    """A toy net was trained and does not do what it is for."""


def make(
    toy: Toy,
    *,
    to: Path,
    seed: int = 0,
    steps: int | None = None,
    checkpoint: Path | None = None,
    progress: Progress = None,
) -> dict[str, Check]:
    """Train a toy, write it to the folder `to` (which is replaced), open it from there and check it.

    seed, steps: as the training script has them when not given. Raises: NotLearnedError when a check fails; the
    folder is then removed.
    """
    script = import_module(f"inscape.dynamics.toys.{toy.key}")
    given = {} if steps is None else {"steps": steps}
    trained = script.train(seed, checkpoint=checkpoint, progress=progress, **given)
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    _write(trained, to)
    tell(progress, f"checking {toy.name}", None)
    model = _opened(toy, to)
    found = script.check(model)
    if checkpoint is not None:  # it has served; one of a net that did not learn would be the end of every next attempt
        checkpoint.unlink(missing_ok=True)
    failed = [name for name, check in found.items() if not check.holds]
    if failed:
        shutil.rmtree(to)
        said = "; ".join(f"{name} is {found[name].value:.4g}, {_bounds(found[name])}" for name in failed)
        raise NotLearnedError(
            f"{toy.name!r} was trained for {trained.history.steps} steps and has not learned its task: {said}.\n"
            "  more steps or another seed may do; nothing was kept."
        )
    about = {
        "name": toy.name,
        "about": toy.about,
        "seed": seed,
        "steps": trained.history.steps,
        "loss": trained.history.loss[-1],
        "wall_s": round(trained.history.wall_s, 1),  # of the training, also over kills
        "parameters": sum(p.numel() for p in model.module.parameters()),
        "checks": {name: dataclasses.asdict(check) for name, check in found.items()},
        "fingerprint": model.fingerprint,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    with written(to / ABOUT) as file:
        file.write(json.dumps(about, indent=1).encode() + b"\n")
    sync(to.parent)
    return found


def _write(trained: Trained, to: Path) -> None:
    """The files of `save_pretrained`, with the weights in their stored dtype and the config saying the model's own."""
    module: Any = trained.module
    if hasattr(module, "save_pretrained"):
        module.config.save_pretrained(to)
    if trained.tokenizer is not None:
        trained.tokenizer.save_pretrained(to)
    from safetensors.torch import save_model

    dtype = next(p.dtype for p in module.parameters() if p.is_floating_point())
    if hasattr(module, "save_pretrained"):
        config = json.loads((to / "config.json").read_text(encoding="utf-8"))
        config |= {"architectures": [type(module).__name__], "dtype": str(dtype).removeprefix("torch.")}
        (to / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    module.to(trained.store_as or dtype)
    save_model(module, str(to / "model.safetensors"), metadata={"format": "pt"})
    module.to(dtype)
    for path in to.iterdir():  # safetensors writes files only their owner can read; a package is read by all
        path.chmod(0o644)


def _opened(toy: Toy, folder: Path) -> Model:
    if toy.build is not None:
        return open_model(load_own(toy, folder))
    return open_model(folder)


def _bounds(check: Check) -> str:
    bounds = (("at least", check.at_least), ("at most", check.at_most))
    return " and ".join(f"{word} {value:g} is asked for" for word, value in bounds if value is not None)


def toy_named(name: str, toys: tuple[Toy, ...]) -> Toy:
    """The toy of a name, with or without `toy-`. Raises: ModelError listing them."""
    found = next((toy for toy in toys if name in (toy.name, toy.key, toy.name.removeprefix("toy-"))), None)
    if found is None:
        raise ModelError(f"there is no toy {name!r}; there are {', '.join(toy.name for toy in toys)}.")
    return found


def small_llama(n_vocab: int, longest: int, seed: int) -> nn.Module:
    """An untrained Llama of four layers and width 128, with two embeddings of its own."""
    transformers = package("transformers", "hf", "training a toy net")
    config = transformers.LlamaConfig(
        vocab_size=n_vocab, hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=longest, tie_word_embeddings=False, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.LlamaForCausalLM(config)


def labelled_rows(
    made: Sequence[tuple[list[str], list[str]]], ids: Mapping[str, int]
) -> dict[str, Int[Tensor, "row pos"]]:
    """Words of what is asked and of what is said as one batch, labelled where something is said."""
    width = max(len(asked) + len(said) for asked, said in made)
    table, labels = torch.full((len(made), width), ids["<pad>"]), torch.full((len(made), width), IGNORED)
    for i, (asked, said) in enumerate(made):
        row = torch.tensor([ids[word] for word in (*asked, *said)])
        table[i, : len(row)], labels[i, len(asked) : len(row)] = row, row[len(asked) :]
    return {"input_ids": table, "labels": labels}  # padding is on the right and never labelled: it needs no mask
