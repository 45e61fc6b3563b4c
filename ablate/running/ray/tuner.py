"""The runner on Ray: one Tune experiment per phase, with as many trials at once as the admission gate allows."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.tune.tune
from ray import tune
from ray.air.execution import PlacementGroupResourceManager
from ray.air.execution._internal import RayActorManager
from ray.air.execution._internal.tracked_actor_task import TrackedActorTask
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.tune import Stopper
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.trainable import wrap_function

from ablate.running.ray import orphans
from ablate.running.ray.cluster import connect
from ablate.running.ray.coordinator import Coordinator
from ablate.running.ray.reaper import reap_all, reap_orphans
from ablate.running.ray.run_context import RunContext, run_name
from ablate.running.ray.searcher import TRIAL, SourceSearcher, failure_result
from ablate.running.ray.timeout_monitor import TimeoutMonitor
from ablate.running.ray.trial import drive, train_here
from ablate.running.runner import Halt, Listener
from ablate.running.trial import StudyContext, by_trainer
from ablate.scheduling.admission import Admission, Sizes, smallest_config
from ablate.scheduling.packing import Slots, fit
from ablate.trials.source import TrialSource

if TYPE_CHECKING:
    from ablate.spec.models import StudySpec

_DRIVER = tune.PlacementGroupFactory([{"node:__internal_head__": 0.001}])
"""What a driver holds. It only waits, and must hold nothing that a worker needs: with 0.01 CPU for each driver, two
workers of one CPU would not fit on two CPUs. Tune requires a resource, so a driver holds a marker of the head node."""

_RAY = Path(sys.executable).with_name("ray")
"""Ray's command line program in this environment."""


@dataclass(frozen=True)
class RayRunner:
    """Implements `Runner` on a connected cluster."""

    study: str
    run_context: RunContext
    halt: Halt
    on_event: Listener
    admission: Admission
    dashboard: str | None = None
    token: Path | None = None

    @property
    def notice(self) -> str:
        """Where Ray's dashboard is and how to get its token."""
        if self.dashboard is None:
            return ""
        shows = f"cat {self.token}" if self.token else f"{_RAY} get-auth-token"
        return f"dashboard: {self.dashboard} (it asks for a token: {shows})"

    def run(self, source: TrialSource) -> None:
        """Train the trials of `source`, as many at once as are admitted; see `Runner`."""
        self.admission.begin(self.run_context.context.ledger.rows())
        searcher = SourceSearcher(
            source, run_context=self.run_context, halt=self.halt, on_event=self.on_event, admission=self.admission
        )
        try:
            tuner = tune.Tuner(
                tune.with_resources(_trainable(self.study, self.run_context), partial(_needs, self.run_context.slots)),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    reuse_actors=self.run_context.reuse,
                    num_samples=-1,  # the source says when there are no more
                    trial_name_creator=_name,
                    trial_dirname_creator=_name,
                ),
                run_config=tune.RunConfig(
                    name=f"{self.study}-{time.time_ns():x}",
                    storage_path=self.run_context.storage,
                    stop=_InterruptStopper(
                        self.halt,
                        coordinator=self.run_context.coordinator,
                        searcher=searcher,
                        grace_s=self.run_context.grace_s,
                    ),
                    verbose=0,
                ),
            )
            with as_actor_deaths(searcher.killed_for_memory), signals_are_ours():
                tuner.fit()
        except _GraceOver:
            pass  # what still runs ends with Ray and can be resumed
        finally:
            if not self.halt.abandoned:
                reap_all()


@contextmanager
def start(
    spec: StudySpec,
    context: StudyContext,
    *,
    halt: Halt,
    on_event: Listener,
    address: str | None,
    gpus: int | None,
) -> Iterator[RayRunner]:
    """A runner on a private Ray or on the one at `address`. Raises BadInput if a trial does not fit on it."""
    # All nodes of a cluster see results/, but perhaps no other folder.
    storage = context.ledger.store.scratch(".ray", shared=address is not None)
    note = context.ledger.path(".ray", "session.json")
    orphans.end(note)
    with suppress(OSError):
        context.ledger.store.remove(".ray")  # left by a killed driver: Train would restore from it
    asked, environment = spec.resources, spec.trainer.worker_environment
    with connect(
        spec.study,
        address=address,
        gpus=gpus,
        use_mps=asked.mps,
        environment=environment,
        note=note,
        on_death=partial(_ray_is_gone, halt),
        stuck=Halt.start_over,
    ) as cluster:
        reap_orphans()
        card_gib = (asked.gpu_memory_gib or cluster.card_gib) if cluster.cuda else 0.0
        predict = partial(spec.trainer.peak_gib, ranks=asked.processes)
        sizes = Sizes(asked, card_gib=card_gib, predict=predict, trainer=spec.trainer, turns=not cluster.mps)
        run_context = RunContext(
            context,
            train=by_trainer,
            coordinator=Coordinator(f"{spec.study}-coordinator", limits=context.limits),
            slots=fit(spec.resources, nodes=cluster.nodes, cuda=cluster.cuda),
            storage=storage,
            grace_s=spec.trainer.stop_s,
            cuda=cluster.cuda,
            card_gib=card_gib,
        )
        admission = Admission(cluster.nodes, sizes, smallest=smallest_config(spec) if asked.gpu == "auto" else None)
        try:
            yield RayRunner(
                spec.study,
                run_context=run_context,
                halt=halt,
                on_event=on_event,
                admission=admission,
                dashboard=cluster.dashboard,
                token=cluster.token,
            )
        finally:
            with suppress(OSError):
                context.ledger.store.remove(".ray")


@contextmanager
def as_actor_deaths(tell: Callable[[OutOfMemoryError], None]) -> Iterator[None]:
    """While the context lasts, Tune sees a kill by Ray's memory monitor as the death of one actor; `tell` gets it
    first.

    The monitor kills a process before the machine runs out of memory, and its caller gets an OutOfMemoryError. Tune's
    actor manager raises RuntimeError on that, which ends the whole experiment (`_actor_task_failed` in
    ray/air/execution/_internal/actor_manager.py, Ray 2.60).
    """
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


@contextmanager
def signals_are_ours() -> Iterator[None]:
    """While the context lasts, Tune takes no signal: `Halt` has them, and tells the trials first.

    Tune's handlers end its loop at once. That of SIGUSR1 cannot be turned off (`_setup_signal_catching` in
    ray/tune/tune.py, Ray 2.60).
    """
    original = ray.tune.tune._setup_signal_catching
    ray.tune.tune._setup_signal_catching = threading.Event
    try:
        yield
    finally:
        ray.tune.tune._setup_signal_catching = original


def _ray_is_gone(halt: Halt, death: str) -> None:
    """Call the study off, and let Tune ask nothing more of Ray.

    Tune's manager of placement groups removes them when it is deleted, which may be at any later moment. The call waits
    for the GCS server for a minute; then C++ ends this process (`PlacementGroupResourceManager.__del__`, Ray 2.60).
    """
    PlacementGroupResourceManager.clear = lambda self: None  # noqa: ARG005 - Ray's name
    halt.abandon(death)


class _GraceOver(KeyboardInterrupt):
    """Raised to leave Tune's loop at once: stopping trials that do not answer takes Tune half a minute."""


class _InterruptStopper(Stopper):
    """Passes an interruption on to the trials and waits for those that have something to write. Runs the timeout
    monitor.

    Tune calls `stop_all` several times a second; its loop has no other hook to check the halt.
    """

    def __init__(self, halt: Halt, *, coordinator: Coordinator, searcher: SourceSearcher, grace_s: float) -> None:
        self._halt, self._coordinator, self._searcher, self._grace_s = halt, coordinator, searcher, grace_s
        self._since: float | None = None
        self._timeout_monitor = TimeoutMonitor(coordinator, end_from_outside=searcher.end_from_outside)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as in the searcher."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002 - the signature of a stopper
        return False

    def stop_all(self) -> bool:
        if self._halt.reason is None:
            self._timeout_monitor.look()
            return False
        if self._halt.abandoned:
            raise _GraceOver
        if self._since is None:
            self._since = time.monotonic()
            self._coordinator.interrupt()
        if not self._searcher.has_reported or time.monotonic() - self._since > self._grace_s:
            raise _GraceOver
        return False


def _trainable(study: str, run_context: RunContext) -> type[tune.Trainable]:
    """What Tune runs for a trial: its driver, or the trial itself if it has no workers. One actor runs trial after
    trial until one fails, so the dashboard lists it under the study's name."""

    def run(config: dict[str, Any]) -> dict[str, Any]:
        if run_context.slots.workers == 0:
            train_here(config[TRIAL], run_context)
            return {}
        return failure_result(drive(config[TRIAL], run_context))

    class TrialProcess(wrap_function(run)):
        def __repr__(self) -> str:
            return f"{study} trials"

    return TrialProcess


def _needs(slots: Slots, config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """The resources of Tune's actor for a trial: the trial's own if the actor trains it, otherwise a driver's."""
    if slots.workers > 0:
        return _DRIVER
    share = config[TRIAL].gpu_fraction
    return tune.PlacementGroupFactory([{"CPU": slots.cpu_per_worker, **({"GPU": share} if share else {})}])


def _name(trial: TuneTrial) -> str:
    return run_name(trial.config[TRIAL])
