"""The board in the hall: what the driver wants of the trials, and which placement groups they hold.

Tune can only end a trial by killing it, and a killed Train run leaves its placement group behind. So a trial that
should stop is told so here, reads it at its next report, and returns by itself.
"""

from __future__ import annotations

from typing import Any

import ray

from model.api import Verdict


class _Board:
    """An actor without CPU. Its state is the run's and dies with it, so an old verdict never meets a resumed trial."""

    def __init__(self) -> None:
        self._stopped: set[str] = set()
        self._interrupted = False
        self._groups: dict[str, list[str]] = {}

    def enter(self, trial_id: str, group_id: str) -> Verdict:
        self._groups.setdefault(trial_id, []).append(group_id)
        return self.verdict(trial_id)

    def verdict(self, trial_id: str) -> Verdict:
        if self._interrupted:
            return Verdict.INTERRUPT
        return Verdict.STOP if trial_id in self._stopped else Verdict.CONTINUE

    def stop(self, trial_id: str) -> None:
        self._stopped.add(trial_id)

    def interrupt(self) -> None:
        self._interrupted = True

    def leave(self, trial_id: str) -> list[str]:
        self._stopped.discard(trial_id)
        return self._groups.pop(trial_id, [])


class Board:
    """A handle on the board, for driver and workers alike; it travels by pickle."""

    def __init__(self, name: str) -> None:
        """Hang up a new board, an actor called `name`; it ends with this driver."""
        self._actor: Any = ray.remote(num_cpus=0)(_Board).options(name=name).remote()

    def enter(self, trial_id: str, *, group_id: str) -> Verdict:
        """A trial's worker has started in placement group `group_id` (hex); the answer is what it should do."""
        return ray.get(self._actor.enter.remote(trial_id, group_id))

    def verdict(self, trial_id: str) -> Verdict:
        """What the trial should do now."""
        return ray.get(self._actor.verdict.remote(trial_id))

    def stop(self, trial_id: str) -> None:
        """The search has seen enough of the trial. Returns before it is written."""
        self._actor.stop.remote(trial_id)

    def interrupt(self) -> None:
        """Every trial should write a checkpoint and return. Returns before it is written."""
        self._actor.interrupt.remote()

    def leave(self, trial_id: str) -> list[str]:
        """The trial has ended: the placement groups it held (hex), forgotten here."""
        return ray.get(self._actor.leave.remote(trial_id))
