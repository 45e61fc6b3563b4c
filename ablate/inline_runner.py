"""The runner without Ray: one trial after the other, in this process. For debugging, and for machines without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ablate.plan import Trial, TrialSource
from ablate.runner import Event, Halt, Listener, Progress
from ablate.trial import Desk, Train, run_trial
from model.api import Verdict
from model.api import train as model_train


@dataclass(frozen=True)
class InlineRunner:
    """Implements `Runner`."""

    desk: Desk
    halt: Halt
    on_event: Listener
    train: Train = model_train

    @property
    def notice(self) -> str:
        """Nothing to watch but the table."""
        return ""

    def run(self, source: TrialSource) -> None:
        """Train every trial of `source`, in its order."""
        while self.halt.reason is None and (trial := source.ask()) is not None:
            self._run_one(trial, source)

    def _run_one(self, trial: Trial, source: TrialSource) -> None:
        def tell(progress: Progress) -> Verdict:
            self.on_event(Event(trial, "reported", progress=progress))
            verdict = source.report(trial.trial_id, tokens=progress.tokens_seen, value=progress.value)
            return Verdict.INTERRUPT if self.halt.reason else verdict

        self.on_event(Event(trial, "started"))
        row = run_trial(trial, desk=self.desk, tell=tell, train=self.train)
        if row is not None:
            source.tell(row)
        self.on_event(Event(trial, "ended", row=row))


@contextmanager
def start(desk: Desk, *, halt: Halt, on_event: Listener) -> Iterator[InlineRunner]:
    """An inline runner, ready to run. There is nothing to clean up; the context is the shape that runners share."""
    yield InlineRunner(desk, halt=halt, on_event=on_event)
