"""The progress of a running study, counted from its events. Pure: no clock, no terminal, no files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ablate.analyze.basis import points
from ablate.running.runner import Event, Progress
from ablate.spec.designs import is_preparation

if TYPE_CHECKING:
    from ablate.records.rows import TrialRow
    from ablate.spec.models import Objective
    from ablate.trials.trial import Trial

_MIN_SHARE = 0.05
"""The share of a budget that must be used before the time left is extrapolated from it."""


@dataclass
class Running:
    """A trial that runs since `since` (seconds on the caller's clock)."""

    trial: Trial
    since: float
    progress: Progress | None = None

    @property
    def share(self) -> float:
        """The share of the budget that is used, 0 to 1."""
        if self.progress is None or not self.progress.budget_tokens:
            return 0.0
        return min(1.0, self.progress.tokens_seen / self.progress.budget_tokens)


@dataclass
class StudyProgress:
    """Counts events. `planned`: all trials of the study; `seeds`: of a point of its search; `rows`: final rows, at
    first those of earlier runs."""

    objective: Objective
    planned: int
    seeds: int = 1
    rows: list[TrialRow] = field(default_factory=list)
    running: dict[str, Running] = field(default_factory=dict)
    _took_s: list[float] = field(default_factory=list)
    _most_at_once: int = 1

    def add(self, event: Event, *, now_s: float) -> None:
        """Count an event that happened at `now_s` on the caller's clock."""
        name = event.trial.trial_id
        if event.kind == "started":
            self.running[name] = Running(event.trial, since=now_s)
            self._most_at_once = max(self._most_at_once, len(self.running))
        elif event.kind == "reported":
            self.running[name].progress = event.progress
        else:
            ended = self.running.pop(name)
            if event.row is not None:
                self.rows.append(event.row)
                self._took_s.append(now_s - ended.since)

    @property
    def ended(self) -> Counter[str]:
        """How many trials ended with each status."""
        return Counter(row.status for row in self.rows)

    @property
    def left(self) -> int:
        """How many trials have not started."""
        return max(0, self.planned - len(self.rows) - len(self.running))

    @property
    def best(self) -> tuple[TrialRow, float] | None:
        """The search's best point so far and its value, as `best_of_search` gives them; None before the first."""
        return best_of_search(self.rows, objective=self.objective, seeds=self.seeds)

    def left_s(self, *, now_s: float) -> float | None:
        """Seconds until all planned trials have ended, estimated from how long trials took; None while unknown.

        Assumes that trials take the mean time of those that ended, and that as many run at once as the most so far.
        Before the first end, the trial that is furthest is extrapolated, once it has used 5% of its budget.
        """
        if self._took_s:
            each = sum(self._took_s) / len(self._took_s)
        else:
            ahead = max(self.running.values(), key=lambda one: one.share, default=None)
            if ahead is None or ahead.progress is None or ahead.share < _MIN_SHARE:
                return None
            trained_s = ahead.progress.wall_s
            each = (now_s - ahead.since - trained_s) + trained_s / ahead.share
        under_way = [max(0.0, each - (now_s - one.since)) for one in self.running.values()]
        whole = (sum(under_way) + self.left * each) / self._most_at_once
        return max([whole, *under_way])


def best_of_study(rows: Sequence[TrialRow], *, objective: Objective, seeds: int = 1) -> tuple[TrialRow, float] | None:
    """A study's best trial and its objective value; None if there is none.

    The search's best trial comes first, then the arms' best. Trials that tune or calibrate do not count as results. Do
    not show it as the best: the lowest value over arms and seeds is no answer (`best_of_search` is one)."""
    return best_of_search(rows, objective=objective, seeds=seeds) or best_of(
        [row for row in rows if not is_preparation(row.arm)], objective=objective
    )


def best_of_search(rows: Sequence[TrialRow], *, objective: Objective, seeds: int = 1) -> tuple[TrialRow, float] | None:
    """The search's best point by its mean over `seeds`: the trial of its first seed, and the mean. None where no point
    has one."""
    found = points.ranked(rows, objective=objective, seeds=seeds)
    return (found[0][0].first, found[0][1]) if found else None


def best_of(rows: Iterable[TrialRow], *, objective: Objective) -> tuple[TrialRow, float] | None:
    """The best of the completed trials among `rows` and its objective value; None if there is none."""
    found = measured(rows, objective.metric)
    return min(found, key=lambda pair: (objective.sign * pair[1], pair[0].trial_id), default=None)


def measured(rows: Iterable[TrialRow], metric: str) -> list[tuple[TrialRow, float]]:
    """The completed trials that have a value of `metric`, with it."""
    found = [(row, points.value_of(row, metric)) for row in rows]
    return [(row, value) for row, value in found if value is not None]
