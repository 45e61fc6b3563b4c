"""Verdicts on a study's hypotheses: supported, equivalent, refuted or inconclusive."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from ablate.analyze.arms.paired import pairs_of
from ablate.analyze.arms.sequential import Walk, arm_p
from ablate.analyze.arms.sequential_effects import repeated, values_of
from ablate.analyze.basis.stats import Interval, holm, sign_flip_p, t_interval
from ablate.spec.declared_test import ALPHA
from ablate.spec.models import Objective

Verdict = Literal["supported", "equivalent", "refuted", "inconclusive"]


@dataclass(frozen=True)
class Claim:
    """A hypothesis of a study file: the arm is better than the baseline in the metric by at least `min_effect`.

    `hindsight`: why it is exploratory; "" where it was declared before results were seen.
    """

    claim: str
    arm: str
    metric: str
    min_effect: float
    hindsight: str = ""


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict. `gain`: of the arm over the baseline, positive where the arm is better, with the
    interval that holds at 95% over all the study's hypotheses together (Bonferroni); `p_exact`: of the sign-flip test;
    `p_holm`: the same adjusted over the hypotheses; `p_equivalence`: of two one-sided t tests, adjusted likewise.
    `withheld`: the verdict that the numbers alone give, where the study may not give it; else ""."""

    claim: Claim
    gain: Interval
    p_exact: float
    p_holm: float
    p_equivalence: float
    verdict: Verdict
    withheld: str = ""


def judge_all(
    trials: pd.DataFrame, *, claims: Sequence[Claim], maximised: Collection[str], walk: Walk | None = None
) -> list[Judged]:
    """Judge every claim. `maximised`: the metrics of which more is better; of all others less is better. `walk`: the
    looks of a study with sequential seeds, over which intervals and Holm's p then hold too.

    Everything that a verdict rests on holds over all the claims together: both p values are adjusted by Holm, and the
    intervals are Bonferroni's, since Holm's procedure has none."""
    gains = [_gains(trials, claim, sign=1.0 if claim.metric in maximised else -1.0) for claim in claims]
    exact = [sign_flip_p(values) for values in gains]
    equal = holm([equivalence_p(values, margin=claim.min_effect) for values, claim in zip(gains, claims, strict=True)])
    judged = []
    over_looks = exact if walk is None else [_sequential_p(trials, claim, walk) for claim in claims]
    family = len(claims)
    for claim, values, p_exact, p_holm, p_equal in zip(claims, gains, exact, holm(over_looks), equal, strict=True):
        if walk is None:
            gain = t_interval(values, level=level(family))
        else:
            gain = repeated(values, arm=claim.arm, walk=walk, family=family)
        verdict = judge(gain, p_holm=p_holm, p_equivalence=p_equal, min_effect=claim.min_effect)
        judged.append(Judged(claim, gain, p_exact, p_holm, p_equal, verdict))
    return judged


def level(claims: int) -> float:
    """The level of each interval at which all of them hold at 95%."""
    return 1 - ALPHA / claims


def without_equality(judged: Sequence[Judged]) -> list[Judged]:
    """The verdicts of a study that did not see its positive control: those that rest on a difference which is missing
    become `inconclusive`. These are `equivalent`, and `refuted` where no loss is shown."""
    return [
        replace(entry, verdict="inconclusive", withheld=entry.verdict) if _rests_on_nothing(entry) else entry
        for entry in judged
    ]


def _rests_on_nothing(entry: Judged) -> bool:
    return entry.verdict == "equivalent" or (entry.verdict == "refuted" and not entry.gain.excludes_zero)


def judge(gain: Interval, *, p_holm: float, p_equivalence: float, min_effect: float) -> Verdict:
    """The verdict is that of the first rule that applies:

    1. `inconclusive` below two pairs: there is no interval.
    2. `equivalent` where both one-sided tests reject at 0.05: the gain, even a significant one, is smaller than
       min_effect in either direction (Schuirmann 1987).
    3. `supported` where the whole interval lies at min_effect or above, and the declared test, adjusted over the
       study's hypotheses, rejects at 0.05.
    4. `refuted` where the whole interval lies below min_effect: the gain is too small, or is a loss.
    5. `inconclusive` otherwise: the interval holds min_effect, or lies above it and the declared test does not reject.
       The interval may still exclude 0.
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
    """The larger p of two one-sided t tests that the mean lies within (-margin, margin). NaN below two values; 1 for a
    margin of 0, within which no mean lies."""
    n = len(values)
    if n < 2:
        return math.nan
    if margin <= 0:
        return 1.0
    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(n)
    if error == 0:  # all values are equal: the mean is certain
        return 0.0 if abs(mean) < margin else 1.0
    return float(stats.t.sf((margin - abs(mean)) / error, n - 1))


def _sequential_p(trials: pd.DataFrame, claim: Claim, walk: Walk) -> float:
    values = values_of(trials, [claim.arm], objective=Objective(metric=claim.metric, mode="min"))
    return arm_p(values, claim.arm, walked=walk)


def _gains(trials: pd.DataFrame, claim: Claim, *, sign: float) -> np.ndarray:
    pairs = pairs_of(trials, claim.arm, objective=Objective(metric=claim.metric, mode="max" if sign > 0 else "min"))
    return sign * (pairs.arm - pairs.baseline)
