"""One model steers another: what a driver thinks of the text so far chooses the edits of the model that writes it."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.errors import EditError, InputError, ShapeError
from inscape.core.step import Step
from inscape.engine.columns import Columns
from inscape.engine.forward import can_cache, eager
from inscape.engine.generate import Generation, generate
from inscape.engine.inputs import accepts
from inscape.engine.planning import names_of, tasks_of
from inscape.engine.session import Session, Stop
from inscape.models.model import Model
from inscape.steer.two_models.beside import check_tokens

Choose = Callable[[Float[Tensor, "batch pos d"]], Tensor]


@dataclass(frozen=True, eq=False)
class Guided:
    """What was generated, and `chosen`: which edit acted at every column of prompt and answer, -1 for none.

    The last new token has been chosen and not fed, so chosen has no column for it.
    """

    generation: Generation
    chosen: Int[Tensor, "batch pos"]

    @property
    def text(self) -> list[str]:
        return self.generation.text


def guided_generate(
    driver: Model, executor: Model, prompts: Any, site: str, choose: Choose, edits: Sequence[Edit], **options: Any
) -> Guided:
    """Generate with the executor, its edits chosen token by token from the driver's state at a site.

    As `ins.generate(executor, prompts, edits=guided(...))`, and says what was chosen. The driver reads the same tokens
    with a cache of its own, up to the site and no further. options: those of `ins.generate`, such as max_new_tokens.
    Raises: ModelError for unlike vocabularies; as `guided` and `ins.generate`.
    """
    check_tokens(driver, executor, ("driver", "executor"))
    course = _Course(driver, site, choose, len(edits))
    generation = generate(executor, prompts, _wrapped(course, edits), **options)
    return Guided(generation, torch.cat(course.seen, 1))


def guided(driver: Model, site: str, choose: Choose, edits: Sequence[Edit]) -> list[Edit]:
    """The same edits, each only at the tokens for which the driver's state chooses it.

    site: one of the driver's, [batch, pos, d]. choose: from these states, for the columns of a call, the number of the
    edit at each token, an integer [batch, pos], -1 for none; it must look at each token's state alone, as a cached step
    shows it one. Choose `ins.when` where the condition is a state of the steered model itself.
    Works in run and in generation, cached or not, batched and padded; beams change the rows between steps and are
    refused. Cost: the driver up to the site, once a token. The edits hold the driver and cannot be written to a file.
    Raises: SiteError, ShapeError; EditError for beams, inputs without tokens, a cache that was filled without them, or
    a driver that is the steered model itself.
    """
    return _wrapped(_Course(driver, site, choose, len(edits)), edits)


@dataclass(eq=False)
class _Course:
    """The driver's decisions in one sequence, made once a forward."""

    driver: Model
    site: str
    choose: Choose
    n_edits: int
    seen: list[Tensor] = field(default_factory=list)
    is_reading: bool = False

    def __post_init__(self) -> None:
        if not self.n_edits:
            raise InputError("edits is empty: there is nothing to choose from.")
        (self.site,) = names_of(self.driver, self.site)

    def now(self, step: Step) -> Int[Tensor, "batch pos"]:
        if self.is_reading:
            raise EditError(
                "the driver and the steered model are one module: its states would be steered while they are read.\n"
                "  ins.when(ins.Condition(direction), edit) acts where the model's own states say so."
            )
        known = step.memo.get(self)
        if known is None:
            if step.start == 0:
                self.seen.clear()
            known = step.memo[self] = self._decided(step)
            self.seen.append(known)
        return known

    def _decided(self, step: Step) -> Tensor:
        states = self._states(step)
        chosen = self.choose(states)
        if not isinstance(chosen, Tensor) or chosen.shape != states.shape[:2] or chosen.is_floating_point():
            got = f"{chosen.dtype} {tuple(chosen.shape)}" if isinstance(chosen, Tensor) else type(chosen).__name__
            raise ShapeError(f"choose must give an integer for every token, {tuple(states.shape[:2])}; it gave {got}.")
        chosen = chosen.long().cpu()
        if int(chosen.max()) >= self.n_edits or int(chosen.min()) < -1:
            raise InputError(
                f"choose gave {int(chosen.min())} to {int(chosen.max())}: there are {self.n_edits} edits, numbered "
                "from 0, and -1 for none."
            )
        return chosen

    def _states(self, step: Step) -> Tensor:
        if step.tokens is None:
            raise EditError("guided edits read the driver on the same tokens; these inputs are no tokens.")
        if (step.start > 0 and step.past is None) or step.n_repeats > 1:
            raise EditError(
                "guided edits need every row to stay in its place from step to step: beams and returned sequences "
                "change them, and so may a loop of your own.\n  use ins.generate without them."
            )
        cache = step.kept.get(self)
        if step.start > 0 and cache is None:
            raise EditError("this cache was filled without the driver.\n  feed the prompt under the edits too.")
        module: Any = self.driver.module
        given: dict[str, Any] = {
            "input_ids": step.tokens.to(self.driver.device),
            "attention_mask": (step.real >= 0).long().to(self.driver.device),
        }
        if accepts(module, "position_ids"):
            given["position_ids"] = step.real[:, step.start :].clamp(min=0).to(self.driver.device)
        if can_cache(module):
            from transformers import DynamicCache

            given |= {"use_cache": True, "past_key_values": cache or DynamicCache(config=module.config)}
            step.kept[self] = given["past_key_values"]
        tasks = tasks_of(self.driver, {"state": (self.site, None)}, [], None)
        columns = Columns(None, None, None, self.driver.main_prefixes)
        session = Session(module, tasks, columns, may_stop=True, before=columns.follow)
        self.is_reading = True
        try:
            with torch.no_grad(), eager(self.driver, True), session, contextlib.suppress(Stop):
                module(**given)
        finally:
            self.is_reading = False
        session.finish()
        states = session.values["state"]
        if states.ndim != 3:
            raise ShapeError(f"{self.site} has {states.ndim} axes: guided edits read a site of [batch, pos, d].")
        return states


def _wrapped(course: _Course, edits: Sequence[Edit]) -> list[Edit]:
    def one(number: int, edit: Edit) -> Edit:
        def fn(x: Tensor, step: Step) -> Tensor:
            here = (course.now(step) == number).to(x.device)
            if not bool(here.any()):
                return x
            y = edit.fn(x, step) if edit.contextual else edit.fn(x)
            return torch.where(here.reshape(*here.shape, *[1] * (x.ndim - 2)), y.to(x), x)

        label = f"{edit.label}, where the driver chooses it"
        return replace(edit, fn=fn, label=label, contextual=True, spec=None, tensors={})

    return [one(i, edit) for i, edit in enumerate(edits)]
