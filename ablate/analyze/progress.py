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
    """Counts of a study's trials. `ended`: status -> count. `left`: planned trials that have not ended; some of them
    are `unfinished`, the others did not start."""

    planned: int
    left: int
    ended: Mapping[str, int]
    unfinished: tuple[Unfinished, ...]

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
        return not self.left

    @property
    def not_started(self) -> int:
        """Planned trials that did not start."""
        return max(0, self.left - len(self.unfinished))


def progress(
    trials: pd.DataFrame, history: pd.DataFrame, *, planned: int, left: int, started: Sequence[str]
) -> Progress:
    """Count. Statuses are in the order of their counts, completed first.

    `started`: ids of trials that have a history. Where nothing is left, those that did not end are not planned any
    more.
    """
    counts = Counter(texts(trials, "status"))
    order = sorted(counts, key=lambda status: (status != "completed", -counts[status], status))
    final = set(texts(trials, "trial_id"))
    open_ids = [trial_id for trial_id in started if left and trial_id not in final]
    return Progress(
        planned=planned,
        left=left,
        ended={status: counts[status] for status in order},
        unfinished=tuple(_unfinished(trial_id, history) for trial_id in open_ids),
    )


def _unfinished(trial_id: str, history: pd.DataFrame) -> Unfinished:
    reports = rows(history, history["trial_id"] == trial_id)
    if reports.empty:
        return Unfinished(trial_id=trial_id, tokens=0, budget=0, last_report="")
    last = records(reports.sort_values("tokens_seen"))[-1]
    when = pd.Timestamp(last["time"]).strftime("%Y-%m-%d %H:%M:%S UTC")
    return Unfinished(trial_id, tokens=int(last["tokens_seen"]), budget=int(last["budget_tokens"]), last_report=when)
