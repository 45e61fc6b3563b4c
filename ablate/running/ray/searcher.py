"""Connects Tune to a source of trials: passes Tune's calls on to the source, and makes every end a row."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from ray.tune.search import Searcher

from ablate.errors import CannotWrite, writing
from ablate.records.rows import TrialRow
from ablate.running.ray.coordinator import Leftovers
from ablate.running.ray.reaper import reap
from ablate.running.ray.run_context import RETRIES, RunContext
from ablate.running.ray.worker_place import worker_output
from ablate.running.runner import Event, Halt, Listener, Progress
from ablate.running.trial import Failure, final_row, record
from ablate.scheduling.admission import Admission, Usage
from ablate.trainers import Verdict
from ablate.trials.source import TrialSource
from ablate.trials.trial import Trial

TRIAL = "trial"
"""The key of Tune's configuration that holds the whole trial."""

_DRIVER_DIED = "the process that Tune started for the trial died"
"""That process drives the trial's workers, or trains the trial itself if it has none."""

_STATUS, _KIND, _MESSAGE = "failure_status", "failure_kind", "failure_message"


def failure_result(failure: Failure | None) -> dict[str, Any]:
    """A driver's last result: reports a failure that the workers could not record themselves."""
    if failure is None:
        return {}
    return {_STATUS: failure.status, _KIND: failure.kind, _MESSAGE: failure.message}


@dataclass
class _Running:
    trial: Trial
    started_at: datetime
    last: Progress | None = None
    failure: Failure | None = None
    tries: int = 1


class SourceSearcher(Searcher):
    """A Tune searcher that asks a TrialSource. `trial_id` is Tune's id here; the source knows only the study's ids."""

    def __init__(
        self, source: TrialSource, *, run_context: RunContext, halt: Halt, on_event: Listener, admission: Admission
    ) -> None:
        super().__init__()
        self._admission = admission
        self._source, self._halt, self._on_event = source, halt, on_event
        self._context, self._coordinator = run_context.context, run_context.coordinator
        self._running: dict[str, _Running] = {}
        self._lost: deque[_Running] = deque()
        self._memory_kill: Failure | None = None
        self._ended_from_outside: dict[str, tuple[Failure, str]] = {}

    def end_from_outside(self, trial_id: str, failure: Failure, log: str) -> None:
        """Note that the trial (by the study's id) is being ended from outside: why, and what it wrote last."""
        self._ended_from_outside[trial_id] = failure, log

    @property
    def has_reported(self) -> bool:
        """Whether a running trial has reported, so that it has something to write before it returns."""
        return any(running.last is not None for running in self._running.values())

    def killed_for_memory(self, error: Exception) -> None:
        """Note that Ray's memory monitor ended a process: that of the trial that Tune reports as failed next."""
        text = " ".join(str(error).split())[:500]
        self._memory_kill = Failure("oom", kind=type(error).__name__, message=text)

    def suggest(self, trial_id: str) -> Any:
        """The next trial; None if none can start now; FINISHED if there are no more."""
        running = None
        with self._halting_if_disk_full():
            running = self._next()
        if running is None:
            return Searcher.FINISHED if self._halt.reason or self._admission.done else None
        self._running[trial_id] = running
        if running.tries == 1:
            self._on_event(Event(running.trial, "started"))
        return {TRIAL: running.trial}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass a report on, and ask the trial to stop if the source prunes it."""
        running = self._running[trial_id]
        if _STATUS in result:
            running.failure = Failure(result[_STATUS], kind=result[_KIND], message=result[_MESSAGE])
            return
        progress = Progress.from_flat(result)
        running.last = progress
        if taken := Usage.from_flat(result):
            self._admission.reported(running.trial, taken)
        self._on_event(Event(running.trial, "reported", progress=progress))
        name = running.trial.trial_id
        with self._halting_if_disk_full():
            if self._source.report(name, tokens=progress.tokens_seen, value=progress.value) is Verdict.STOP:
                self._coordinator.stop(name)

    def on_trial_complete(
        self,
        trial_id: str,
        result: dict[str, Any] | None = None,  # noqa: ARG002 - on_trial_result has had it
        error: bool = False,
    ) -> None:
        """Free what an ended trial held, and give its row to the source.

        The workers have written the row, unless they died. An interrupted trial has no row.
        """
        running = self._running.pop(trial_id)
        name, log = running.trial.trial_id, ""
        left = self._coordinator.leave(name)
        reap(left.groups)
        if error and self._memory_kill:
            running.failure, self._memory_kill = self._memory_kill, None
        from_outside = name in self._ended_from_outside
        if from_outside:
            running.failure, log = self._ended_from_outside.pop(name)
        row = None
        with self._halting_if_disk_full():
            row = self._context.ledger.row(name)
            if row is None and not from_outside and self._retry(running, left, error=error):
                return
            row = row or self._record_failure(running, left, log=log)
            if row is not None:
                self._source.tell(row)
        self._admission.ended(running.trial, row)
        self._on_event(Event(running.trial, "ended", row=row))

    def _retry(self, running: _Running, left: Leftovers, *, error: bool) -> bool:
        """Whether a trial without a row will be tried again; otherwise set `running.failure`."""
        if left.oom is not None:
            running.failure = left.oom
            if not self._halt.reason and self._admission.try_larger(running.trial):
                self._on_event(Event(running.trial, "ended"))
                return True
        if error and running.failure is None:
            if running.tries <= RETRIES and self._halt.reason is None:
                self._lost.append(replace(running, tries=running.tries + 1))  # it keeps its place
                return True
            running.failure = Failure("lost", kind="DriverDied", message=_DRIVER_DIED)
        return False

    def _next(self) -> _Running | None:
        if self._halt.reason:
            return None
        if self._lost:
            return self._lost.popleft()
        trial = self._admission.next(self._source)
        return None if trial is None else _Running(trial, datetime.now(UTC))

    @contextmanager
    def _halting_if_disk_full(self) -> Iterator[None]:
        """Inside, a full disk halts the study; Tune would hide it in an error of its own."""
        try:
            with writing():
                yield
        except CannotWrite as full:
            self._halt.call_off(full.line)

    def _record_failure(self, running: _Running, left: Leftovers, *, log: str) -> TrialRow | None:
        """Record a failed trial, with `log` or its worker's last output. None if it may resume later."""
        failure = running.failure
        if self._halt.reason or failure is None:  # no failure: a newer attempt will write the row
            return None
        if failure.kind == CannotWrite.__name__:
            raise CannotWrite(failure.message)
        ledger, name = self._context.ledger, running.trial.trial_id
        attempt = ledger.attempt(name) or ledger.claim(name)
        if not log and left.places:
            log = worker_output(left.places[-1], stack=False)
        ledger.write_log(name, attempt=attempt, text=f"{failure.kind}: {failure.message}\n\n{log}")
        row = final_row(
            running.trial,
            end=failure,
            context=self._context,
            attempt=attempt,
            started_at=running.started_at,
            last=running.last,
        )
        # A worker that dies slowly may have written its own row meanwhile; that row counts.
        return record(row, ledger=ledger) or ledger.row(name)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its set-up for a restore that never happens, and a listener may hold a lock."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the ledger is the record, and Tune's snapshots are never restored."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing, see `save`."""
