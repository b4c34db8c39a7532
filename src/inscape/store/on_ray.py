"""The same work units on a Ray cluster: one copy of the model and one writer a worker; lost workers and nodes survive.

1. Ray places the workers, restarts lost ones and gives their calls out again; a call is a handful of work units.
2. A worker reads the manifests once, when it starts, and writes what it computes as any writer does: into shards that
   several calls fill. What a lost worker had computed and not listed is lost, also of calls that had returned.
3. So when all calls have returned, the workers write what they hold, and whatever is still not listed goes round again.

The folder must be one that all nodes see.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from inscape.core.errors import FileError, InputError
from inscape.core.extra import package
from inscape.core.progress import Progress, tell
from inscape.store import manifest
from inscape.store.job import Job, Recorder, complete
from inscape.store.work import samples_of

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
    needed = gpus if gpus is not None else float(job.harvest.model.device.type == "cuda")
    options = {"max_restarts": -1, "max_task_retries": ATTEMPTS}  # Ray starts it anew and makes its call again
    actor = ray.remote(num_cpus=1, num_gpus=needed, **options)(_Worker)
    todo = job.about.missing(manifest.done_units(job.to))
    total, vain = len(todo), 0
    with _without_capturing(job.harvest.model.module):
        sent = ray.put((job, torch.get_num_threads())) if todo else None
    while todo:
        count = min(workers, len(todo))
        crew = [actor.remote([sent], i) for i in range(count)]
        try:
            _deal(ray, crew, todo, total, progress)
        finally:
            _finish(ray, crew, is_failing=sys.exc_info()[0] is not None)
        left = job.about.missing(manifest.done_units(job.to))
        vain = vain + 1 if len(left) == len(todo) else 0
        if vain > ATTEMPTS:
            raise _lost(todo, "nothing of them was listed")
        todo = left


def _deal(ray: Any, crew: list[Any], todo: list[int], total: int, progress: Progress) -> None:
    """Give every work unit to a worker, a handful a call, the next call to whoever is done first."""
    per_call = max(1, min(16, len(todo) // (4 * len(crew))))
    waiting = [todo[i : i + per_call] for i in range(0, len(todo), per_call)][::-1]
    under_way: dict[Any, tuple[Any, list[int]]] = {}

    def give(worker: Any) -> None:
        if waiting:
            units = waiting.pop()
            under_way[worker.write.remote(units)] = (worker, units)

    for worker in crew:
        give(worker)
    done = total - len(todo)
    while under_way:
        (ready,), _ = ray.wait(list(under_way), num_returns=1)
        worker, units = under_way.pop(ready)
        try:
            ray.get(ready)
        except ray.exceptions.RayActorError as lost:
            raise _lost(units, str(lost).splitlines()[0]) from lost
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from None
        done += len(units)
        tell(progress, f"{done:,} of {total:,} work units on {len(crew)} Ray workers", done / total)
        give(worker)


def _finish(ray: Any, crew: list[Any], *, is_failing: bool) -> None:
    """Let every worker write what it holds; what goes wrong meanwhile is raised unless something is wrong already."""
    calls = [worker.finish.remote() for worker in crew]
    for call in calls:
        try:
            ray.get(call)
        except ray.exceptions.RayActorError:
            continue  # what it held goes round again
        except ray.exceptions.RayTaskError as error:
            if not is_failing:
                raise error.cause if isinstance(error.cause, Exception) else error from None
    for worker in crew:
        ray.kill(worker)


def _lost(units: list[int], why: str) -> FileError:
    return FileError(
        f"the Ray worker of work units {units[:8]} was lost {ATTEMPTS + 1} times; what was recorded is safe.\n"
        f"  the same record again goes on from there. Ray says: {why}"
    )


class _Worker:
    """Lives on a node: holds a copy of the model and one writer, computes the work units it is given."""

    def __init__(self, sent: list[Any], number: int) -> None:
        ray: Any = package("ray", "ray", "engine='ray'")
        self.job, threads = ray.get(sent[0])  # here and not as an argument, so that a restarted worker gets it too
        torch.set_num_threads(threads)  # as many as at home: the last bit of a sum depends on it
        self.done = set(manifest.done_units(self.job.to))
        self.leaving = contextlib.ExitStack()
        self.recorder = self.leaving.enter_context(Recorder(self.job, number))

    def write(self, units: list[int]) -> None:
        try:
            for unit in units:
                if unit not in self.done:
                    self.recorder.put(unit, samples_of(self.job.data, self.job.about, unit))
                    self.done.add(unit)
        except BaseException:
            self.leaving.__exit__(*sys.exc_info())
            raise

    def finish(self) -> None:
        self.leaving.close()


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
