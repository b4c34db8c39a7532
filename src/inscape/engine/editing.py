"""The same edits inside the user's own loop, trainer or library call."""

import contextlib
from collections.abc import Iterator
from typing import Any

from inscape.core.edit import Edit, Edits, listed
from inscape.core.errors import InputError
from inscape.engine.columns import Columns
from inscape.engine.forward import eager
from inscape.engine.inputs import prepare
from inscape.engine.planning import tasks_of
from inscape.engine.session import Session
from inscape.models.model import Model


def in_force(model: Model) -> list[Edit]:
    """The edits that `editing` keeps in force on this module, in this thread, outer ones first."""
    hooks = [hook for module in model.module.modules() for hook in module._forward_pre_hooks.values()]
    sessions = [found for hook in hooks if isinstance(found := getattr(hook, "session", None), Session)]
    return [edit for session in sessions if session.mine() for task in session.tasks for edit in task.edits]


@contextlib.contextmanager
def editing(model: Model, edits: Edits, *, prompts: Any = None, allow_nan: bool = False) -> Iterator[Session]:
    """Keep edits in force for every forward of `model.module` in this thread, until the `with` ends.

    Cached steps know where they are (positions count from the first real token); training steps are differentiable
    and trainable edits get gradients. Nested `with`s add up, outer edits first. prompts: the texts, when an edit uses
    ins.span. Raises NotFiredError at the end for an edit that never happened; other errors pass through, and the
    model is as it was either way.
    """
    model.check_ready()
    edits = listed(edits)
    if not edits:
        raise InputError("ins.editing needs at least one edit.")
    prepared = prepare(model, prompts) if prompts is not None else None
    tasks = tasks_of(model, {}, edits, prepared)
    columns = Columns(None, None, None, model.main_prefixes)
    session = Session(model.module, tasks, columns, allow_nan=allow_nan, before=columns.follow)
    with eager(model, True, anywhere=True), session:
        yield session
    session.finish()
