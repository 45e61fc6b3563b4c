"""How long a trial may train, and how long it may go without a report.

Pure: callers pass the time of a `Clock`. A trial checks its own limit at every report and stops by
itself. The process that watches it from outside waits a little longer, then ends a trial that did not stop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ablate import formatting

_GRACE_SHARE, _MAX_GRACE_S = 0.1, 60.0
"""Extra time beyond the limit (a share of it, at most these seconds) before a trial is ended from outside, since it may
be about to report."""


_LONGEST_GAP_S = 3.0
"""More time than this between two looks at the clock means that this process did not run."""


class Clock:
    """Counts the seconds in which this process ran. It stands still while the process is stopped (SIGSTOP, a suspended
    job, a frozen container): its trials are then not to blame for their silence. Read it at least once a second."""

    def __init__(self, read: Callable[[], float] = time.monotonic) -> None:
        self._read, self._lock = read, threading.Lock()
        self._last_s, self._stopped_s = read(), 0.0

    def now_s(self) -> float:
        """The time, in seconds since some moment."""
        with self._lock:
            gap_s = self._read() - self._last_s
            self._last_s += gap_s
            self._stopped_s += max(0.0, gap_s - _LONGEST_GAP_S)
            return self._last_s - self._stopped_s


@dataclass(frozen=True)
class Overdue:
    """Why a trial must end: `TimeLimit`, or `Stalled` if it has not reported."""

    kind: Literal["TimeLimit", "Stalled"]
    message: str


@dataclass(frozen=True)
class Limits:
    """`max_s`: seconds of training over all attempts; `stall_s`: seconds without a report. None: no limit."""

    max_s: float | None = None
    stall_s: float | None = None

    def spent(self, wall_s: float) -> Overdue | None:
        """Why a trial that has trained for `wall_s` must end; None if it may train on. Asked at every report."""
        if self.max_s is None or wall_s <= self.max_s:
            return None
        hint = "raise resources.max_hours, or give it a smaller budget"
        return Overdue(
            "TimeLimit", f"it trained for {_time(wall_s)}, resources.max_hours is {_time(self.max_s)}; {hint}"
        )


class OutOfTime(Exception):
    """Raised in a trial to end it at once."""

    def __init__(self, overdue: Overdue) -> None:
        super().__init__(overdue)
        self.overdue = overdue

    def __str__(self) -> str:
        """The reason."""
        return self.overdue.message


class Watch:
    """Measures one trial's time from the start of its process. `now_s` comes from one `Clock`."""

    def __init__(self, limits: Limits, *, now_s: float) -> None:
        self._limits, self._last_report_s = limits, now_s
        self._reported, self._is_measuring, self._wall_s = False, False, 0.0

    def note_report(self, *, wall_s: float, done: bool, now_s: float) -> None:
        """Note a report: the trial has trained for `wall_s`. `done`: it has used its budget and is being measured."""
        self._last_report_s, self._reported, self._is_measuring, self._wall_s = now_s, True, done, wall_s

    def overdue(self, *, now_s: float) -> Overdue | None:
        """Why the trial must be ended from outside; None if it need not be."""
        silent_s, limits = now_s - self._last_report_s, self._limits
        if limits.stall_s is not None and silent_s > limits.stall_s:
            since = "its last report" if self._reported else "its start"
            rule = f"no report for {_time(silent_s)} since {since}, resources.stall_minutes is {_time(limits.stall_s)}"
            return Overdue("Stalled", f"{rule}; its log says where it was")
        if limits.max_s is None or self._is_measuring:
            return None
        return limits.spent(self._wall_s + silent_s - min(_GRACE_SHARE * limits.max_s, _MAX_GRACE_S))


def _time(seconds: float) -> str:
    return formatting.duration(seconds)
