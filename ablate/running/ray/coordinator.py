"""The board in the hall: what the driver wants of the trials, and which placement groups they hold.

Tune can only end a trial by killing it, and a killed Train run leaves its placement group behind. So a trial that
should stop is told so here, reads it at its next report, and returns by itself.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ablate.running.limits import Limits, Overdue, Watch
from ablate.running.ray.worker_place import Place
from ablate.running.trial import Failure
from ablate.trainers import Verdict


@dataclass(frozen=True)
class Leftovers:
    """What a trial that is gone leaves behind: where its tries ran, and whether the last ran out of memory."""

    places: tuple[Place, ...] = ()
    oom: Failure | None = None

    @property
    def groups(self) -> list[str]:
        """The placement groups (hex) that it held and that serve nobody after it."""
        return [place.group_id for place in self.places if not place.reused]


class _CoordinatorActor:
    """An actor without CPU. Its state is the run's and dies with it, so an old verdict never meets a resumed trial."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._stopped: set[str] = set()
        self._given_up: set[str] = set()
        self._interrupted = False
        self._places: dict[str, list[Place]] = {}
        self._watches: dict[str, Watch] = {}
        self._out_of_memory: dict[str, Failure] = {}

    def enter(self, trial_id: str, place: Place) -> Verdict:
        self._places.setdefault(trial_id, []).append(place)
        self._watches[trial_id] = Watch(self._limits, now_s=time.monotonic())
        return self.verdict(trial_id)

    def report(self, trial_id: str, wall_s: float, done: bool) -> Verdict:
        if trial_id in self._watches:  # of a trial that has left, a worker may live on for a second
            self._watches[trial_id].note_report(wall_s=wall_s, done=done, now_s=time.monotonic())
        return self.verdict(trial_id)

    def overdue(self) -> dict[str, tuple[Overdue, Place]]:
        now_s = time.monotonic()
        found = {trial_id: watch.overdue(now_s=now_s) for trial_id, watch in self._watches.items()}
        return {name: (over, self._places[name][-1]) for name, over in found.items() if over}

    def give_up(self, trial_id: str) -> list[str]:
        self._given_up.add(trial_id)
        self._watches.pop(trial_id, None)
        return [place.group_id for place in self._places.get(trial_id, [])]

    def worker_gone(self, trial_id: str) -> bool:
        self._watches.pop(trial_id, None)
        return trial_id not in self._given_up and trial_id not in self._out_of_memory

    def verdict(self, trial_id: str) -> Verdict:
        if self._interrupted:
            return Verdict.INTERRUPT
        return Verdict.STOP if trial_id in self._stopped else Verdict.CONTINUE

    def stop(self, trial_id: str) -> None:
        self._stopped.add(trial_id)

    def interrupt(self) -> None:
        self._interrupted = True

    def ran_out_of_memory(self, trial_id: str, failure: Failure) -> None:
        self._out_of_memory[trial_id] = failure

    def leave(self, trial_id: str) -> Leftovers:
        self._stopped.discard(trial_id)
        self._given_up.discard(trial_id)
        self._watches.pop(trial_id, None)
        return Leftovers(tuple(self._places.pop(trial_id, [])), self._out_of_memory.pop(trial_id, None))


class Coordinator:
    """A handle on the board, for driver and workers alike; it travels by pickle."""

    def __init__(self, name: str, *, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
        """Hang up a new board, an actor called `name`; it ends with this driver, and is on its node: another's death
        must not take it along."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._actor: Any = (
            ray.remote(num_cpus=0)(_CoordinatorActor).options(name=name, scheduling_strategy=here).remote(limits)
        )

    def enter(self, trial_id: str, *, place: Place) -> Verdict:
        """A trial's worker has started; the answer is what it should do. Its limits count from now on."""
        return ray.get(self._actor.enter.remote(trial_id, place))

    def report(self, trial_id: str, *, wall_s: float, done: bool) -> Verdict:
        """The trial has reported; the answer is what it should do. `done`: its budget is used."""
        return ray.get(self._actor.report.remote(trial_id, wall_s, done))

    def overdue(self) -> dict[str, tuple[Overdue, Place]]:
        """The trials whose time is over and that have not ended themselves, and where they run."""
        return ray.get(self._actor.overdue.remote())

    def give_up(self, trial_id: str) -> list[str]:
        """The trial is being ended and is not to be tried again: the placement groups it holds (hex)."""
        return ray.get(self._actor.give_up.remote(trial_id))

    def worker_gone(self, trial_id: str) -> bool:
        """The trial's worker is gone, and until another one enters its limits do not count. The answer is whether it
        may be tried again as it is: not where its end was decided from outside, nor where it ran out of memory."""
        return ray.get(self._actor.worker_gone.remote(trial_id))

    def verdict(self, trial_id: str) -> Verdict:
        """What the trial should do now."""
        return ray.get(self._actor.verdict.remote(trial_id))

    def stop(self, trial_id: str) -> None:
        """The search has seen enough of the trial. Returns before it is written."""
        self._actor.stop.remote(trial_id)

    def interrupt(self) -> None:
        """Every trial should write a checkpoint and return. Returns before it is written."""
        self._actor.interrupt.remote()

    def ran_out_of_memory(self, trial_id: str, failure: Failure) -> None:
        """The trial needs more memory than it was given. Returns once it is written."""
        ray.get(self._actor.ran_out_of_memory.remote(trial_id, failure))

    def leave(self, trial_id: str) -> Leftovers:
        """The trial has ended: what it leaves, forgotten here."""
        return ray.get(self._actor.leave.remote(trial_id))
