"""Runs one trial on Ray: in a Tune actor, or in Train workers that an actor drives."""

from __future__ import annotations

from functools import partial

import ray.train
from ray import tune
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError

from ablate.records.ledger import StaleAttempt
from ablate.records.rows import MEASURED, TrialRow
from ablate.running.environment import forget_launchers
from ablate.running.ray.group import GroupTrainer, RendezvousConfig, ReportToTune, join
from ablate.running.ray.run_context import RETRIES, RunContext, run_name
from ablate.running.ray.searcher import failure_result
from ablate.running.ray.share import ShareLimitedTrain
from ablate.running.ray.worker_place import Place
from ablate.running.runner import Progress
from ablate.running.trial import Failure, TryAgain, failure_of, follow_trial, run_trial
from ablate.trainers import Report, Trainer, Verdict
from ablate.trials.trial import Trial


class RetireProcess(Exception):
    """The trial has failed; its row or the coordinator says why. Raised so that Tune ends the process and trains no
    other trial in it."""


def train_here(trial: Trial, run_context: RunContext) -> None:
    """Train in this process, a Tune actor that has the trial's CPUs and its share of a GPU, by Train's local mode.

    `ray.train.report` does nothing in local mode, so reports go to Tune directly; a report returns when the search has
    seen it. Raises RetireProcess after a failure, so that the next trial (or the same one with a larger share) gets a
    fresh process: the state after an `oom`, a `nan` or an exception is unknown. Other exceptions come from outside the
    trainer (for example a full disk); a last report says why.
    """
    from ray.train.torch import TorchTrainer  # imports torch, which only a process that trains needs

    forget_launchers()  # a cluster that was started by srun or mpirun has them, and Train would join their ranks
    coordinator = run_context.coordinator
    if coordinator.enter(trial.trial_id, place=Place.here(reused=True)) is Verdict.INTERRUPT:
        return  # asked to stop before it began

    limited = ShareLimitedTrain(trial, train=run_context.train, coordinator=coordinator, card_gib=run_context.card_gib)

    def tell(progress: Progress) -> Verdict:
        tune.report(progress.flat() | limited.taken().flat())
        try:
            return coordinator.report(trial.trial_id, wall_s=progress.wall_s, done=progress.done)
        except RayActorError as error:  # the sweep's process died, and this one ends soon
            raise TryAgain(f"the sweep's process is gone: {_first_line(error)}") from None

    def work() -> TrialRow | None:
        return run_trial(trial, context=run_context.context, tell=tell, train=limited)

    try:
        trainer = TorchTrainer(
            work, scaling_config=ScalingConfig(num_workers=0), run_config=RunConfig(name=run_name(trial))
        )
        row: TrialRow | None = trainer.fit().return_value
    except (OSError, RuntimeError, ValueError) as error:  # the disk's, Train's, Arrow's
        tune.report(failure_result(failure_of(error, trainer=trial.config.trainer)))
        raise
    if limited.ran_out_of_memory:
        raise RetireProcess("oom: out of its share")
    if row is not None and row.status not in MEASURED:
        raise RetireProcess(f"{row.status}: {row.error}")


def drive(trial: Trial, run_context: RunContext) -> Failure | None:
    """Run the trial's workers to the end, again if they were lost. Returns what ended them if not they themselves.

    Runs in a Tune actor. Ray's own retries are off: they count every error, but only a lost trial is worth trying again
    unchanged.
    """
    for tries in range(1, RETRIES + 2):
        try:
            # Train restores a run whose name was used before. The attempt number counts earlier drivers' attempts too.
            _trainer(trial, run_context, tries=run_context.context.ledger.attempt(trial.trial_id) + 1).fit()
        except TrainingFailedError as error:
            failure = classify(error, trainer=trial.config.trainer)
            if failure.kind == StaleAttempt.__name__:
                return None  # a newer attempt runs and will record the trial's end
            if failure.status != "lost" or tries > RETRIES or not run_context.coordinator.worker_gone(trial.trial_id):
                return failure
        else:
            return None
    raise AssertionError("the last try returns")


def classify(error: TrainingFailedError, *, trainer: Trainer) -> Failure:
    """What ended a worker group that did not end itself: `lost` if a process or node died, even if peers raised too.

    Workers whose peer has died fail too (a reset connection), so a death outweighs an exception. An exception without a
    death, which only a group of several workers raises, is classified as in a single worker.
    """
    if not isinstance(error, WorkerGroupError):
        return Failure("lost", kind=type(error).__name__, message=_first_line(error))
    failures = list(error.worker_failures.values())
    # Ray describes a dead worker by one of its own errors: a failed health check, and its cause.
    of_ray = [one for one in failures if type(one).__module__.startswith("ray.")]
    deaths = [getattr(one, "health_check_failure", one) for one in of_ray]
    for death in deaths:
        if isinstance(death, OutOfMemoryError):  # from Ray's memory monitor, which would kill an unchanged retry too
            return Failure("oom", kind=type(death).__name__, message=_first_line(death))
    if failures and not deaths:
        return failure_of(failures[0], trainer=trainer)
    cause = deaths[0] if deaths else error
    return Failure("lost", kind=type(cause).__name__, message=_first_line(cause))


def _trainer(trial: Trial, run_context: RunContext, *, tries: int) -> GroupTrainer:
    slots, gpu = run_context.slots, trial.gpu_fraction or 0.0
    resources = {"CPU": slots.cpu_per_worker, **({"GPU": gpu} if gpu else {})}
    return GroupTrainer(
        lambda config: _work(trial, run_context),  # noqa: ARG005 - it is for the dashboard; the worker needs the whole trial
        train_loop_config={"study": trial.study, "trial": trial.trial_id, "arm": trial.arm, **trial.params},
        backend_config=RendezvousConfig(),
        scaling_config=ScalingConfig(num_workers=slots.workers, use_gpu=gpu > 0, resources_per_worker=resources),
        run_config=RunConfig(
            name=run_name(trial, tries=tries),
            storage_path=run_context.storage,
            callbacks=[ReportToTune(gone=partial(run_context.coordinator.worker_gone, trial.trial_id))],
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=2, max_preemption_failures=RETRIES),
        ),
    )


def _work(trial: Trial, run_context: RunContext) -> None:
    """A Train worker, the trial's own process. A single worker needs no process group, except for DeepSpeed."""
    rank, ranks = ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size()
    if ranks > 1 or trial.config.trainer.needs_process_group(trial.config):
        join(cuda=run_context.cuda)
    limited = ShareLimitedTrain(
        trial, train=run_context.train, coordinator=run_context.coordinator, card_gib=run_context.card_gib
    )
    if rank > 0:
        follow_trial(trial, context=run_context.context, tell=_tell_along, train=limited)
        return
    coordinator = run_context.coordinator
    if coordinator.enter(trial.trial_id, place=Place.here()) is Verdict.INTERRUPT and ranks == 1:
        return  # asked to stop before it began

    def tell(progress: Progress) -> Verdict:
        try:
            ray.train.report(progress.flat() | limited.taken().flat())
            return coordinator.report(trial.trial_id, wall_s=progress.wall_s, done=progress.done)
        except RayActorError as error:  # the sweep's process died, and this one ends soon
            raise TryAgain(f"the sweep's process is gone: {_first_line(error)}") from None

    run_trial(trial, context=run_context.context, tell=tell, only_rank=ranks == 1, train=limited)


def _tell_along(report: Report) -> Verdict:  # noqa: ARG001 - only rank 0's is used
    """Other ranks' part of a report: Train waits for all ranks, and uses rank 0's numbers and verdict."""
    ray.train.report({})
    return Verdict.CONTINUE


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:500] if lines else type(error).__name__
