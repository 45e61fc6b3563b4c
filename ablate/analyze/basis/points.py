"""The points of a search: the trials that have the same values, on the search's seeds, and what a point is worth.

A point that lacks a seed, or has a failed one, has no mean: what makes one seed fail may lie in the point's values, and
a mean over the other seeds would hide it.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from ablate.formatting import LARGEST
from ablate.spec.designs import SEARCH
from ablate.spec.models import Objective


class Ended(Protocol):
    """What counts of a trial that has ended."""

    @property
    def trial_id(self) -> str: ...
    @property
    def arm(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def status(self) -> Any: ...
    @property
    def params(self) -> Mapping[str, Any]: ...
    @property
    def metrics(self) -> Mapping[str, Any]: ...


E = TypeVar("E", bound=Ended)


@dataclass(frozen=True)
class Point(Generic[E]):
    """A point and those of its trials that have ended, by seed. `seeds`: how many it has when it is whole."""

    ends: tuple[E, ...]
    seeds: int

    @property
    def first(self) -> E:
        """The trial of the point's first seed, which names it."""
        return self.ends[0]

    @property
    def trial_id(self) -> str:
        """The id of the trial of the first seed."""
        return self.first.trial_id

    @property
    def whole(self) -> bool:
        """Whether all its trials have ended."""
        return len(self.ends) >= self.seeds

    @property
    def failed(self) -> dict[int, str]:
        """Seed -> how it ended, of every seed that did not complete."""
        return {end.seed: str(end.status) for end in self.ends if end.status != "completed"}

    @property
    def status(self) -> str:
        """The status of the first seed that did not complete; else `completed`, or `unfinished` while a seed lacks."""
        return next(iter(self.failed.values()), "completed" if self.whole else "unfinished")

    def values(self, metric: str) -> list[float]:
        """The values of the trials that completed."""
        found = (value_of(end, metric) for end in self.ends)
        return [value for value in found if value is not None]

    def mean(self, metric: str) -> float | None:
        """The mean over all seeds; None where a seed lacks or has no value."""
        values = self.values(metric)
        return statistics.fmean(values) if len(values) == len(self.ends) and self.whole else None

    def sd(self, metric: str) -> float:
        """The standard deviation over the seeds; NaN of a single value."""
        values = self.values(metric)
        return statistics.stdev(values) if len(values) > 1 else math.nan


def value_of(end: Ended, metric: str) -> float | None:
    """What a completed trial measured; None without a value. Neither NaN nor what is beyond LARGEST is one."""
    value = end.metrics[metric] if end.status == "completed" and metric in end.metrics else None
    return None if value is None or not abs(value) <= LARGEST else float(value)


def of(ends: Iterable[E], *, seeds: int) -> list[Point[E]]:
    """The points of the search's trials among `ends`. With one seed every trial is a point of its own."""
    found: dict[str, dict[int, E]] = {}
    for end in ends:
        if end.arm == SEARCH:
            name = end.trial_id if seeds == 1 else json.dumps(dict(end.params), sort_keys=True, default=str)
            found.setdefault(name, {})[end.seed] = end
    return [Point(tuple(own[seed] for seed in sorted(own)), seeds) for own in found.values()]


def ranked(ends: Iterable[E], *, objective: Objective, seeds: int) -> list[tuple[Point[E], float]]:
    """The points that have a mean, with it, best first; equal ones in the order of their ids."""
    means = [(point, point.mean(objective.metric)) for point in of(ends, seeds=seeds)]
    found = [(point, mean) for point, mean in means if mean is not None]
    return sorted(found, key=lambda pair: (objective.sign * pair[1], pair[0].trial_id))
