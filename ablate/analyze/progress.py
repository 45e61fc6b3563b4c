"""A study's progress: trials that ended, by status; that started and did not end; that did not start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from ablate.analyze.basis.frames import records, rows, texts


@dataclass(frozen=True)
class Unfinished:
    """A trial that started and has no final row: it is running, or its process was killed."""

    trial_id: str
    tokens: int
    budget: int
    last_report: str


@dataclass(frozen=True)
class Progress:
    """Counts of a study's trials. `ended`: status -> count. `not_started`: at least 0."""

    planned: int
    ended: Mapping[str, int]
    unfinished: tuple[Unfinished, ...]
    not_started: int

    @property
    def final(self) -> int:
        """Trials with a final row."""
        return sum(self.ended.values())

    @property
    def completed(self) -> int:
        """Trials that used their whole budget."""
        return self.ended.get("completed", 0)

    @property
    def whole(self) -> bool:
        """Every planned trial has ended."""
        return not self.unfinished and not self.not_started


def progress(trials: pd.DataFrame, history: pd.DataFrame, *, planned: int, started: Sequence[str]) -> Progress:
    """`started`: ids of trials that have a history. Statuses are in the order of their counts, completed first."""
    counts = Counter(texts(trials, "status"))
    order = sorted(counts, key=lambda status: (status != "completed", -counts[status], status))
    final = set(texts(trials, "trial_id"))
    open_ids = [trial_id for trial_id in started if trial_id not in final]
    return Progress(
        planned=planned,
        ended={status: counts[status] for status in order},
        unfinished=tuple(_unfinished(trial_id, history) for trial_id in open_ids),
        not_started=max(0, planned - len(final) - len(open_ids)),
    )


def _unfinished(trial_id: str, history: pd.DataFrame) -> Unfinished:
    reports = rows(history, history["trial_id"] == trial_id)
    if reports.empty:
        return Unfinished(trial_id=trial_id, tokens=0, budget=0, last_report="")
    last = records(reports.sort_values("tokens_seen"))[-1]
    when = pd.Timestamp(last["time"]).strftime("%Y-%m-%d %H:%M:%S UTC")
    return Unfinished(trial_id, tokens=int(last["tokens_seen"]), budget=int(last["budget_tokens"]), last_report=when)
