"""The board in the hall: what the driver wants of the trials, and which placement groups they hold.

Tune can only end a trial by killing it, and a killed Train run leaves its placement group behind. So a trial that
should stop is told so here, reads it at its next report, and returns by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray

from ablate.trial import Failure
from model.api import Verdict


@dataclass(frozen=True)
class Left:
    """What a trial that is gone leaves behind: the placement groups it held (hex), and whether it ran out of memory."""

    groups: tuple[str, ...] = ()
    oom: Failure | None = None


class _Board:
    """An actor without CPU. Its state is the run's and dies with it, so an old verdict never meets a resumed trial."""

    def __init__(self) -> None:
        self._stopped: set[str] = set()
        self._interrupted = False
        self._groups: dict[str, list[str]] = {}
        self._ooms: dict[str, Failure] = {}

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

    def ran_out(self, trial_id: str, failure: Failure) -> None:
        self._ooms[trial_id] = failure

    def leave(self, trial_id: str) -> Left:
        self._stopped.discard(trial_id)
        return Left(tuple(self._groups.pop(trial_id, [])), self._ooms.pop(trial_id, None))


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

    def ran_out(self, trial_id: str, failure: Failure) -> None:
        """The trial needs more memory than it was given. Returns once it is written."""
        ray.get(self._actor.ran_out.remote(trial_id, failure))

    def leave(self, trial_id: str) -> Left:
        """The trial has ended: what it leaves, forgotten here."""
        return ray.get(self._actor.leave.remote(trial_id))
