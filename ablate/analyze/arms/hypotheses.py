"""A study's claims against its numbers: supported, equivalent, refuted or inconclusive."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from ablate.analyze.arms.paired import pairs_of
from ablate.analyze.stats import Interval, holm, sign_flip_p, t_interval
from ablate.spec.declared_test import ALPHA
from ablate.spec.models import Objective

Verdict = Literal["supported", "equivalent", "refuted", "inconclusive"]


@dataclass(frozen=True)
class Claim:
    """What a study file claims: the arm is better than the baseline in the metric, by `min_effect` at least.

    `hindsight`: why it is exploratory; "" where it was declared before there were results.
    """

    claim: str
    arm: str
    metric: str
    min_effect: float
    hindsight: str = ""


@dataclass(frozen=True)
class Judged:
    """A claim with its numbers. `gain`: of the arm over the baseline, positive where the arm is better; `p_exact`: the
    sign-flip test, `p_holm` over the study's hypotheses; `p_equivalence`: of the two one-sided tests."""

    claim: Claim
    gain: Interval
    p_exact: float
    p_holm: float
    p_equivalence: float
    verdict: Verdict


def judge_all(trials: pd.DataFrame, *, claims: Sequence[Claim], maximised: Collection[str]) -> list[Judged]:
    """Every claim with its verdict. `maximised`: metrics of which more is better; of the others less is."""
    gains = [_gains(trials, claim, sign=1.0 if claim.metric in maximised else -1.0) for claim in claims]
    exact = [sign_flip_p(values) for values in gains]
    judged = []
    for claim, values, p_exact, p_holm in zip(claims, gains, exact, holm(exact), strict=True):
        gain, p_equivalence = t_interval(values), equivalence_p(values, margin=claim.min_effect)
        verdict = judge(gain, p_holm=p_holm, p_equivalence=p_equivalence, min_effect=claim.min_effect)
        judged.append(Judged(claim, gain, p_exact, p_holm, p_equivalence, verdict))
    return judged


def judge(gain: Interval, *, p_holm: float, p_equivalence: float, min_effect: float) -> Verdict:
    """The rules, the first that holds:

    1. `inconclusive` below two pairs: there is no interval.
    2. `equivalent` where both one-sided tests reject at 0.05: whatever the gain is, it is smaller than min_effect
       either way (Schuirmann 1987), were it ever so significant.
    3. `supported` where the whole 95 % interval lies at min_effect or above, and the declared test, adjusted over the
       study's hypotheses, rejects at 0.05.
    4. `refuted` where the whole 95 % interval lies below min_effect: no gain that matters, perhaps a loss.
    5. `inconclusive` otherwise: the interval holds min_effect, or lies above it and the declared test does not reject.
       A gain above 0 may be shown all the same.
    """
    if gain.n < 2:
        return "inconclusive"
    if p_equivalence <= ALPHA:
        return "equivalent"
    if gain.low >= min_effect and p_holm <= ALPHA:
        return "supported"
    if gain.high < min_effect:
        return "refuted"
    return "inconclusive"


def equivalence_p(values: np.ndarray, *, margin: float) -> float:
    """p of two one-sided t tests that the mean lies within (-margin, margin): the larger of the two. NaN below two
    values; 1 for a margin of 0, within which nothing lies."""
    n = len(values)
    if n < 2:
        return math.nan
    if margin <= 0:
        return 1.0
    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(n)
    if error == 0:  # equal values: certain, one way or the other
        return 0.0 if abs(mean) < margin else 1.0
    return float(stats.t.sf((margin - abs(mean)) / error, n - 1))


def _gains(trials: pd.DataFrame, claim: Claim, *, sign: float) -> np.ndarray:
    pairs = pairs_of(trials, claim.arm, objective=Objective(metric=claim.metric, mode="max" if sign > 0 else "min"))
    return sign * (pairs.arm - pairs.baseline)
