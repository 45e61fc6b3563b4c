"""The runner without Ray: trains one trial after the other in this process, for debugging and machines without Ray."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ablate.errors import CannotWrite
from ablate.running.limits import Clock, Overdue, Watch
from ablate.running.runner import Event, Halt, Listener, Progress
from ablate.running.trial import StudyContext, by_trainer, final_row, record, run_trial, timeout
from ablate.running.watchdog import Unresponsive, Watchdog
from ablate.trainers import Config, Report, Result, Train, Verdict
from ablate.trials.source import TrialSource
from ablate.trials.trial import Trial


@dataclass(frozen=True)
class InlineRunner:
    """Implements `Runner`. `hard_s`: seconds after which a trial that hangs outside Python ends the whole process."""

    context: StudyContext
    halt: Halt
    on_event: Listener
    train: Train = by_trainer
    hard_s: float = 10.0

    @property
    def notice(self) -> str:
        """Empty: there is no dashboard."""
        return ""

    def run(self, source: TrialSource) -> None:
        """Train every trial of `source` in its order."""
        while self.halt.reason is None and (trial := source.ask()) is not None:
            self._run_one(trial, source)

    def _run_one(self, trial: Trial, source: TrialSource) -> None:
        last: Progress | None = None
        started_at = datetime.now(UTC)
        clock = Clock()
        watch = Watch(self.context.limits, now_s=clock.now_s())

        def tell(progress: Progress) -> Verdict:
            nonlocal last
            last = progress
            watch.note_report(wall_s=progress.wall_s, done=progress.done, now_s=clock.now_s())
            self.on_event(Event(trial, "reported", progress=progress))
            verdict = source.report(trial.trial_id, tokens=progress.tokens_seen, value=progress.value)
            return Verdict.INTERRUPT if self.halt.reason else verdict

        def give_up(overdue: Overdue | None) -> None:
            """Record and print why the trial ends. Runs in the watchdog's thread, since this one hangs."""
            if overdue is None:
                print(f"interrupted: trial {trial.trial_id} does not answer", file=sys.__stderr__)
                return
            attempt = self.context.ledger.attempt(trial.trial_id)
            failure = timeout(overdue)
            row = final_row(trial, end=failure, context=self.context, attempt=attempt, started_at=started_at, last=last)
            record(row, ledger=self.context.ledger)
            print(
                f"trial {trial.trial_id} {failure.status}: {failure.kind}: {failure.message}; the trial hangs"
                " outside Python, so this process ends with it; run the same command with --resume",
                file=sys.__stderr__,
            )

        grace_s = trial.config.trainer.stop_s
        watchdog = Watchdog(watch, clock=clock, halt=self.halt, give_up=give_up, hard_s=self.hard_s, grace_s=grace_s)
        self.on_event(Event(trial, "started"))
        row = None
        try:
            row = run_trial(trial, context=self.context, tell=tell, train=_watched(self.train, watchdog))
        except Unresponsive:
            pass  # like an interrupted trial: it resumes from its last checkpoint
        except CannotWrite as full:
            self.halt.call_off(full.line)
        if row is not None:
            source.tell(row)
        self.on_event(Event(trial, "ended", row=row))


def _watched(train: Train, watchdog: Watchdog) -> Train:
    """The trainer, watched while it trains but not while its row is written."""

    def watched(config: Config, report: Callable[[Report], Verdict], *, checkpoint_dir: Path) -> Result:
        with watchdog.watching():
            return train(config, report, checkpoint_dir=checkpoint_dir)

    return watched


@contextmanager
def start(context: StudyContext, *, halt: Halt, on_event: Listener) -> Iterator[InlineRunner]:
    """An inline runner, ready to run. It is a context because other runners need one; there is nothing to clean up."""
    yield InlineRunner(context, halt=halt, on_event=on_event)
