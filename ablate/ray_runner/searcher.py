"""Between Tune and a source of trials: Tune's calls go in, the source's answers come out, and every end is a row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ray.tune.search import Searcher

from ablate.errors import CannotWrite, writing
from ablate.ledger import TrialRow
from ablate.plan import Trial, TrialSource
from ablate.ray_runner.board import Board
from ablate.ray_runner.place import Place, last_words
from ablate.ray_runner.reaper import reap
from ablate.runner import Event, Halt, Listener, Progress
from ablate.trial import Desk, Failure, failed_row, record
from model.api import Verdict

TRIAL = "trial"
"""Key of Tune's configuration under which the whole trial stands."""

_STATUS, _KIND, _MESSAGE = "failure_status", "failure_kind", "failure_message"


def failure_result(failure: Failure | None) -> dict[str, Any]:
    """A driver's last result, by which a failure that the workers could not record themselves comes home."""
    if failure is None:
        return {}
    return {_STATUS: failure.status, _KIND: failure.kind, _MESSAGE: failure.message}


@dataclass
class _Running:
    trial: Trial
    started_at: datetime
    last: Progress | None = None


class SourceSearcher(Searcher):
    """A Tune searcher that asks a TrialSource. Tune's ids are its own; the source knows only the study's."""

    def __init__(self, source: TrialSource, *, desk: Desk, board: Board, halt: Halt, on_event: Listener) -> None:
        super().__init__()
        self._source, self._desk, self._board, self._halt, self._on_event = source, desk, board, halt, on_event
        self._running: dict[str, _Running] = {}
        self._condemned: dict[str, tuple[Failure, str]] = {}

    def condemn(self, trial_id: str, failure: Failure, log: str) -> None:
        """The trial (by the study's id) is being ended from outside: what for, and what it wrote last."""
        self._condemned[trial_id] = failure, log

    @property
    def busy(self) -> bool:
        """Whether a trial under way has reported, and so has something to write down before it returns."""
        return any(running.last is not None for running in self._running.values())

    def suggest(self, trial_id: str) -> Any:
        """The next trial, or Tune's word for no more."""
        trial = None
        with self._kept():
            trial = None if self._halt.reason else self._source.ask()
        if trial is None:
            return Searcher.FINISHED
        self._running[trial_id] = _Running(trial, datetime.now(UTC))
        self._on_event(Event(trial, "started"))
        return {TRIAL: trial}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A report has arrived: pass it on, and tell the trial to stop where the source has seen enough."""
        if _STATUS in result:
            return
        running, progress = self._running[trial_id], Progress.from_flat(result)
        running.last = progress
        self._on_event(Event(running.trial, "reported", progress=progress))
        name = running.trial.trial_id
        with self._kept():
            if self._source.report(name, tokens=progress.tokens_seen, value=progress.value) is Verdict.STOP:
                self._board.stop(name)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial has ended, in whatever way: free what it held and tell the source its row.

        The workers have written it, unless they died or the study was interrupted. An interrupted trial has none.
        """
        running = self._running.pop(trial_id)
        places, row = self._board.leave(running.trial.trial_id), None
        reap([place.group_id for place in places])
        with self._kept():
            row = self._desk.ledger.row(running.trial.trial_id) or self._failed(
                running, result or {}, place=places[-1] if places else None, error=error
            )
            if row is not None:
                self._source.tell(row)
        self._on_event(Event(running.trial, "ended", row=row))

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Inside, a full disk calls the study off: Tune would turn it into an error of its own."""
        try:
            with writing():
                yield
        except CannotWrite as full:
            self._halt.call_off(full.line)

    def _failed(
        self, running: _Running, result: dict[str, Any], *, place: Place | None, error: bool
    ) -> TrialRow | None:
        if self._halt.reason:
            return None
        log = None
        if running.trial.trial_id in self._condemned:
            failure, log = self._condemned.pop(running.trial.trial_id)
        elif _STATUS in result:
            failure = Failure(result[_STATUS], kind=result[_KIND], message=result[_MESSAGE])
            if failure.kind == CannotWrite.__name__:
                raise CannotWrite(failure.message)
        elif error:
            failure = Failure("lost", kind="DriverDied", message="the process that drove the trial died")
        else:
            return None  # its attempt was replaced by somebody else's, who will write the row
        ledger, name = self._desk.ledger, running.trial.trial_id
        attempt = ledger.attempt(name) or ledger.claim(name)
        if log is None:
            log = last_words(place, stack=False) if place else ""
        ledger.write_log(name, attempt=attempt, text=f"{failure.kind}: {failure.message}\n\n{log}")
        row = failed_row(
            running.trial,
            failure=failure,
            desk=self._desk,
            attempt=attempt,
            started_at=running.started_at,
            last=running.last,
        )
        # A worker that is slow to die may have written its own end in the meantime: that one counts.
        return record(row, ledger=ledger) or ledger.row(name)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its whole set-up for a restore that never happens, and a listener may hold a lock."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the truth, and Tune's snapshots are never restored."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""
