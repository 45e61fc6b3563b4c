"""Which trial is best, and which of its values sit at the edge of what was searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablate.analyze.frames import completed, floats, in_order, records, rows, texts
from ablate.analyze.search.space import Dimension, Value
from ablate.spec.models import Objective


@dataclass(frozen=True)
class Best:
    """The best completed trial among `completed` of them.

    `edges`: parameter key -> which end of its range the value sits at. `median` and `worst`: of all completed trials.
    """

    trial_id: str
    value: float
    params: Mapping[str, Value]
    edges: Mapping[str, str]
    completed: int
    median: float
    worst: float


def ranked(trials: pd.DataFrame, *, objective: Objective) -> pd.DataFrame:
    """The completed trials that have the objective, best first; equal values stand in the order of their ids."""
    done = completed(trials)
    measured = rows(done, np.isfinite(floats(done, objective.metric)))
    costs = objective.sign * floats(measured, objective.metric)
    return in_order(measured, keys=(costs, texts(measured, "trial_id")))


def best(trials: pd.DataFrame, *, objective: Objective, space: Sequence[Dimension]) -> Best | None:
    """The best of these trials, or None where none completed."""
    order = ranked(trials, objective=objective)
    if order.empty:
        return None
    first, values = records(order)[0], floats(order, objective.metric)
    params = {dimension.key: dimension.read(first[dimension.column]) for dimension in space}
    at_edge = {dimension.key: dimension.edge(params[dimension.key]) for dimension in space}
    return Best(
        trial_id=str(first["trial_id"]),
        value=float(values[0]),
        params=params,
        edges={key: edge for key, edge in at_edge.items() if edge},
        completed=len(order),
        median=float(np.median(values)),
        worst=float(values[-1]),
    )
