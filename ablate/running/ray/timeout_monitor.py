"""Ends trials that are over their limits and removes unused placement groups. Runs in the sweep's own process.

Removing a worker's placement group kills the worker's process on any node and frees its resources.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ablate.running.ray.coordinator import Coordinator
from ablate.running.ray.reaper import reap, reap_orphans
from ablate.running.ray.worker_place import worker_output
from ablate.running.trial import Failure, timeout

_LOOK_EVERY_S = 1.0


class TimeoutMonitor:
    """Calls `end_from_outside` with the id of a trial that is being ended, why, and what it wrote last."""

    def __init__(self, coordinator: Coordinator, *, end_from_outside: Callable[[str, Failure, str], None]) -> None:
        self._coordinator, self._end_from_outside = coordinator, end_from_outside
        self._looked_s = time.monotonic()

    def look(self) -> None:
        """Check the trials, at most once a second however often it is called."""
        now_s = time.monotonic()
        if now_s - self._looked_s < _LOOK_EVERY_S:
            return
        self._looked_s = now_s
        for trial_id, (overdue, place) in self._coordinator.overdue().items():
            self._end_from_outside(trial_id, timeout(overdue), worker_output(place, stack=True))
            reap(self._coordinator.give_up(trial_id))
        reap_orphans()
