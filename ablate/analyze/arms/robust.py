"""Statistics that one odd run changes little: interquartile means with bootstrap intervals, and how often an arm is
better (Agarwal et al. 2021, Deep Reinforcement Learning at the Edge of the Statistical Precipice, arXiv 2108.13264,
section 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from ablate.analyze.arms.paired import arm_names, pairs_of
from ablate.spec.models import Objective

RESAMPLES = 2_000
SEED = 0  # of the resamples: equal results give equal reports


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, NaN where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Robust:
    """One arm against the baseline over the `n` seeds that both have.

    `arm` and `baseline`: interquartile means. `better`: share of the seeds on which the arm is better; a tie counts
    half (the paired form of Agarwal's probability of improvement).
    """

    name: str
    n: int
    arm: Estimate
    baseline: Estimate
    better: Estimate


def robust(trials: pd.DataFrame, *, objective: Objective, declared: Sequence[str] = ()) -> list[Robust]:
    """One entry for every arm that shares a completed seed with the baseline."""
    found = []
    for name in arm_names(trials, declared=declared):
        pairs = pairs_of(trials, name, objective=objective)
        if pairs.seeds:
            gains = objective.sign * (pairs.baseline - pairs.arm)
            better = share((gains > 0).sum() + (gains == 0).sum() / 2, n=len(gains))
            found.append(
                Robust(name=name, n=len(gains), arm=iqm(pairs.arm), baseline=iqm(pairs.baseline), better=better)
            )
    return found


def iqm(values: np.ndarray, *, level: float = 0.95) -> Estimate:
    """The mean without the lowest and the highest quarter (floor(n/4) values each), with its percentile bootstrap
    interval. That interval is too narrow at few seeds, so it never replaces the t interval."""
    middle = _middle_mean(np.sort(values)[None, :])[0]
    if len(values) < 2:
        return Estimate(float(middle), math.nan, math.nan)
    rng = np.random.default_rng(SEED)
    samples_RN = np.sort(values[rng.integers(len(values), size=(RESAMPLES, len(values)))], axis=1)
    low, high = np.quantile(_middle_mean(samples_RN), [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(middle), float(low), float(high))


def _middle_mean(sorted_RN: np.ndarray) -> np.ndarray:
    """The mean of each row, a sorted sample, without its lowest and highest quarter."""
    n = sorted_RN.shape[1]
    return sorted_RN[:, n // 4 : n - n // 4].mean(axis=1)


def share(count: float, *, n: int, level: float = 0.95) -> Estimate:
    """`count` of `n` with the exact binomial interval (Clopper and Pearson 1934). A half count widens the
    interval on both sides."""
    tail = (1 - level) / 2
    down, up = math.floor(count), math.ceil(count)
    low = 0.0 if down == 0 else float(stats.beta.ppf(tail, down, n - down + 1))
    high = 1.0 if up == n else float(stats.beta.ppf(1 - tail, up + 1, n - up))
    return Estimate(count / n, low, high)
