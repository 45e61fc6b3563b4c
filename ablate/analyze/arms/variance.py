"""Where the variance of an objective comes from: the seed, the arm on that seed, and one evaluation of a run.

Two-way analysis of variance without replication, arms by seeds, both the baseline and the seeds that every arm has
(Searle, Casella and McCulloch 1992, Variance Components, section 4.5). What an arm's run has of its own, whatever
its cause, is in the part `arm by seed`; noise between a run's evaluations is a part of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablate.analyze.arms.curves import curves
from ablate.analyze.arms.paired import arm_names, by_seed
from ablate.analyze.basis.frames import completed, floats, rows, texts
from ablate.spec.designs import BASELINE, SEARCH
from ablate.spec.models import Objective

LAST = 5
"""How many of a run's last evaluations show its noise between evaluations."""


@dataclass(frozen=True)
class Components:
    """Standard deviations of one objective over `seeds` seeds and `arms` arms, the baseline among them.

    `seed`: what all arms of a seed share; 0 where the estimate is negative. `arm_by_seed`: what each arm's run has
    beside that. `evaluation`: between successive evaluations at a run's end, without its trend; NaN where runs have too
    few. `correlation`: between an arm's and the baseline's values by seed, mean over the arms. `ratio`: the variance of
    a paired difference, relative to that of an unpaired one, over all arms; below 1 where pairing helps.
    """

    metric: str
    arms: int
    seeds: int
    seed: float
    arm_by_seed: float
    evaluation: float
    correlation: float
    ratio: float


def components(
    trials: pd.DataFrame, history: pd.DataFrame, *, objective: Objective, declared: Sequence[str] = ()
) -> Components | None:
    """The components of an ablation; None below two arms or three seeds that every arm has. Arms without any value are
    left out."""
    names = [BASELINE, *arm_names(trials, declared=declared)]
    runs = {name: pd.Series(by_seed(trials, name, objective), dtype=float).dropna() for name in names}
    table = pd.DataFrame({name: values for name, values in runs.items() if len(values)}).dropna()
    if BASELINE not in table or table.shape[1] < 2 or len(table) < 3:
        return None
    values_SA = table.to_numpy(dtype=float)
    seed, own = two_way(values_SA)
    base_S, arms_SA = floats(table, BASELINE), table.drop(columns=BASELINE).to_numpy(dtype=float)
    correlation, ratio = pairing(base_S, arms_SA)
    noise = evaluation_sd(_last_evaluations(trials, history, objective.metric))
    return Components(objective.metric, values_SA.shape[1], len(table), seed, own, noise, correlation, ratio)


def two_way(values_SA: np.ndarray) -> tuple[float, float]:
    """Standard deviations (of the seed, of arm by seed) from the mean squares of a table, seeds by arms."""
    seeds, arms = values_SA.shape
    by_seed_S1, by_arm_1A = values_SA.mean(axis=1, keepdims=True), values_SA.mean(axis=0, keepdims=True)
    own_SA = values_SA - by_seed_S1 - by_arm_1A + values_SA.mean()
    own = float((own_SA**2).sum()) / ((seeds - 1) * (arms - 1))
    between = arms * float(by_seed_S1.var(ddof=1))
    return math.sqrt(max(0.0, between - own) / arms), math.sqrt(own)


def pairing(base_S: np.ndarray, arms_SA: np.ndarray) -> tuple[float, float]:
    """(mean correlation of an arm with the baseline, variance of paired over that of unpaired differences). NaN where
    values do not vary."""
    arms_var_A, base_var = arms_SA.var(axis=0, ddof=1), float(base_S.var(ddof=1))
    unpaired = float((arms_var_A + base_var).sum())
    if not unpaired:
        return math.nan, math.nan
    paired_A = (arms_SA - base_S[:, None]).var(axis=0, ddof=1)
    covariance_A = (arms_var_A + base_var - paired_A) / 2
    scale_A = np.sqrt(arms_var_A * base_var)
    varying = scale_A > 0
    correlation = float((covariance_A[varying] / scale_A[varying]).mean()) if varying.any() else math.nan
    return correlation, float(paired_A.sum()) / unpaired


def evaluation_sd(runs: Sequence[np.ndarray]) -> float:
    """Standard deviation of the noise of one evaluation, from second differences of each run's last evaluations, which
    a straight trend does not enter: var(x1 - 2 x2 + x3) = 6 var(x). NaN without three evaluations of a run."""
    bends = [np.diff(values, n=2) for values in runs if len(values) > 2]
    return math.sqrt(float((np.concatenate(bends) ** 2).mean()) / 6) if bends else math.nan


def _last_evaluations(trials: pd.DataFrame, history: pd.DataFrame, metric: str) -> list[np.ndarray]:
    """The last LAST values of every completed run of an arm; empty where the history lacks the metric."""
    if metric not in history:
        return []
    done = completed(trials)
    arms = texts(rows(done, done["arm"] != SEARCH), "trial_id")
    found = curves(history, statuses=dict.fromkeys(arms, "completed"), metric=metric)
    return [curve.values[-LAST:] for curve in found]
