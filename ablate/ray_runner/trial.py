"""A trial as Ray sees it: a driver under Tune that holds next to nothing, and the Train workers that do the work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray.train
from ray.exceptions import OutOfMemoryError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from ablate.plan import Trial
from ablate.ray_runner.board import Board
from ablate.ray_runner.place import Place
from ablate.runner import Progress
from ablate.trial import Desk, Failure, Train, failure_of, follow_trial, run_trial
from model.api import Report, Verdict

if TYPE_CHECKING:
    from ablate.packing import Slots

RETRIES = 2
"""How often a trial that was lost, its process or node dead, is tried again from its last checkpoint."""


@dataclass(frozen=True)
class Orders:
    """What a trial's driver and workers need to know beside the trial: the same for all trials of a run.

    `storage` is where Train keeps its own notes; `cuda` says whether a worker sees a card that torch can use.
    """

    desk: Desk
    train: Train
    board: Board
    slots: Slots
    storage: str
    cuda: bool


def drive(trial: Trial, orders: Orders) -> Failure | None:
    """Run the trial's workers to an end, again where they were lost; what ended them if they did not themselves.

    Runs in a Tune actor. Ray's own retries are off: they count every error alike, and only a lost trial is worth the
    same again.
    """
    for tries in range(1, RETRIES + 2):
        try:
            _trainer(trial, orders, tries=tries).fit()
        except TrainingFailedError as error:
            failure = classify(error)
            if failure.status != "lost" or tries > RETRIES or orders.board.given_up(trial.trial_id):
                return failure
        else:
            return None
    raise AssertionError("the last try returns")


def classify(error: TrainingFailedError) -> Failure:
    """What ended a worker group that did not end itself: a dead process or node is `lost`, whatever its peers say.

    Workers whose peer has died fail too (a reset connection), so a death outweighs any exception. An exception, which
    only a group of several lets through, is what it would be in a group of one.
    """
    if not isinstance(error, WorkerGroupError):
        return Failure("lost", kind=type(error).__name__, message=_first_line(error))
    failures = list(error.worker_failures.values())
    # A dead worker's failure is told in Ray's words: a health check that failed, and why.
    told_by_ray = [one for one in failures if type(one).__module__.startswith("ray.")]
    deaths = [getattr(one, "health_check_failure", one) for one in told_by_ray]
    for death in deaths:
        if isinstance(death, OutOfMemoryError):  # Ray's memory monitor; the same again would be killed again
            return Failure("oom", kind=type(death).__name__, message=_first_line(death))
    if failures and not deaths:
        return failure_of(failures[0])
    cause = deaths[0] if deaths else error
    return Failure("lost", kind=type(cause).__name__, message=_first_line(cause))


def _trainer(trial: Trial, orders: Orders, *, tries: int) -> TorchTrainer:
    slots = orders.slots
    resources = {"CPU": slots.cpu_per_worker}
    if slots.gpu_per_worker:
        resources["GPU"] = slots.gpu_per_worker
    return TorchTrainer(
        lambda config: _work(trial, orders),  # noqa: ARG005 - what the dashboard shows; the worker needs more than that
        train_loop_config={"study": trial.study, "trial": trial.trial_id, "arm": trial.arm, **trial.params},
        # Without CUDA a logical GPU would still make Train ask for NCCL.
        torch_config=TorchConfig(backend=None if orders.cuda else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=slots.workers, use_gpu=slots.gpu_per_worker > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=run_name(trial, tries=tries),
            storage_path=orders.storage,
            callbacks=[TuneReportCallback()],
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=2, max_preemption_failures=RETRIES),
        ),
    )


def run_name(trial: Trial, *, tries: int = 1) -> str:
    """How the dashboard calls the trial: study, arm and id; a later try says so."""
    return f"{trial.study}-{trial.arm}-{trial.trial_id}" + (f"-try{tries}" if tries > 1 else "")


def _work(trial: Trial, orders: Orders) -> None:
    """A Train worker: the trial's own process."""
    rank, ranks = ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size()
    if rank > 0:
        follow_trial(trial, desk=orders.desk, tell=_tell_along, train=orders.train)
        return
    board = orders.board
    if board.enter(trial.trial_id, place=Place.here()) is Verdict.INTERRUPT and ranks == 1:
        return  # asked to stop before it began

    def tell(progress: Progress) -> Verdict:
        ray.train.report(progress.flat())
        return board.report(trial.trial_id, wall_s=progress.wall_s, done=progress.done)

    run_trial(trial, desk=orders.desk, tell=tell, alone=ranks == 1, train=orders.train)


def _tell_along(report: Report) -> Verdict:  # noqa: ARG001 - rank 0's counts
    """Other ranks' part of a report: Train waits for all of them, and takes rank 0's numbers and verdict."""
    ray.train.report({})
    return Verdict.CONTINUE


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:500] if lines else type(error).__name__
