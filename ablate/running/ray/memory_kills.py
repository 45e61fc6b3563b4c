"""Ray's memory monitor, seen from Tune: the end of one trial and not of the run.

The monitor kills a process before the machine runs out of memory, and whoever waits for it gets an OutOfMemoryError.
Tune's actor manager knows two kinds of errors, an actor's and a task's, and raises RuntimeError on this one, which ends
the whole experiment (ray/air/execution/_internal/actor_manager.py, `_actor_task_failed`, Ray 2.60).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ray.air.execution._internal import RayActorManager
from ray.air.execution._internal.tracked_actor_task import TrackedActorTask
from ray.exceptions import ActorDiedError, OutOfMemoryError


@contextmanager
def as_actor_deaths(tell: Callable[[OutOfMemoryError], None]) -> Iterator[None]:
    """While the context lasts, a kill by the monitor is the death of an actor to Tune, and `tell` is told why first."""
    original = RayActorManager._actor_task_failed

    def task_failed(self: RayActorManager, tracked_actor_task: TrackedActorTask, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            tell(exception)
            exception = ActorDiedError()
        original(self, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = task_failed
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = original
