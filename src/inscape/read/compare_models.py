"""What did tuning change inside? The same tests on a model and its descendant, and on models that share nothing."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from inscape.core.errors import InputError
from inscape.core.interval import Interval
from inscape.core.progress import Progress, tell
from inscape.models.model import Model
from inscape.models.open import open as open_model

Test = Callable[[Model, Model], Mapping[str, float | Interval]]


@dataclass(frozen=True)
class ModelsCompared:
    """Numbers of every test, by the second model: "tuned", and the controls.

    numbers: second model -> test -> number -> value; an `Interval` where the test gives one.
    """

    numbers: Mapping[str, Mapping[str, Mapping[str, float | Interval]]]

    @property
    def table(self) -> list[dict[str, Any]]:
        """One row a number, one column a second model."""
        first = next(iter(self.numbers.values()))
        return [
            {"test": test, "number": name} | {who: float(found[test][name]) for who, found in self.numbers.items()}
            for test, values in first.items()
            for name in values
        ]

    def __getitem__(self, test: str) -> Mapping[str, float | Interval]:
        """The numbers of a test for the model and its descendant."""
        found = next(iter(self.numbers.values()))
        if test not in found:
            raise InputError(f"there was no test {test!r}; there were {', '.join(found)}.")
        return found[test]

    def __str__(self) -> str:
        who = list(self.numbers)
        rows = [["", *who], *([f"{r['test']}: {r['number']}", *(_said(r[w]) for w in who)] for r in self.table)]
        wide = [max(len(row[i]) for row in rows) for i in range(len(who) + 1)]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, wide, strict=True)).rstrip() for row in rows)


def compare_models(
    base: Model,
    tuned: Model,
    tests: Mapping[str, Test],
    others: Mapping[str, Model] | None = None,
    *,
    shuffled: bool = True,
    seed: int = 0,
    progress: Progress = None,
) -> ModelsCompared:
    """Every test on (base, tuned), and the same on (base, a model that is no descendant of it).

    Two models that learned the same may look alike inside without one coming from the other, and numbers of places and
    neurons agree by chance: only what is clearly higher for the descendant says that tuning kept it.

    tests: name -> a function of two models that gives named numbers: `same_places(pairs)` of `circuits.patch_map`,
    `same_direction(texts, labels, site)` of `read.probes.direction_transfer`, `same_neurons()` of
    `circuits.weights.entropy_neurons`, or your own. others: name -> a control, best the same training from another
    seed. shuffled: also the tuned model with the numbers of each weight matrix in another order, which keeps their
    sizes and nothing else ("shuffled weights").
    Cost: the tests, (1 + controls) times; a copy of the tuned model for `shuffled`.
    Raises: InputError without tests or for a name that is taken; what the tests raise, with the test's name.
    Source: the comparison is that of Du et al. 2025, arXiv:2504.02904; the controls are ours.
    """
    if not tests:
        raise InputError(
            "compare_models needs at least one test, such as\n"
            "  tests={'places': same_places(pairs), 'neurons': same_neurons()}."
        )
    controls = dict(others or {})
    taken = {"tuned", "shuffled weights"} & controls.keys()
    if taken:
        raise InputError(f"a control is called {taken.pop()!r}, which has its meaning here; call it otherwise.")
    second = {"tuned": tuned, **controls}
    if shuffled:
        second["shuffled weights"] = shuffled_weights(tuned, seed)
    numbers: dict[str, dict[str, Mapping[str, float | Interval]]] = {}
    for i, (who, model) in enumerate(second.items()):
        for j, (name, test) in enumerate(tests.items()):
            tell(progress, f"{name}, {who}", (i + j / len(tests)) / len(second))
            numbers.setdefault(who, {})[name] = dict(test(base, model))
    return ModelsCompared(numbers)


def shuffled_weights(model: Model, seed: int = 0) -> Model:
    """A copy in which the numbers of every weight matrix stand in another order; norms and biases stay as they are.

    Sizes, and so the spread of what comes out of each layer, stay near the original's; all that was learned is gone.
    Cost: a second copy of the model in memory.
    """
    module, generator = copy.deepcopy(model.module), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            if weight.ndim > 1:
                flat = weight.detach().cpu().flatten()
                order = torch.randperm(flat.numel(), generator=generator)
                weight.copy_(flat[order].reshape(weight.shape).to(weight))
    return open_model(module, tokenizer=model.tokenizer)


def _said(value: float) -> str:
    """Three decimals; large numbers without, as the last of seven digits differ from machine to machine."""
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
