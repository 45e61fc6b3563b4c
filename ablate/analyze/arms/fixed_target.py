"""One arm against a fixed value: whether its mean reaches a target, by a one-sided one-sample test.

It is the rule by which speedruns accept a record: the mean of n runs is at most the target, and the test rejects that
it is not (NanoGPT speedrun: a mean of at most 3.28 with p < 0.01).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from ablate.analyze.arms.paired import by_seed
from ablate.analyze.basis.stats import Interval, holm, sign_flip_p_above, t_interval, t_p_above
from ablate.spec.models import Objective


@dataclass(frozen=True)
class TargetClaim:
    """A hypothesis of a study file: the arm's mean of the metric is at most `target`; at least, where more is better.
    `hindsight`: as of `hypotheses.Claim`."""

    claim: str
    arm: str
    metric: str
    target: float
    alpha: float
    hindsight: str = ""


@dataclass(frozen=True)
class Reached:
    """A claim with its verdict. `values`: the arm's runs; `p_exact`: of the one-sided sign-flip test, which is the
    declared one; `p_holm`: adjusted over the study's targets; `p`: of the t test."""

    claim: TargetClaim
    values: Interval
    p: float
    p_exact: float
    p_holm: float
    verdict: Literal["supported", "inconclusive"]


def judge_targets(trials: pd.DataFrame, *, claims: Sequence[TargetClaim], maximised: Collection[str]) -> list[Reached]:
    """Judge every claim about a target. They are a family of their own, since their level is."""
    runs = [_values(trials, claim) for claim in claims]
    # How far each run is on the good side of its target.
    beyond = [
        (values - claim.target) * (1 if claim.metric in maximised else -1)
        for values, claim in zip(runs, claims, strict=True)
    ]
    exact = [sign_flip_p_above(values) for values in beyond]
    return [
        Reached(claim, t_interval(values), t_p_above(good), p_exact, p_holm, judge_target(p_holm, alpha=claim.alpha))
        for claim, values, good, p_exact, p_holm in zip(claims, runs, beyond, exact, holm(exact), strict=True)
    ]


def judge_target(p_holm: float, *, alpha: float) -> Literal["supported", "inconclusive"]:
    """`supported` where the declared test rejects. It rejects no mean on the wrong side of the target, because such a
    mean's p is above a half."""
    return "supported" if p_holm < alpha else "inconclusive"


def _values(trials: pd.DataFrame, claim: TargetClaim) -> np.ndarray:
    """The metric of the arm's completed runs, by seed."""
    runs = by_seed(trials, claim.arm, Objective(metric=claim.metric, mode="min"))
    values = np.array([runs[seed] for seed in sorted(runs)], dtype=float)
    return values[np.isfinite(values)]
