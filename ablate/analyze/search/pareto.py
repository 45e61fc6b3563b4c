"""Several objectives: the trials than which no other is as good in all of them and better in one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ablate.analyze.frames import completed, floats, in_order, rows, texts
from ablate.spec.models import Objective


def pareto_ids(trials: pd.DataFrame, *, objectives: Sequence[Objective]) -> tuple[str, ...]:
    """Ids of the completed trials on the Pareto front, best in the first objective first.

    A trial is beaten by one that is at least as good in every objective and better in one; equal trials both stay.
    """
    done = completed(trials)
    costs_No = np.column_stack([objective.sign * floats(done, objective.metric) for objective in objectives])
    whole = np.isfinite(costs_No).all(axis=1)
    done, costs_No = rows(done, whole), costs_No[whole]
    front_mask = _unbeaten(costs_No)
    front = rows(done, front_mask)
    return tuple(texts(in_order(front, keys=(costs_No[front_mask, 0], texts(front, "trial_id"))), "trial_id"))


def _unbeaten(costs_No: np.ndarray) -> np.ndarray:
    """A mask. In the order of all costs, first to last, whoever beats a trial stands before it: each is compared with
    the front so far, not with everybody."""
    mask = np.zeros(len(costs_No), dtype=bool)
    for index in np.lexsort(costs_No.T[::-1]):
        front_Fo = costs_No[mask]
        beaten = (front_Fo <= costs_No[index]).all(axis=1) & (front_Fo < costs_No[index]).any(axis=1)
        mask[index] = not beaten.any()
    return mask
