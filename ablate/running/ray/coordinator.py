"""The coordinator: holds what each trial should do and which placement groups it has, for driver and workers.

Tune can only end a trial by killing it, and a killed Train run leaves its placement group behind. So the driver sets a
trial's verdict here; the trial reads it at its next report and returns by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ablate.running.limits import Clock, Limits, Overdue, Watch
from ablate.running.ray.worker_place import Place
from ablate.running.trial import Failure
from ablate.trainers import Verdict


@dataclass(frozen=True)
class Leftovers:
    """What an ended trial leaves behind: where its tries ran, and the last try's failure if it ran out of memory."""

    places: tuple[Place, ...] = ()
    oom: Failure | None = None

    @property
    def groups(self) -> list[str]:
        """The placement groups (hex) that it held and that no other trial will use."""
        return [place.group_id for place in self.places if not place.reused]


class _CoordinatorActor:
    """An actor without CPU. Its state ends with the run, so a resumed trial never reads an old verdict."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._clock = limits, Clock()
        self._stopped: set[str] = set()
        self._given_up: set[str] = set()
        self._interrupted = False
        self._places: dict[str, list[Place]] = {}
        self._watches: dict[str, Watch] = {}
        self._out_of_memory: dict[str, Failure] = {}

    def enter(self, trial_id: str, place: Place) -> Verdict:
        self._places.setdefault(trial_id, []).append(place)
        self._watches[trial_id] = Watch(self._limits, now_s=self._clock.now_s())
        return self.verdict(trial_id)

    def report(self, trial_id: str, wall_s: float, done: bool) -> Verdict:
        if trial_id in self._watches:  # a worker may outlive its ended trial for a second
            self._watches[trial_id].note_report(wall_s=wall_s, done=done, now_s=self._clock.now_s())
        return self.verdict(trial_id)

    def overdue(self) -> dict[str, tuple[Overdue, Place]]:
        now_s = self._clock.now_s()
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
    """A handle on the coordinator's actor, for the driver and (pickled) for workers."""

    def __init__(self, name: str, *, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
        """Start the actor, called `name`, on this node, so that the death of another node does not end it. It ends with
        this driver."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._actor: Any = (
            ray.remote(num_cpus=0)(_CoordinatorActor).options(name=name, scheduling_strategy=here).remote(limits)
        )

    def enter(self, trial_id: str, *, place: Place) -> Verdict:
        """Note that a trial's worker has started; its limits count from now. Returns what the trial should do."""
        return ray.get(self._actor.enter.remote(trial_id, place))

    def report(self, trial_id: str, *, wall_s: float, done: bool) -> Verdict:
        """Note a report; `done`: the budget is used. Returns what the trial should do."""
        return ray.get(self._actor.report.remote(trial_id, wall_s, done))

    def overdue(self) -> dict[str, tuple[Overdue, Place]]:
        """The trials that are over their limits and have not ended themselves: why, and where they run."""
        return ray.get(self._actor.overdue.remote())

    def give_up(self, trial_id: str) -> list[str]:
        """Note that the trial is being ended and must not be tried again. Returns its placement groups (hex)."""
        return ray.get(self._actor.give_up.remote(trial_id))

    def worker_gone(self, trial_id: str) -> bool:
        """Note that the trial's worker is gone; its limits do not count until the next worker enters.

        Returns whether the trial may be tried again unchanged: not if it was ended from outside or ran out of memory.
        """
        return ray.get(self._actor.worker_gone.remote(trial_id))

    def verdict(self, trial_id: str) -> Verdict:
        """What the trial should do now."""
        return ray.get(self._actor.verdict.remote(trial_id))

    def stop(self, trial_id: str) -> None:
        """Ask the trial to stop, because the search prunes it. Does not wait for the actor."""
        self._actor.stop.remote(trial_id)

    def interrupt(self) -> None:
        """Ask every trial to write a checkpoint and return. Does not wait for the actor."""
        self._actor.interrupt.remote()

    def ran_out_of_memory(self, trial_id: str, failure: Failure) -> None:
        """Note that the trial needs more memory than its share. Waits for the actor."""
        ray.get(self._actor.ran_out_of_memory.remote(trial_id, failure))

    def leave(self, trial_id: str) -> Leftovers:
        """Forget a trial that has ended. Returns what it leaves behind."""
        return ray.get(self._actor.leave.remote(trial_id))
