"""The results of a search by the values of one parameter. Exploratory: a search is not a designed experiment, because
it draws more points where it has found good values, and the other parameters vary with this one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablate.analyze.basis.frames import completed, floats, rows, texts
from ablate.analyze.search.space import Dimension
from ablate.spec.models import Objective


@dataclass(frozen=True)
class GroupResult:
    """The ended trials of one value or bin. `mean`, `sd`, `best`: the objective of the completed trials alone, because
    a pruned trial's last value belongs to a smaller budget. `early`: the mean of completed and pruned trials at the
    budget that all reached. NaN where there are no such trials."""

    label: str
    n: int
    completed: int
    pruned: int
    mean: float
    sd: float
    best: float
    early: float = math.nan

    @property
    def pruned_share(self) -> float:
        """Pruned trials over ended ones; NaN where none ended."""
        return self.pruned / self.n if self.n else math.nan


@dataclass(frozen=True)
class Slice:
    """One parameter's groups, in the order of its values."""

    key: str
    groups: tuple[GroupResult, ...]


def slice_of(
    trials: pd.DataFrame, *, dimension: Dimension, objective: Objective, early: Mapping[str, float] | None = None
) -> Slice:
    """Group the ended trials of a search by one parameter. `early`: trial id -> objective at the common budget."""
    groups = dimension.groups(list(trials[dimension.column]))
    results = [_result(group.label, rows(trials, group.mask), objective, early or {}) for group in groups]
    return Slice(key=dimension.key, groups=tuple(results))


def _result(label: str, trials: pd.DataFrame, objective: Objective, early: Mapping[str, float]) -> GroupResult:
    at_budget = [early[trial_id] for trial_id in texts(trials, "trial_id") if trial_id in early]
    values = floats(completed(trials), objective.metric)
    values = values[np.isfinite(values)]
    return GroupResult(
        label=label,
        n=len(trials),
        completed=len(values),
        pruned=texts(trials, "status").count("pruned"),
        mean=float(values.mean()) if len(values) else math.nan,
        sd=float(values.std(ddof=1)) if len(values) > 1 else math.nan,
        best=float((values * objective.sign).min() * objective.sign) if len(values) else math.nan,
        early=float(np.mean(at_budget)) if at_budget else math.nan,
    )
