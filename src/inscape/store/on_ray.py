"""The same work units on a Ray cluster: one copy of the model a worker, lost workers and lost nodes survive.

Ray places the workers, restarts lost ones and says which calls were lost; a call is a handful of work units, and what
such a call had listed before it was lost stays listed, so it is not computed again. The folder must be one that all
nodes see.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from inscape.core.errors import FileError, InputError
from inscape.core.extra import package
from inscape.core.progress import Progress, tell
from inscape.store import manifest
from inscape.store.record import Job, complete, write

CAPTURING = "transformers.utils.output_capturing"
ATTEMPTS = 5  # times a lost call is given out again


def run_on_ray(job: Job, workers: int = 2, progress: Progress = None, *, gpus: float | None = None) -> None:
    """Record a job with so many workers on the Ray cluster at hand; a local one is started when there is none.

    gpus: of each worker; one when the model lies on a GPU, else none. Cost: the module is sent once a node.
    Raises: MissingExtraError without Ray; FileError when a call is lost again and again; whatever a work unit raises.
    """
    ray: Any = package("ray", "ray", "engine='ray'")
    if workers < 1:
        raise InputError(f"workers={workers}: at least one is needed.")
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False)
    try:
        _run(ray, job, workers, progress, gpus)
    finally:
        if started:
            ray.shutdown()
    complete(job)


def _run(ray: Any, job: Job, workers: int, progress: Progress, gpus: float | None) -> None:
    todo = job.todo()
    if not todo:
        return
    per_call = max(1, min(16, len(todo) // (4 * workers) or 1))
    calls = [todo[i : i + per_call] for i in range(0, len(todo), per_call)]
    needed = gpus if gpus is not None else float(job.harvest.model.device.type == "cuda")
    options = {"max_restarts": -1, "max_task_retries": ATTEMPTS}  # Ray starts it anew and makes its call again
    actor = ray.remote(num_cpus=1, num_gpus=needed, **options)(_Worker)
    with _without_capturing(job.harvest.model.module):
        sent = ray.put((job, torch.get_num_threads()))
    crew = [actor.remote([sent], i) for i in range(min(workers, len(calls)))]
    waiting = list(reversed(calls))
    under_way: dict[Any, tuple[Any, list[int]]] = {}
    for worker in crew:
        _give(under_way, worker, waiting)
    done = 0
    while under_way:
        (ready,), _ = ray.wait(list(under_way), num_returns=1)
        worker, units = under_way.pop(ready)
        try:
            ray.get(ready)
        except ray.exceptions.RayActorError as lost:
            raise FileError(
                f"the Ray worker of work units {units} was lost {ATTEMPTS + 1} times; what was recorded is safe.\n"
                f"  the same record again goes on from there. Ray says: {str(lost).splitlines()[0]}"
            ) from lost
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from None
        done += len(units)
        tell(progress, f"{done:,} of {len(todo):,} work units on {len(crew)} Ray workers", done / len(todo))
        _give(under_way, worker, waiting)


def _give(under_way: dict[Any, Any], worker: Any, waiting: list[list[int]]) -> None:
    if waiting:
        units = waiting.pop()
        under_way[worker.write.remote(units)] = (worker, units)


class _Worker:
    """Lives on a node: holds a copy of the model, writes the work units it is given."""

    def __init__(self, sent: list[Any], number: int) -> None:
        ray: Any = package("ray", "ray", "engine='ray'")
        self.job, threads = ray.get(sent[0])  # here and not as an argument, so that a restarted worker gets it too
        torch.set_num_threads(threads)  # as many as at home: the last bit of a sum depends on it
        self.number = number

    def write(self, units: list[int]) -> int:
        done = manifest.done_units(self.job.to)
        left = [u for u in units if u not in done]
        if left:
            write(self.job, self.number, units=left)
        return len(left)


@contextlib.contextmanager
def _without_capturing(module: nn.Module) -> Iterator[None]:
    """Without the hooks that transformers leaves in a model once `output_hidden_states` was asked of it.

    They hold a context variable, which cannot be sent anywhere, and change no value. Hooks of others are sent along.
    """
    taken: list[tuple[dict[int, Any], dict[int, Any]]] = []
    for inner in module.modules():
        theirs = {k: h for k, h in inner._forward_hooks.items() if h.__module__ == CAPTURING}
        if theirs:
            taken.append((inner._forward_hooks, dict(inner._forward_hooks)))
            for key in theirs:
                del inner._forward_hooks[key]
    try:
        yield
    finally:
        for table, before in taken:
            table.clear()
            table.update(before)
