"""The runner protocol: a runner takes trials from a source, trains them and reports events, with Ray or without."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
    """A report in short, flat so that it travels as a dictionary of numbers.

    `loss` is the mean training loss since the last report and `value` the objective; both are None if not measured.
    `warning` is a line of the tracker or the trainer, given once.
    """

    tokens_seen: int
    budget_tokens: int
    wall_s: float
    loss: float | None
    value: float | None
    warning: str

    @classmethod
    def of(cls, report: Report, *, objective: str, warning: str = "") -> Progress:
        """The progress in a report; `objective` names the metric to follow."""
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
        """Whether the budget is used. Only the final measurement is left then."""
        return self.tokens_seen >= self.budget_tokens

    def flat(self) -> dict[str, Any]:
        """As a dictionary that `from_flat` reads back."""
        return asdict(self)

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any]) -> Progress:
        """What `flat` wrote; other keys are ignored."""
        return cls(**{name: flat[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Event:
    """Something that happened to a trial. `reported` has `progress`; `ended` has the final `row`, or None if the trial
    was interrupted."""

    trial: Trial
    kind: Literal["started", "reported", "ended"]
    progress: Progress | None = None
    row: TrialRow | None = None


Listener = Callable[[Event], None]


class Runner(Protocol):
    """Trains the trials of a source until it gives None or `halt` asks to stop. Every end is a row in the ledger."""

    @property
    def notice(self) -> str:
        """A line that says where to watch the study; "" if there is nothing to say."""
        ...

    def run(self, source: TrialSource) -> None:
        """Train the trials. Returns when all have ended or, after an interruption, have written a checkpoint."""
        ...


ASKING = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU),  # a batch system's warning before it kills a job
)
"""Signals that ask a study to stop. Each would otherwise end the process without a word, and leave Ray's behind."""

_FAULT = "ABLATE_FAULT"
"""The variable by which a process tells the one that takes its place why."""


class Halt:
    """Whether the study should stop: after Ctrl-C or SIGTERM, after its hours, or because results cannot be written.

    Use it as a context. Inside, the first signal asks the trials to write a checkpoint and return; the second raises
    KeyboardInterrupt at once, though not while a module is imported (see `importing`). Those other than Ctrl-C and
    SIGTERM count unless they are ignored (SIGHUP by `nohup`).
    """

    def __init__(self, *, max_hours: float | None = None) -> None:
        self._deadline = None if max_hours is None else time.monotonic() + max_hours * 3600
        self._signalled = False
        self._fault = os.environ.pop(_FAULT, "")
        self._abandoned = bool(self._fault)
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def reason(self) -> Literal["signal", "hours", "fault"] | None:
        """Why the study should stop; None while it may continue."""
        if self._fault:
            return "fault"
        if self._signalled:
            return "signal"
        over = self._deadline is not None and time.monotonic() > self._deadline
        return "hours" if over else None

    @property
    def fault(self) -> str:
        """Why the study cannot continue, on one line; "" if it can."""
        return self._fault

    def call_off(self, fault: str) -> None:
        """Stop the study because of `fault`: on a full disk every further trial would fail as well."""
        self._fault = self._fault or fault

    @property
    def abandoned(self) -> bool:
        """Whether what trains the trials is gone, so that nobody may wait for it."""
        return self._abandoned

    def abandon(self, fault: str) -> None:
        """Stop at once because of `fault`, from any thread: the main thread gets a KeyboardInterrupt."""
        self.call_off(fault)
        self._abandoned = True
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    @staticmethod
    def start_over(fault: str) -> None:
        """Replace this process, whose main thread cannot be interrupted, by one that runs the same command. Its halt is
        abandoned because of `fault` from the start, so that it only has to write the report."""
        os.environ[_FAULT] = fault
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

    def settle(self) -> None:
        """From now on signals do nothing if the study should stop: its end takes seconds, and is not left half done."""
        if self.reason:
            for number in self._previous:
                signal.signal(number, signal.SIG_IGN)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python handles signals only there
            for number in ASKING:
                if number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        if self._abandoned or (self._signalled and not importing(frame)):
            raise KeyboardInterrupt
        self._signalled = True


def importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported in this frame or in one that called it.

    No exception may be raised there from outside: torch ends the process (SIGSEGV) where its import is cut off, or it
    stays half imported, and all that later needs it in this process fails.
    """
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


@contextmanager
def undisturbed() -> Iterator[None]:
    """Inside, signals that ask to stop do nothing, so that the end of a study is not left half done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ASKING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _number(value: float | int | list[float]) -> float:
    assert not isinstance(value, list), "an objective is a single number"
    return float(value)
