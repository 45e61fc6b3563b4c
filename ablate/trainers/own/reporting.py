"""Checks what a trainer reports, remembers it between attempts, and says what the trial's metrics are at its end."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablate.errors import nearest
from ablate.trainers.own.meters import Meters
from ablate.trainers.own.settings import MEASURED, OwnMetric, Settings
from ablate.trainers.protocol import Report, Verdict

OWN_FOLDER = ".ablate"
"""In a trial's folder: what the suite keeps there beside the user's files."""


class WrongReport(ValueError):
    """A report that breaks a rule, or a trial that ended without what it must report."""


class NotFinite(ArithmeticError):
    """A metric that is NaN or infinite."""


@dataclass
class State:
    """What a trial has reported over all attempts. `last`, `best`: metric -> (progress, value)."""

    attempt: int = 0
    wall_s: float = 0.0
    progress: int = 0
    last: dict[str, tuple[int, float]] = field(default_factory=dict)
    best: dict[str, tuple[int, float]] = field(default_factory=dict)
    digest: str = ""

    @classmethod
    def read(cls, folder: Path) -> State:
        """The state of earlier attempts; a fresh one where there is none, or a killed machine left half of it."""
        try:
            return cls(**json.loads((folder / OWN_FOLDER / "state.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return cls()

    def write(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        path = folder / OWN_FOLDER / "state.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".tmp")
        half.write_text(json.dumps(vars(self)), encoding="utf-8")
        half.replace(path)


class Reporting:
    """The reports of one attempt at a trial. `tell` records a report and says how to go on; `keeps`: whether this
    process, the first of its ranks, keeps the state."""

    def __init__(
        self,
        settings: Settings,
        *,
        budget: int,
        folder: Path,
        tell: Callable[[Report], Verdict],
        meters: Meters,
        keeps: bool = True,
    ) -> None:
        self._settings, self._budget, self._folder, self._tell = settings, budget, folder, tell
        self._meters, self._keeps, self._began = meters, keeps, time.monotonic()
        self._said = -1
        self.verdict = Verdict.CONTINUE
        self.state = State.read(folder)
        self._before_s = self.state.wall_s
        meters.begin(self.state.progress)
        self.state.attempt += 1
        if keeps:
            self.state.write(folder)

    def take(self, progress: Any, metrics: Mapping[str, Any], *, digest: str = "") -> Verdict:
        """Check a report, record it, and return how to go on. Raises WrongReport and NotFinite."""
        unit = self._settings.budget.unit
        now = whole(progress)
        if now is None or now < 0:
            raise WrongReport(f"report: {_shown(progress)} is not a whole number of {unit}")
        if now < self._said:
            raise WrongReport(f"report: {unit} went backwards, from {self._said:,} to {now:,}")
        values = {name: self._number(name, value, now) for name, value in metrics.items()}
        self._said, state = now, self.state
        state.progress, state.digest = now, digest or state.digest
        for name, value in values.items():
            if name not in self._settings.metrics:
                continue  # measured by the suite, and reported by the trainer instead
            state.last[name] = (now, value)
            if name not in state.best or _is_better(value, state.best[name][1], self._settings.metrics[name]):
                state.best[name] = (now, value)
        state.wall_s = self._before_s + time.monotonic() - self._began
        if self._keeps:
            state.write(self._folder)
        measured = {**self._meters.metrics(progress=now), **values}
        self.verdict = self._tell(Report(now, now, self._budget, state.wall_s, None, [], measured))
        return self.verdict

    def end(self) -> dict[str, float]:
        """The trial's metrics. Raises WrongReport where the budget is not used up or a metric is missing; a trial that
        was stopped has those that it has reported."""
        state, unit = self.state, self._settings.budget.unit
        stopped = self.verdict is not Verdict.CONTINUE
        if not stopped and not state.last:
            raise WrongReport("it ended without a report; call trial.report, ablate.report, or print the metrics")
        if not stopped and state.progress < self._budget:
            rule = f"its last report is at {state.progress:,} of {self._budget:,} {unit}"
            raise WrongReport(f"{rule}; train the whole budget, and report at its end")
        found = {}
        for name, metric in self._settings.metrics.items():
            at, value = (state.best if metric.of == "best" else state.last).get(name, (0, math.nan))
            if not stopped and name not in state.last:
                raise WrongReport(f"it did not report {name}, which the study file declares")
            if not stopped and metric.of == "last" and at < self._budget:
                rule = f"its last {name} is of {at:,} of {self._budget:,} {unit}"
                raise WrongReport(f"{rule}; report it at the end of the budget, or declare `of: best`")
            if name in state.last:
                found[name] = value
        return {**self._meters.metrics(progress=state.progress), **found}

    def _number(self, name: str, value: Any, now: int) -> float:
        if name not in self._settings.metrics and name not in MEASURED:
            hint = nearest(str(name), list(self._settings.metrics))
            raise WrongReport(f"report: {_shown(name)} is not declared in the study file's trainer.metrics; {hint}")
        if isinstance(value, str | bytes | bool) or not hasattr(value, "__float__"):
            raise WrongReport(f"report: {name} is {_shown(value)}, not a number")
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError):
            raise WrongReport(f"report: {name} is {_shown(value)}, not a single number") from None
        if not math.isfinite(number):
            raise NotFinite(f"{name} is {number} at {now:,} {self._settings.budget.unit}")
        return number


def whole(value: Any) -> int | None:
    """A whole number in any type that has one (numpy's, a tensor of one element); None where it is none."""
    if isinstance(value, str | bytes | bool) or not hasattr(value, "__float__"):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return int(number) if number.is_integer() and abs(number) < 2**53 else None


def _is_better(value: float, best: float, metric: OwnMetric) -> bool:
    return value > best if metric.better == "max" else value < best


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
