"""The same work units on a Ray cluster: one copy of the model a worker, lost workers and lost nodes survive.

Ray places the workers, restarts lost ones and says which calls were lost; a call is a handful of work units, and what
such a call had listed before it was lost stays listed, so it is not computed again. The folder must be one that all
nodes see.
"""

import itertools
from typing import Any

import torch

from inscape.core.errors import FileError, InputError
from inscape.core.extra import package
from inscape.core.progress import Progress, tell
from inscape.store import manifest
from inscape.store.record import Job, complete, write

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
    actor = ray.remote(num_cpus=1, num_gpus=needed, max_restarts=-1, max_task_retries=0)(_Worker)
    sent = ray.put((job, torch.get_num_threads()))
    crew = [actor.remote([sent], i) for i in range(min(workers, len(calls)))]
    waiting: list[tuple[list[int], int]] = [(units, 1) for units in calls]
    waiting.reverse()
    under_way: dict[Any, tuple[Any, list[int], int]] = {}
    turns = itertools.cycle(crew)
    for worker in itertools.islice(turns, len(crew)):
        _give(under_way, worker, waiting)
    done = 0
    while under_way:
        (ready,), _ = ray.wait(list(under_way), num_returns=1)
        worker, units, attempt = under_way.pop(ready)
        try:
            ray.get(ready)
            done += len(units)
        except (ray.exceptions.RayActorError, ray.exceptions.NodeDiedError) as lost:
            left = sorted(set(units) - manifest.done_units(job.to))
            done += len(units) - len(left)
            if attempt >= ATTEMPTS:
                raise FileError(
                    f"the Ray worker of work units {left} was lost {ATTEMPTS} times; what was recorded is safe.\n"
                    f"  Ray says: {str(lost).splitlines()[0]}"
                ) from lost
            if left:
                waiting.append((left, attempt + 1))
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from None
        tell(progress, f"{done:,} of {len(todo):,} work units on {len(crew)} Ray workers", done / len(todo))
        _give(under_way, worker, waiting)


def _give(under_way: dict[Any, Any], worker: Any, waiting: list[tuple[list[int], int]]) -> None:
    if waiting:
        units, attempt = waiting.pop()
        under_way[worker.write.remote(units)] = (worker, units, attempt)


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
