"""Re-entering a model in the middle: the blocks' own arguments, caught in one ordinary forward and used again.

transformers hands every block the stream first, and beside it what depends on the columns alone: positions, rotary
tables, masks. Caught once, these serve any number of edited streams, cut to the columns and rows that are run.
Where a block takes more than that (caches, boxes shared between layers, another stack's states) this says so.
"""

import contextlib
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from inscape.engine.forward import eager, one_call
from inscape.engine.inputs import Inputs
from inscape.engine.session import Stop
from inscape.models.model import Model


class CannotReenter(Exception):
    """Why the blocks of this model cannot be called one by one; only ever a reason to go another way."""


@dataclass(eq=False)
class Blocks:
    """What every block of the main stack received in one run of `n_rows` rows of `n_columns`.

    streams: layer -> what entered it, the last entry what left the last block; only those in `kept`.
    args, kwargs: layer by layer, without the stream.
    """

    modules: list[nn.Module]
    n_rows: int
    n_columns: int
    args: list[tuple[Any, ...]] = field(default_factory=list)
    kwargs: list[dict[str, Any]] = field(default_factory=list)
    streams: dict[int, Tensor] = field(default_factory=dict)

    def run(self, layer: int, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """One block on a stream."""
        out = self.modules[layer](x, *args, **kwargs)
        return out if isinstance(out, Tensor) else out[0]


def catch(model: Model, prepared: Inputs, keep: Callable[[int], bool]) -> Blocks:
    """Run the model once up to its last block, and keep what the blocks are given.

    keep: which layers' streams; the number of layers means what leaves the last one.
    Raises: CannotReenter with the reason.
    """
    modules = [block.module for block in model.blocks]
    if not modules:
        raise CannotReenter("the model has no repeated blocks")
    numbers = {module: i for i, module in enumerate(modules)}
    if len(numbers) != len(modules):
        raise CannotReenter("its layers share one block")
    caught = Blocks(modules, 0, 0)
    seen: list[Tensor] = []
    owner = threading.get_ident()
    problem: list[str] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != owner:
            return
        layer = numbers[module]
        if not args or not isinstance(args[0], Tensor) or args[0].ndim != 3 or layer != len(caught.args):
            problem.append("its blocks are not called in turn with the stream first")
            raise Stop
        if layer and args[0] is not seen[-1]:
            problem.append("something happens to the stream between its blocks")
            raise Stop
        if keep(layer):
            caught.streams[layer] = args[0]
        rest, named = _named(module, args[1:])
        caught.args.append(rest)
        caught.kwargs.append(named | kwargs)

    def after(module: nn.Module, args: Any, out: Any) -> None:
        if threading.get_ident() != owner:
            return
        x = out if isinstance(out, Tensor) else out[0]
        seen.append(x)
        del seen[:-1]
        if numbers[module] == len(modules) - 1:
            if keep(len(modules)):
                caught.streams[len(modules)] = x
            raise Stop

    one_call(model, prepared)
    handles = [m.register_forward_pre_hook(before, with_kwargs=True) for m in modules]
    handles += [m.register_forward_hook(after) for m in modules]
    try:
        with torch.no_grad(), eager(model, True), contextlib.suppress(Stop):
            model.module(*prepared.args, **prepared.kwargs)
    finally:
        for handle in handles:
            handle.remove()
    if problem:
        raise CannotReenter(problem[0])
    if len(caught.args) != len(modules) or not caught.streams:
        raise CannotReenter("not every block ran")
    for layer, (args, kwargs) in enumerate(zip(caught.args, caught.kwargs, strict=True)):
        _check(layer, args, kwargs)
    caught.n_rows, caught.n_columns = next(iter(caught.streams.values())).shape[:2]
    return caught


def _named(module: nn.Module, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional arguments by their names, as GPT-2 hands over its mask; as they are where they have none."""
    plain = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = [p.name for p in inspect.signature(module.forward).parameters.values() if p.kind is plain][1:]
    return ((), dict(zip(names, args, strict=False))) if len(names) >= len(args) else (args, {})


def _check(layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Only what depends on columns and rows may stand beside the stream."""
    for name, value in [*enumerate(args), *kwargs.items()]:
        if str(name).startswith("encoder"):
            if value is not None:
                raise CannotReenter("its blocks also read another stack")
        elif not _plain(value):
            raise CannotReenter(f"block {layer} is given {type(value).__name__} as {name}")


def _plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_plain(v) for v in value)
    return value is None or isinstance(value, (Tensor, bool, int, float, str))
