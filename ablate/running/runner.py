"""What every runner is: it pulls trials from a source, trains them, and says what happens. With Ray or without."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

if TYPE_CHECKING:
    from ablate.records.rows import TrialRow
    from ablate.trainers import Report
    from ablate.trials.source import TrialSource
    from ablate.trials.trial import Trial


@dataclass(frozen=True)
class Progress:
    """A report on its way to whoever watches: flat, so that it travels as a dictionary of numbers.

    `loss` is the mean training loss since the last report and `value` the objective, both None where not measured.
    `warning` is what the tracker or the trainer had to say, once.
    """

    tokens_seen: int
    budget_tokens: int
    wall_s: float
    loss: float | None
    value: float | None
    warning: str

    @classmethod
    def of(cls, report: Report, *, objective: str, warning: str = "") -> Progress:
        """The progress that a report makes; `objective` names the metric to follow."""
        return cls(
            tokens_seen=report.tokens_seen,
            budget_tokens=report.budget_tokens,
            wall_s=report.wall_s,
            loss=sum(report.losses) / len(report.losses) if report.losses else None,
            value=_number(report.metrics[objective]) if objective in report.metrics else None,
            warning=warning,
        )

    @property
    def done(self) -> bool:
        """Whether the budget is used: what is left is to measure."""
        return self.tokens_seen >= self.budget_tokens

    def flat(self) -> dict[str, Any]:
        """As a dictionary; `Progress.from_flat` reads it back."""
        return asdict(self)

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any]) -> Progress:
        """What `flat` wrote, whatever else stands beside it."""
        return cls(**{name: flat[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Event:
    """Something that happened to a trial. `reported` brings `progress`, `ended` its final `row`; a trial that was
    interrupted ends without one."""

    trial: Trial
    kind: Literal["started", "reported", "ended"]
    progress: Progress | None = None
    row: TrialRow | None = None


Listener = Callable[[Event], None]


class Runner(Protocol):
    """Trains what a source gives until it gives None, or until `halt` asks to stop; leaves every end in the ledger."""

    @property
    def notice(self) -> str:
        """A line for the user, where there is something to say: where to watch."""
        ...

    def run(self, source: TrialSource) -> None:
        """Returns when all trials have ended or, after an interruption, have written what they go on from."""
        ...


GRACE_S = 8.0
"""Seconds that an interrupted trial may take to write a checkpoint and return."""


class Halt:
    """Whether the study is to stop: by Ctrl-C or SIGTERM, because its hours are over, or because it cannot be kept.

    Use it as a context: inside, the first signal asks the trials to write a checkpoint and return, the second raises
    KeyboardInterrupt at once.
    """

    def __init__(self, *, max_hours: float | None = None) -> None:
        self._deadline = None if max_hours is None else time.monotonic() + max_hours * 3600
        self._signalled = False
        self._fault = ""
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def reason(self) -> Literal["signal", "hours", "fault"] | None:
        """Why the study should stop; None while it should not."""
        if self._fault:
            return "fault"
        if self._signalled:
            return "signal"
        over = self._deadline is not None and time.monotonic() > self._deadline
        return "hours" if over else None

    @property
    def fault(self) -> str:
        """Why it cannot go on, on one line; "" where it can."""
        return self._fault

    def call_off(self, fault: str) -> None:
        """The study cannot go on: a full disk would turn every further trial into a failure that is none."""
        self._fault = self._fault or fault

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python takes signals nowhere else
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def reinstall_handlers(self) -> None:
        """Take the signals back from a library that installed handlers of its own."""
        for number in self._previous:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        if self._signalled:
            raise KeyboardInterrupt
        self._signalled = True


def _number(value: float | int | list[float]) -> float:
    assert not isinstance(value, list), "an objective is a single number"
    return float(value)
