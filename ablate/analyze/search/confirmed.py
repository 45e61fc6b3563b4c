"""A search's winner, judged: its best trials on fresh seeds, their shrunken values, and whether rank 1 is chance.

The best of many noisy values is best partly by luck. Fresh seeds do not know which trial was best, so their mean is
unbiased. The shrunken value is what the search's own values would say if that luck were taken out: an empirical Bayes
estimate (Efron and Morris 1975, JASA 70:311, the positive-part estimator of James and Stein around the mean), with the
variance of the noise from the fresh seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ablate.analyze.basis.frames import floats, of_arm, texts
from ablate.analyze.basis.pairs import align, by_seed
from ablate.analyze.basis.stats import Interval, paired_t_p, t_interval
from ablate.analyze.search.best import ranked
from ablate.spec.designs import CONFIRM
from ablate.spec.models import Objective

LEAST_FREEDOM = 3
"""Degrees of freedom that the noise needs for a shrinkage. A variance of one degree is below a tenth of the true one in
a quarter of all cases; the winner's value is then said to be no luck."""


@dataclass(frozen=True)
class Candidate:
    """A trial of the search on fresh seeds. `rank`: in the search, from 1; `searched`: its value there; `shrunken`: NaN
    where the noise is unknown (from fewer than LEAST_FREEDOM degrees of freedom) or the search has fewer than four
    values; `failed`: fresh seeds that gave no value. `behind`: how much worse than the search's best it is, on the
    seeds that both have; `p`: of the paired t test."""

    trial_id: str
    rank: int
    searched: float
    shrunken: float
    fresh: Interval
    failed: int
    behind: Interval
    p: float


@dataclass(frozen=True)
class Confirmation:
    """The candidates, the search's best first. `noise_sd`: of one run, without what a seed does to all trials alike;
    `shrinkage`: the share of a value's distance to the mean of the search's values that is taken for noise; NaN where
    the noise is known too badly."""

    candidates: tuple[Candidate, ...]
    noise_sd: float
    shrinkage: float

    @property
    def winner(self) -> Candidate:
        """The search's best trial."""
        return self.candidates[0]

    @property
    def freshest(self) -> Candidate | None:
        """The candidate with the best fresh mean; None without any."""
        known = [one for one in self.candidates if one.fresh.n and not math.isnan(one.behind.mean)]
        return min(known, key=lambda one: one.behind.mean, default=None)

    @property
    def shown(self) -> bool:
        """Whether rank 1 is shown: on fresh seeds, the winner is better than the second with its whole 95% interval."""
        return len(self.candidates) > 1 and self.freshest is self.winner and self.candidates[1].behind.above_zero


def confirmation(trials: pd.DataFrame, search: pd.DataFrame, *, objective: Objective) -> Confirmation | None:
    """Judge the search by its fresh runs among `trials`; None where the search's best trial has none."""
    order = ranked(search, objective=objective)
    values, names = floats(order, objective.metric), texts(order, "trial_id")
    fresh = {name: by_seed(trials, CONFIRM + name, objective) for name in names if _has(trials, name)}
    if not names or names[0] not in fresh:
        return None
    noise_sd, freedom = _noise([fresh[name] for name in fresh])
    shrinkage = shrink(values, noise_sd=noise_sd if freedom >= LEAST_FREEDOM else math.nan)
    mean = float(values.mean())
    candidates = [
        _candidate(name, fresh, objective=objective, rank=rank, winner=names[0], searched=float(value))
        for rank, (name, value) in enumerate(zip(names, values, strict=True), start=1)
        if name in fresh
    ]
    shrunken = [mean + (1 - shrinkage) * (one.searched - mean) for one in candidates]
    whole = tuple(replace(one, shrunken=value) for one, value in zip(candidates, shrunken, strict=True))
    return Confirmation(whole, noise_sd, shrinkage)


def shrink(values: np.ndarray, *, noise_sd: float) -> float:
    """The shrinkage towards the mean of m values: (m - 3) sigma^2 / sum (x - mean)^2, at most 1. NaN below four values,
    or without a known noise."""
    around = float(((values - values.mean()) ** 2).sum()) if len(values) else 0.0
    if len(values) < 4 or math.isnan(noise_sd):
        return math.nan
    return min(1.0, (len(values) - 3) * noise_sd**2 / around) if around else 1.0


def _noise(runs: Sequence[dict[int, float]]) -> tuple[float, int]:
    """Standard deviation of a run, and its degrees of freedom: what is left of candidates x seeds without the means by
    candidate and by seed, over the seeds that all have. The search had one seed, so what a seed does to all its trials
    alike ranks none of them. NaN and 0 of one candidate, whose spread holds both."""
    shared = sorted(set.intersection(*(set(run) for run in runs)))
    values_CS = np.array([[run[seed] for seed in shared] for run in runs], dtype=float)
    values_CS = values_CS[:, ~np.isnan(values_CS).any(axis=0)]
    count, seeds = values_CS.shape
    freedom = (count - 1) * (seeds - 1)
    if seeds < 2 or count < 2:
        return math.nan, 0
    left_CS = values_CS - values_CS.mean(axis=1, keepdims=True)
    left_CS = left_CS - left_CS.mean(axis=0)
    return math.sqrt(float((left_CS**2).sum()) / freedom), freedom


def _candidate(
    name: str, fresh: dict[str, dict[int, float]], *, objective: Objective, rank: int, winner: str, searched: float
) -> Candidate:
    pairs = align(fresh[winner], fresh[name])
    behind = objective.sign * (pairs.arm - pairs.baseline)
    own = np.array(list(fresh[name].values()), dtype=float)
    failed = int(np.isnan(own).sum())
    p = math.nan if name == winner else paired_t_p(behind)
    return Candidate(name, rank, searched, math.nan, t_interval(own), failed, t_interval(behind), p)


def _has(trials: pd.DataFrame, name: str) -> bool:
    return not of_arm(trials, CONFIRM + name).empty
