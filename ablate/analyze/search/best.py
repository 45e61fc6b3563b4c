"""The best trial by one objective, which of its values are at the edge of their ranges, and the Pareto set of several
objectives. Where a point has several trials, one for each seed, the point is ranked by their mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd

from ablate.analyze.basis import points
from ablate.analyze.basis.frames import completed, floats, in_order, records, rows, texts
from ablate.analyze.search.space import PARAM, Dimension, Value
from ablate.spec.models import Objective


@dataclass(frozen=True)
class Best:
    """The best of `completed` completed trials.

    `edges`: parameter key -> the end of its range that the value is at. `median`, `worst`: of all completed trials.
    `tied`: the trials that reached the same value, the best among them; where there are several, none is a winner.
    `seeds`: those of a point, over which every value is a mean; `sd`: of the best over them, NaN of one.
    """

    trial_id: str
    value: float
    params: Mapping[str, Value]
    edges: Mapping[str, str]
    completed: int
    median: float
    worst: float
    tied: tuple[str, ...]
    seeds: int
    sd: float


@dataclass(frozen=True)
class _Run:
    """A row of the search's table."""

    index: int
    trial_id: str
    arm: str
    seed: int
    status: str
    params: Mapping[str, object]
    metrics: Mapping[str, float]


def by_point(search: pd.DataFrame, *, objectives: Sequence[Objective], seeds: int) -> pd.DataFrame:
    """The search's table with one row for each point: that of its first seed, with the objectives' means (NaN without
    one), the point's status and all its tokens, and besides `sd.METRIC`, `ended` (seeds), `failed` (in words) and `ids`
    of its trials. With one seed every trial is a point: the table as it is."""
    if seeds == 1:
        return search
    metrics = [objective.metric for objective in objectives]
    measured = {metric: floats(search, metric) for metric in metrics}
    runs = [
        _Run(
            index=index,
            trial_id=str(row["trial_id"]),
            arm=str(row["arm"]),
            seed=int(row["seed"]),
            status=str(row["status"]),
            params={name: value for name, value in row.items() if str(name).startswith(PARAM)},
            metrics={metric: float(values[index]) for metric, values in measured.items()},
        )
        for index, row in enumerate(records(search))
    ]
    found, tokens = points.of(runs, seeds=seeds), floats(search, "tokens_seen")
    means = {metric: [point.mean(metric) for point in found] for metric in metrics}
    return cast(pd.DataFrame, search.iloc[[point.first.index for point in found]]).assign(
        status=[point.status for point in found],
        tokens_seen=[tokens[[end.index for end in point.ends]].sum() for point in found],
        ended=[len(point.ends) for point in found],
        failed=[", ".join(f"seed {seed} {how}" for seed, how in point.failed.items()) for point in found],
        ids=[tuple(end.trial_id for end in point.ends) for point in found],
        **{metric: np.array(own, dtype=float) for metric, own in means.items()},
        **{f"sd.{metric}": [point.sd(metric) for point in found] for metric in metrics},
    )


def best_runs(search: pd.DataFrame, *, objective: Objective, seeds: int) -> pd.DataFrame:
    """The rows of the best point's trials; none where no point has a value."""
    order = ranked(by_point(search, objectives=[objective], seeds=seeds), objective=objective).head(1)
    ids = texts(order, "trial_id") if seeds == 1 or order.empty else list(order["ids"].iloc[0])
    return rows(search, search["trial_id"].isin(ids))


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
    sds = floats(order, f"sd.{objective.metric}")
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
        seeds=int(first["ended"]) if "ended" in order else 1,
        sd=float(sds[0]),
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
