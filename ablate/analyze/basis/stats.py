"""The statistics of a report: distributions from scipy, the rest by formula."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
from scipy import optimize, stats

from ablate.spec.declared_test import DRAWS, MAX_EXACT

MAX_POWER = 16
"""Most pairs for which flip_detectable_effect is simulated, because every sample has 2^n subsets."""

SEED = 0
"""Seed of random draws: equal results give equal reports."""

_BLOCK = 2**22
"""Most numbers held in memory at once where there are many patterns or subsets."""


@dataclass(frozen=True)
class Interval:
    """A mean with its two-sided t interval. `low`, `high` and `sd` are NaN below two values."""

    n: int
    mean: float
    sd: float
    low: float
    high: float

    @property
    def above_zero(self) -> bool:
        """The whole interval lies above 0; False without an interval."""
        return self.low > 0

    @property
    def below_zero(self) -> bool:
        """The whole interval lies below 0; False without an interval."""
        return self.high < 0

    @property
    def excludes_zero(self) -> bool:
        """The whole interval lies on one side of 0; False without an interval."""
        return self.above_zero or self.below_zero


def t_interval(values: Sequence[float] | np.ndarray, *, level: float = 0.95) -> Interval:
    """Mean, sample standard deviation (n - 1) and Student's t interval of the finite values."""
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    n = len(finite)
    if n == 0:
        return Interval(n=0, mean=math.nan, sd=math.nan, low=math.nan, high=math.nan)
    mean = float(finite.mean())
    if n == 1:
        return Interval(n=1, mean=mean, sd=math.nan, low=math.nan, high=math.nan)
    sd = float(finite.std(ddof=1))
    half = float(stats.t.ppf(0.5 + level / 2, n - 1)) * sd / math.sqrt(n)
    return Interval(n=n, mean=mean, sd=sd, low=mean - half, high=mean + half)


def paired_t_p(differences: np.ndarray) -> float:
    """Two-sided p of the paired t test (a one-sample t test of the differences); NaN below two pairs."""
    n = len(differences)
    if n < 2:
        return math.nan
    mean, sd = float(differences.mean()), float(differences.std(ddof=1))
    if sd == 0:  # t divides by it; equal differences are all zero, or certain
        return 1.0 if mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(mean) / (sd / math.sqrt(n)), n - 1))


def sign_flip_p(differences: np.ndarray) -> float:
    """Two-sided p of the paired sign-flip test: the share of all 2^n sign patterns whose |sum| reaches the observed one
    (Fisher 1935, The Design of Experiments, section 21). NaN without pairs.

    Up to MAX_EXACT pairs it counts all patterns without listing them: each half of the pairs has 2^(n/2) signed sums,
    and bisection in the sorted sums of one half counts those that complete a sum of the other. The smallest possible p
    is 2^(1 - n). Of more pairs it draws DRAWS patterns, seeded: p = (1 + patterns that reach) / (1 + DRAWS), which is
    valid as the exact p is (Phipson and Smyth 2010, Permutation P-values Should Never Be Zero, section 3).
    """
    n = len(differences)
    if n == 0:
        return math.nan
    # Sums that are equal in theory differ in their last bits; they count as reaching the observed one.
    reach = abs(float(differences.sum())) - 1e-9 * float(np.abs(differences).sum())
    if n > MAX_EXACT:
        return (1 + _drawn_reaching(differences, reach)) / (1 + DRAWS)
    left, right = (np.sort(_signed_sums(half)) for half in (differences[: n // 2], differences[n // 2 :]))
    at_least = len(left) * len(right) - int(np.searchsorted(right, reach - left, side="left").sum())
    # A pattern and its mirror image have opposite sums, hence the factor 2. With reach <= 0 this counts both twice.
    return min(1.0, 2 * at_least / 2**n)


def sign_flip_p_above(values: np.ndarray) -> float:
    """One-sided p of the sign-flip test that the mean of a sample is above 0: the share of the 2^n sign patterns whose
    sum reaches the observed one. It counts or draws patterns as sign_flip_p does; the smallest p is 2^-n. NaN without
    values."""
    n = len(values)
    if n == 0:
        return math.nan
    reach = float(values.sum()) - 1e-9 * float(np.abs(values).sum())
    if n > MAX_EXACT:
        return (1 + sum(int((sums >= reach).sum()) for sums in _drawn_sums(values))) / (1 + DRAWS)
    left, right = (np.sort(_signed_sums(half)) for half in (values[: n // 2], values[n // 2 :]))
    at_least = len(left) * len(right) - int(np.searchsorted(right, reach - left, side="left").sum())
    return at_least / 2**n


def t_p_above(values: np.ndarray) -> float:
    """One-sided p of the one-sample t test that the mean is above 0. NaN below two values."""
    n = len(values)
    if n < 2:
        return math.nan
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    if sd == 0:  # t divides by it; the mean is certain
        return 0.0 if mean > 0 else 1.0
    return float(stats.t.sf(mean / (sd / math.sqrt(n)), n - 1))


def _drawn_reaching(differences: np.ndarray, reach: float) -> int:
    """How many of DRAWS random sign patterns have a |sum| of at least `reach`."""
    return sum(int((np.abs(sums) >= reach).sum()) for sums in _drawn_sums(differences))


def _drawn_sums(values: np.ndarray) -> Iterator[np.ndarray]:
    """The sums of the values with DRAWS random sign patterns, block by block."""
    rng, n = np.random.default_rng(SEED), len(values)
    for start in range(0, DRAWS, _BLOCK // n):
        shape = (min(_BLOCK // n, DRAWS - start), n)
        yield (2.0 * rng.integers(2, size=shape, dtype=np.int8) - 1) @ values


def _signed_sums(values: np.ndarray) -> np.ndarray:
    """The 2^n sums of the values with every pattern of signs."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values (Holm 1979). A NaN stays NaN but counts in the family, as a planned test."""
    order = sorted((index for index, p in enumerate(ps) if not math.isnan(p)), key=lambda index: ps[index])
    adjusted, floor = [math.nan] * len(ps), 0.0
    for rank, index in enumerate(order):
        floor = max(floor, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = floor
    return adjusted


def detectable_effect(sd: float, *, n: int, alpha: float, power: float = 0.8) -> float:
    """The smallest true difference that a two-sided paired t test finds with this power where the differences have
    standard deviation `sd`, by the noncentral t distribution. NaN below two pairs."""
    if n < 2 or math.isnan(sd):
        return math.nan
    return _noncentrality(n, alpha, power) * sd / math.sqrt(n)


@lru_cache
def _noncentrality(n: int, alpha: float, power: float) -> float:
    """The noncentrality at which a two-sided t test with n - 1 degrees of freedom has this power."""
    critical = float(stats.t.ppf(1 - alpha / 2, n - 1))

    def power_gap(noncentrality: float) -> float:
        # The other tail is left out: it adds less than P(Z < -noncentrality), and scipy returns NaN for it.
        return float(stats.nct.sf(critical, n - 1, noncentrality)) - power

    high = 1.0
    while power_gap(high) < 0:
        high *= 2
    return cast(float, optimize.brentq(power_gap, 0.0, high))


def flip_detectable_effect(sd: float, *, n: int, alpha: float, power: float = 0.8) -> float:
    """As detectable_effect, for the exact sign-flip test of normal differences, simulated. NaN where the test cannot
    reject at `alpha`, and above MAX_POWER pairs."""
    return math.nan if math.isnan(sd) or n > MAX_POWER else _flip_shift(n, alpha, power) * sd


@lru_cache
def _flip_shift(n: int, alpha: float, power: float) -> float:
    """The detectable effect in standard deviations of the differences.

    Flipping the signs of a subset gives a sum that reaches the observed one exactly where the subset's own sum is 0 or
    below. So the test rejects a positive mean where at most `allowed` = alpha 2^(n - 1) subsets, counting the empty
    one, have a mean of 0 or below. A sample is rejected once minus the `allowed`-th smallest mean of its nonempty
    subsets is added to it; the result is the `power` quantile of that shift.
    """
    allowed = math.floor(alpha * 2 ** (n - 1) * (1 + 1e-12)) if n else 0
    if not allowed:
        return math.nan
    subsets_Mn = (np.arange(1, 2**n)[:, None] >> np.arange(n)) & 1
    means_nM = (subsets_Mn / subsets_Mn.sum(axis=1, keepdims=True)).T
    rng, samples, shifts = np.random.default_rng(SEED), min(10_000, 2**26 >> n), []
    for _ in range(0, samples, block := max(1, _BLOCK >> n)):
        found_SM = rng.standard_normal((block, n)) @ means_nM
        shifts.append(-np.partition(found_SM, allowed - 1, axis=1)[:, allowed - 1])
    return float(np.quantile(np.concatenate(shifts), power))
