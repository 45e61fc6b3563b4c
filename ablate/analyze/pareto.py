"""Several objectives: the trials that no other beats in all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ablate.analyze.best import Objective
from ablate.analyze.frames import completed, floats, in_order, rows, texts


def pareto_ids(trials: pd.DataFrame, *, objectives: Sequence[Objective]) -> tuple[str, ...]:
    """Ids of the completed trials on the Pareto front, best in the first objective first.

    A trial is beaten by one that is at least as good in every objective and better in one; equal trials both stay.
    """
    done = completed(trials)
    costs_No = np.column_stack([objective.sign * floats(done, objective.metric) for objective in objectives])
    whole = np.isfinite(costs_No).all(axis=1)
    done, costs_No = rows(done, whole), costs_No[whole]
    no_worse_NN = (costs_No[:, None, :] <= costs_No[None, :, :]).all(axis=2)
    better_NN = (costs_No[:, None, :] < costs_No[None, :, :]).any(axis=2)
    beaten = (no_worse_NN & better_NN).any(axis=0)
    front = rows(done, ~beaten)
    return tuple(texts(in_order(front, keys=(costs_No[~beaten, 0], texts(front, "trial_id"))), "trial_id"))
