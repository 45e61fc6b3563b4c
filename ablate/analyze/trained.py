"""What the trials trained: parameters, budget and epochs, from what their rows recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablate.analyze.arms.paired import arm_names
from ablate.analyze.basis.frames import floats, of_arm
from ablate.spec.designs import BASELINE, SEARCH
from ablate.trainers import Cost


@dataclass(frozen=True)
class Span:
    """The lowest and the highest value over trials; both NaN where none is known."""

    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        return math.isfinite(self.low)


@dataclass(frozen=True)
class Trained:
    """What one group's ended trials trained. `budget`, `epoch`: in units of the budget; an epoch is one pass over the
    training data. `epochs`: how many of them the budget is."""

    group: str
    parameters: Span
    active: Span
    budget: Span
    epoch: Span
    epochs: Span


def trained(
    trials: pd.DataFrame, *, declared: Sequence[str], costs: Mapping[str, Cost], epoch: int | None
) -> list[Trained]:
    """One entry for the search, the baseline and each arm that has an ended trial. `costs` (recorded configuration ->
    cost) and `epoch` stand in for what the rows did not record."""
    found = []
    for group in [SEARCH, BASELINE, *arm_names(trials, declared=declared)]:
        runs = of_arm(trials, group)
        if runs.empty:
            continue
        known = [costs[text] for text in runs["config_json"] if text in costs]
        budgets = _positive(floats(runs, "budget_tokens"))
        passes = _positive(floats(runs, "epoch_tokens"))
        passes = passes if np.isfinite(passes).any() else np.full(len(runs), math.nan if epoch is None else epoch)
        found.append(
            Trained(
                group=group,
                parameters=_span(floats(runs, "parameters"), [cost.parameters for cost in known]),
                active=_span(floats(runs, "active_parameters"), [cost.active_parameters for cost in known]),
                budget=_span(budgets),
                epoch=_span(passes),
                epochs=_span(budgets / passes),
            )
        )
    return found


def _positive(values: np.ndarray) -> np.ndarray:
    """A trial that failed before its first step has no budget yet."""
    return np.where(values > 0, values, math.nan)


def _span(recorded: np.ndarray, otherwise: Sequence[float | None] = ()) -> Span:
    values = recorded[np.isfinite(recorded)]
    if not len(values):
        values = np.array([value for value in otherwise if value is not None], dtype=float)
    return Span(float(values.min()), float(values.max())) if len(values) else Span(math.nan, math.nan)
