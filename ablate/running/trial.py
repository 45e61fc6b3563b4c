"""The edge of a trial: whatever happens inside its training becomes one row of the ledger, or none."""

from __future__ import annotations

import os
import platform
import sysconfig
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

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

_LIBRARIES = tuple(f"{folder}{os.sep}" for folder in (sysconfig.get_paths()["stdlib"], Path(__file__).parents[1]))
"""Python's and this package."""

_MOST_TRACEBACK = 16 * 2**10  # characters

_ENDS: dict[Verdict, Status] = {Verdict.CONTINUE: "completed", Verdict.STOP: "pruned"}


class TryAgain(Exception):
    """The trial has not ended: its runner tries it again or records the end itself."""


def by_trainer(config: Config, report: Callable[[Report], Verdict], *, checkpoint_dir: Path) -> Result:
    """Train with the configuration's own trainer. This is the usual `Train`."""
    return config.trainer.train(config, report, checkpoint_dir=checkpoint_dir)


@dataclass(frozen=True)
class StudyContext:
    """What all trials of a study share. It is pickled for workers. `objective` names the metric to follow."""

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
    """Claim the next attempt at `trial`, train it, record every report and the end. This is rank 0's part of a trial.

    `tell` is called after each report is on disk; the trainer gets its verdict. With `only_rank` False other ranks
    train the same trial, and an exception is raised and not recorded, since only the group's owner sees which rank
    failed first. Returns the final row, or None if there is none: the trial was interrupted, will be tried again, or a
    newer attempt replaced it (raises StaleAttempt then if not `only_rank`). Raises CannotWrite if the disk is full: the
    trial did not fail then, so it has no row.
    """
    with writing():
        return _run(trial, context=context, tell=tell, only_rank=only_rank, train=train)


def _run(
    trial: Trial, *, context: StudyContext, tell: Callable[[Progress], Verdict], only_rank: bool, train: Train
) -> TrialRow | None:
    ledger, started_at = context.ledger, datetime.now(UTC)
    attempt, folder = ledger.claim(trial.trial_id), ledger.checkpoint_dir(trial.trial_id, own=True)
    code_hash = trial.config.trainer.code_hash  # that of now: the code may be edited while it trains
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
            if verdict is Verdict.STOP and last.done:  # all cost is spent and only the measurement is left
                return Verdict.CONTINUE
            if verdict is Verdict.CONTINUE and not last.done:
                overdue = context.limits.spent(now.wall_s)
                return Verdict.STOP if overdue else verdict
            return verdict

        end: Failure | Result
        try:
            end = train(trial.config, report, checkpoint_dir=folder)
            ledger.keep_checkpoint(trial.trial_id, attempt=attempt)
            if printed := trial.config.trainer.output(folder):
                ledger.write_log(trial.trial_id, attempt=attempt, text=printed)
        except StaleAttempt:
            if not only_rank:  # the other ranks wait for this one until their group ends
                raise
            return None
        except Exception as error:  # the trial's edge: every exception becomes a row
            if full_disk(error):
                raise
            printed = trial.config.trainer.output(folder) or output.tail()
            ledger.write_log(trial.trial_id, attempt=attempt, text=traceback_text(error) + printed)
            if not only_rank:
                raise
            if isinstance(error, TryAgain):
                return None
            end = failure_of(error, trainer=trial.config.trainer)
        else:
            if end.verdict is Verdict.INTERRUPT:
                return None
            if overdue is not None:
                end = timeout(overdue)
        row = final_row(
            trial, end=end, context=context, attempt=attempt, started_at=started_at, last=last, code_hash=code_hash
        )
        if not isinstance(end, Failure):
            ledger.write_samples(trial.trial_id, end.samples)
        tracker.end(row)
    return record(row, ledger=ledger)


def follow_trial(
    trial: Trial, *, context: StudyContext, tell: Callable[[Report], Verdict], train: Train = by_trainer
) -> None:
    """Every other rank's part of a trial: it trains and records nothing. Exceptions go to the group's owner."""
    train(trial.config, tell, checkpoint_dir=context.ledger.checkpoint_dir(trial.trial_id, own=True))


def record(row: TrialRow, *, ledger: Ledger) -> TrialRow | None:
    """Write a final row; None if a newer attempt replaced this one or the trial has a final row already."""
    try:
        ledger.finish(row)
    except StaleAttempt:
        return None
    return row


def timeout(overdue: Overdue) -> Failure:
    """The failure of a trial that took too long or did not report."""
    return Failure("timeout", kind=overdue.kind, message=overdue.message)


def traceback_text(error: BaseException) -> str:
    """An exception with its traceback, for a trial's log; a very long one is cut at the start."""
    return "".join(traceback.format_exception(error))[-_MOST_TRACEBACK:] + "\n"


def failure_of(error: BaseException, *, trainer: Trainer) -> Failure:
    """Classify an exception of a trial as `oom`, `nan`, `timeout` or `error`, with its text and source line."""
    if isinstance(error, OutOfTime):
        return timeout(error.overdue)
    if isinstance(error, CannotWrite):  # gets no row, but another process sends it home this way
        return Failure("error", kind=CannotWrite.__name__, message=error.line)
    frames = traceback.extract_tb(error.__traceback__)
    # The place in what the user writes, rather than in a library that it calls.
    written = [frame for frame in frames if not _is_library(frame.filename)]
    frames = written if type(error).__module__.startswith("ablate.") else written or frames
    place = f" [at {Path(frames[-1].filename).name}:{frames[-1].lineno}]" if frames else ""
    message = escape.one_line(str(error), limit=500) + place
    return Failure(trainer.failure_kind(error), kind=type(error).__name__, message=message)


def _is_library(file: str) -> bool:
    return "site-packages" in file or file.startswith((*_LIBRARIES, "<"))


def final_row(
    trial: Trial,
    *,
    end: Failure | Result,
    context: StudyContext,
    attempt: int,
    started_at: datetime,
    last: Progress | None,
    code_hash: str | None = None,
) -> TrialRow:
    """The row of a trial that ended. `last` is its last report in this attempt; None takes that of earlier attempts.
    `code_hash`: of the code when it began; None takes that of now."""
    last = last or _last_reported(trial, context.ledger)
    failed = isinstance(end, Failure)
    return TrialRow(
        study=trial.study,
        trial_id=trial.trial_id,
        arm=trial.arm,
        seed=trial.seed,
        status=end.status if failed else _ENDS[end.verdict],
        error_kind=end.kind if failed else None,
        error=end.message if failed else None,
        config_json=trial.config.to_json(),
        params=trial.params,
        metrics={} if failed else end.metrics,
        tokens_seen=(last.tokens_seen if last else 0) if failed else end.tokens_seen,
        budget_tokens=(last.budget_tokens if last else 0) if failed else end.budget_tokens,
        wall_s=last.wall_s if last else 0.0,
        audited=trial.audited,
        predicted_peak_gib=trial.predicted_peak_gib,
        gpu_fraction=trial.gpu_fraction,
        attempt=attempt,
        started_at=started_at,
        finished_at=datetime.now(UTC),
        git_commit=context.git_commit,
        data_hash=None if failed else end.data_hash,
        host=platform.node(),
        device="" if failed else end.device,
        versions=provenance.versions(),
        code_hash=(trial.config.trainer.code_hash if code_hash is None else code_hash) or None,
        data_digest=None if failed else end.data_digest or None,
    )


def _last_reported(trial: Trial, ledger: Ledger) -> Progress | None:
    """What a trial reported last in an earlier attempt, if anything. A trial that resumes at its very end reports
    nothing more."""
    reports = ledger.history(trial.trial_id, columns=["tokens_seen", "budget_tokens", "wall_s"]).to_pylist()
    return Progress(**reports[-1], loss=None, value=None, warning="") if reports else None
