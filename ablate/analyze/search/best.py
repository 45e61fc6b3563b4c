"""The best trial by one objective, which of its values are at the edge of their ranges, and the Pareto set of several
objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablate.analyze.basis.frames import completed, floats, in_order, records, rows, texts
from ablate.analyze.search.space import Dimension, Value
from ablate.spec.models import Objective


@dataclass(frozen=True)
class Best:
    """The best of `completed` completed trials.

    `edges`: parameter key -> the end of its range that the value is at. `median`, `worst`: of all completed trials.
    `tied`: the trials that reached the same value, the best among them; where there are several, none is a winner.
    """

    trial_id: str
    value: float
    params: Mapping[str, Value]
    edges: Mapping[str, str]
    completed: int
    median: float
    worst: float
    tied: tuple[str, ...]


def ranked(trials: pd.DataFrame, *, objective: Objective) -> pd.DataFrame:
    """The completed trials that have the objective, best first; equal values in the order of their ids."""
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
        tied=tuple(texts(rows(order, values == values[0]), "trial_id")),
    )


def pareto_ids(trials: pd.DataFrame, *, objectives: Sequence[Objective]) -> tuple[str, ...]:
    """Ids of the completed trials on the Pareto front, best in the first objective first.

    A trial beats another if it is at least as good in every objective and better in one. Equal trials both stay.
    """
    done = completed(trials)
    costs_No = np.column_stack([objective.sign * floats(done, objective.metric) for objective in objectives])
    whole = np.isfinite(costs_No).all(axis=1)
    done, costs_No = rows(done, whole), costs_No[whole]
    front_mask = _unbeaten(costs_No)
    front = rows(done, front_mask)
    return tuple(texts(in_order(front, keys=(costs_No[front_mask, 0], texts(front, "trial_id"))), "trial_id"))


def _unbeaten(costs_No: np.ndarray) -> np.ndarray:
    """A mask of the front. Trials are sorted by their costs, so whatever beats a trial comes before it; it is enough to
    compare each with the front so far."""
    mask = np.zeros(len(costs_No), dtype=bool)
    for index in np.lexsort(costs_No.T[::-1]):
        front_Fo = costs_No[mask]
        beaten = (front_Fo <= costs_No[index]).all(axis=1) & (front_Fo < costs_No[index]).any(axis=1)
        mask[index] = not beaten.any()
    return mask
