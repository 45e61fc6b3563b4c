"""The edge of a trial: everything that can happen inside its training becomes one row of the ledger, or none."""

from __future__ import annotations

import platform
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ablate import escape
from ablate.errors import CannotWrite, full_disk, writing
from ablate.records import provenance
from ablate.records.ledger import Ledger, StaleAttempt
from ablate.records.rows import Status, TrialRow
from ablate.running.limits import Limits, OutOfTime, Overdue
from ablate.running.output import recorded
from ablate.running.runner import Progress
from ablate.running.tracking import Mode, Tracker
from ablate.trainers import Config, Report, Result, Train, Trainer, Verdict
from ablate.trials.trial import Trial

_MOST_TRACEBACK = 16 * 2**10  # characters

_ENDS: dict[Verdict, Status] = {Verdict.CONTINUE: "completed", Verdict.STOP: "pruned"}


class TryAgain(Exception):
    """The trial has not ended: whoever runs it will have it tried again, or record its end himself."""


def by_trainer(config: Config, report: Callable[[Report], Verdict], *, checkpoint_dir: Path) -> Result:
    """Train by the configuration's own trainer: the usual `Train`."""
    return config.trainer.train(config, report, checkpoint_dir=checkpoint_dir)


@dataclass(frozen=True)
class StudyContext:
    """What all trials of a study share. It travels to workers as it is; `objective` names the metric to follow."""

    ledger: Ledger
    swanlab: Mode
    objective: str
    git_commit: str | None
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Failure:
    """Why a trial has no result: `kind` is the exception's type, `message` its text on one line."""

    status: Status
    kind: str
    message: str


def run_trial(
    trial: Trial,
    *,
    context: StudyContext,
    tell: Callable[[Progress], Verdict],
    only_rank: bool = True,
    train: Train = by_trainer,
) -> TrialRow | None:
    """Claim the next attempt at `trial`, train it, record every report and the end. Rank 0's part of a trial.

    `tell` is called after every report is on the disk; its answer goes to the trainer. `alone` is False where other
    ranks train the same trial: an exception is then not recorded but raised, since only who sees all ranks knows which
    fell first. Returns the final row, or None where there is none: interrupted, to be tried again, or replaced by a
    newer attempt (StaleAttempt, where not `alone`). Raises CannotWrite where the disk is full: that is no failure of
    the trial's, which has no row then.
    """
    with writing():
        return _run(trial, context=context, tell=tell, only_rank=only_rank, train=train)


def _run(
    trial: Trial, *, context: StudyContext, tell: Callable[[Progress], Verdict], only_rank: bool, train: Train
) -> TrialRow | None:
    ledger, started_at = context.ledger, datetime.now(UTC)
    attempt = ledger.claim(trial.trial_id)
    last: Progress | None = None
    overdue: Overdue | None = None
    with recorded() as output, Tracker(trial, mode=context.swanlab, folder=ledger.path("swanlab")) as tracker:

        def report(now: Report) -> Verdict:
            nonlocal last, overdue
            ledger.append_report(trial.trial_id, attempt=attempt, report=now)
            tracker.log(now)
            note = f"trial {trial.trial_id}: {now.note}" if now.note else ""
            last = Progress.of(now, objective=context.objective, warning=note or tracker.take_warning())
            verdict = tell(last)
            # A trial that has used its budget has cost all it can: what is left to do is to measure it.
            if verdict is Verdict.STOP and last.done:
                return Verdict.CONTINUE
            if verdict is Verdict.CONTINUE and not last.done:
                overdue = context.limits.spent(now.wall_s)
                return Verdict.STOP if overdue else verdict
            return verdict

        try:
            result = train(trial.config, report, checkpoint_dir=ledger.checkpoint_dir(trial.trial_id, own=True))
            ledger.keep_checkpoint(trial.trial_id, attempt=attempt)
        except StaleAttempt:
            if not only_rank:  # peers wait for this rank, and only their group's end frees them
                raise
            return None
        except Exception as error:  # the trial's edge: whatever it was, the row says so
            if full_disk(error):
                raise
            ledger.write_log(trial.trial_id, attempt=attempt, text=traceback_text(error) + output.tail())
            if not only_rank:
                raise
            if isinstance(error, TryAgain):
                return None
            failure = failure_of(error, trainer=trial.config.trainer)
            row = failed_row(trial, failure=failure, context=context, attempt=attempt, started_at=started_at, last=last)
        else:
            if result.verdict is Verdict.INTERRUPT:
                return None
            if overdue is not None:
                failure = timeout(overdue)
                row = failed_row(
                    trial,
                    failure=failure,
                    context=context,
                    attempt=attempt,
                    started_at=started_at,
                    last=last,
                )
                tracker.end(row)
                return record(row, ledger=ledger)
            row = _measured_row(
                trial, result=result, context=context, attempt=attempt, started_at=started_at, last=last
            )
            ledger.write_samples(trial.trial_id, result.samples)
        tracker.end(row)
    return record(row, ledger=ledger)


def follow_trial(
    trial: Trial, *, context: StudyContext, tell: Callable[[Report], Verdict], train: Train = by_trainer
) -> None:
    """The part of every rank but 0: train along, record nothing; an exception goes up to the group's owner."""
    train(trial.config, tell, checkpoint_dir=context.ledger.checkpoint_dir(trial.trial_id, own=True))


def record(row: TrialRow, *, ledger: Ledger) -> TrialRow | None:
    """Write a final row; None where a newer attempt has replaced this one or the trial is final already."""
    try:
        ledger.finish(row)
    except StaleAttempt:
        return None
    return row


def timeout(overdue: Overdue) -> Failure:
    """The failure of a trial that took too long, or did not report."""
    return Failure("timeout", kind=overdue.kind, message=overdue.message)


def traceback_text(error: BaseException) -> str:
    """An exception with its traceback, for a trial's log; of a very long one the end."""
    return "".join(traceback.format_exception(error))[-_MOST_TRACEBACK:] + "\n"


def failure_of(error: BaseException, *, trainer: Trainer) -> Failure:
    """Classify an exception of a trial: `oom`, `nan`, `timeout` or `error`, with its text and its place."""
    if isinstance(error, OutOfTime):
        return timeout(error.overdue)
    if isinstance(error, CannotWrite):  # recorded by nobody, but it comes home this way from another process
        return Failure("error", kind=CannotWrite.__name__, message=error.line)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" [at {Path(frames[-1].filename).name}:{frames[-1].lineno}]" if frames else ""
    return Failure(trainer.failure_kind(error), kind=type(error).__name__, message=_one_line(str(error)) + place)


def failed_row(
    trial: Trial,
    *,
    failure: Failure,
    context: StudyContext,
    attempt: int,
    started_at: datetime,
    last: Progress | None,
) -> TrialRow:
    """The row of a trial that did not get to its end; `last` is what it reported last, if anything in this attempt."""
    last = last or _last_reported(trial, context.ledger)
    return TrialRow(
        status=failure.status,
        error_kind=failure.kind,
        error=failure.message,
        metrics={},
        tokens_seen=last.tokens_seen if last else 0,
        budget_tokens=last.budget_tokens if last else 0,
        wall_s=last.wall_s if last else 0.0,
        data_hash=None,
        device="",
        **_identity(trial, context=context, attempt=attempt, started_at=started_at),
    )


def _measured_row(
    trial: Trial,
    *,
    result: Result,
    context: StudyContext,
    attempt: int,
    started_at: datetime,
    last: Progress | None,
) -> TrialRow:
    """The row of a trial that completed or was pruned; `last` as in `failed_row`."""
    last = last or _last_reported(trial, context.ledger)
    return TrialRow(
        status=_ENDS[result.verdict],
        error_kind=None,
        error=None,
        metrics=result.metrics,
        tokens_seen=result.tokens_seen,
        budget_tokens=result.budget_tokens,
        wall_s=last.wall_s if last else 0.0,
        data_hash=result.data_hash,
        device=result.device,
        **_identity(trial, context=context, attempt=attempt, started_at=started_at),
    )


def _last_reported(trial: Trial, ledger: Ledger) -> Progress | None:
    """What a trial reported last in an earlier attempt, if anything: one that went on at its very end has nothing left
    to report."""
    reports = ledger.history(trial.trial_id, columns=["tokens_seen", "budget_tokens", "wall_s"]).to_pylist()
    return Progress(**reports[-1], loss=None, value=None, warning="") if reports else None


def _identity(trial: Trial, *, context: StudyContext, attempt: int, started_at: datetime) -> dict[str, Any]:
    """The cells that say which trial a row is of, and where and when it ran."""
    return {
        "study": trial.study,
        "trial_id": trial.trial_id,
        "arm": trial.arm,
        "seed": trial.seed,
        "config_json": trial.config.to_json(),
        "params": trial.params,
        "audited": trial.audited,
        "predicted_peak_gib": trial.predicted_peak_gib,
        "gpu_fraction": trial.gpu_fraction,
        "attempt": attempt,
        "started_at": started_at,
        "finished_at": datetime.now(UTC),
        "git_commit": context.git_commit,
        "host": platform.node(),
        "versions": provenance.versions(),
    }


def _one_line(text: str) -> str:
    return escape.one_line(text, limit=500)
