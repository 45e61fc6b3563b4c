"""Which parameters separate the best trials from the rest: PED-ANOVA (Watanabe et al. 2023, arXiv 2304.10255), the
default of Optuna 5, which needs no surrogate model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from ablate.analyze.best import Objective, ranked
from ablate.analyze.frames import records
from ablate.analyze.space import Dimension, Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

NEEDED = 30  # completed trials: it looks at the best tenth, and under three of those tell nothing


@dataclass(frozen=True)
class Importances:
    """Shares that sum to 1, largest first; empty while `missing` more completed trials are needed."""

    shares: tuple[tuple[str, float], ...]
    completed: int
    missing: int


def importances(trials: pd.DataFrame, *, space: Sequence[Dimension], objective: Objective) -> Importances:
    """Importances over the completed trials of a search, each parameter on the scale it was drawn on."""
    order = ranked(trials, objective=objective)
    missing = max(0, NEEDED - len(order))
    if missing or not space:
        return Importances(shares=(), completed=len(order), missing=missing)
    from optuna import Study, importance, storages, trial  # a second of imports: only where there is something to tell
    from optuna.study import StudyDirection

    # Made by the storage and not by create_study, which would announce it on stderr.
    storage = storages.InMemoryStorage()
    storage.create_new_study([StudyDirection.MINIMIZE], "importances")
    study = Study("importances", storage)
    distributions = {dimension.key: _distribution(dimension) for dimension in space}
    for row in records(order):
        params = {dimension.key: _drawn(dimension, row[dimension.column]) for dimension in space}
        value = objective.sign * float(row[objective.metric])
        study.add_trial(trial.create_trial(params=params, distributions=distributions, value=value))
    shares = importance.get_param_importances(study)
    return Importances(shares=tuple(shares.items()), completed=len(order), missing=0)


def _distribution(dimension: Dimension) -> BaseDistribution:
    """The dimension as Optuna draws it; 1 - x is what a one_minus_loguniform is log-uniform in."""
    from optuna import distributions

    low, high = dimension.low, dimension.high
    match dimension.kind:
        case "choice":
            return distributions.CategoricalDistribution(dimension.choices)
        case "int" | "logint":
            return distributions.IntDistribution(round(low), round(high), log=dimension.kind == "logint")
        case "one_minus_loguniform":
            return distributions.FloatDistribution(1 - high, 1 - low, log=True)
        case _:
            return distributions.FloatDistribution(low, high, log=dimension.kind == "loguniform")


def _drawn(dimension: Dimension, stored: object) -> Value:
    """The value as `_distribution` holds it. 1 - x can leave the range by a rounding: it is brought back."""
    value = dimension.read(stored)
    if dimension.kind != "one_minus_loguniform":
        return value
    return min(max(1 - float(value), 1 - dimension.high), 1 - dimension.low)  # pyright: ignore[reportArgumentType]
