"""O'Brien-Fleming alpha spending as its definition reads: the looks' sums are one multivariate normal vector."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from scipy import stats


def spent(share: float, alpha: float) -> float:
    """The error that is spent by a share of the seeds: each of two sides spends 2 - 2 Phi(z / sqrt(share))."""
    z = float(stats.norm.isf(alpha / 4))
    return 2 * (2 - 2 * float(stats.norm.cdf(z / math.sqrt(share))))


def crossed(levels: Sequence[float], sizes: Sequence[int]) -> float:
    """The probability that one of the first looks, with these levels, rejects where there is no effect."""
    bounds = [float(stats.norm.isf(level / 2)) for level in levels]
    covariance = [[math.sqrt(min(a, b) / max(a, b)) for b in sizes[: len(bounds)]] for a in sizes[: len(bounds)]]
    rng = np.random.default_rng(0)
    cdf, low = cast(Any, stats.multivariate_normal).cdf, [-bound for bound in bounds]
    return 1 - float(cdf(bounds, cov=covariance, lower_limit=low, abseps=1e-8, maxpts=2_000_000, rng=rng))


def sequential_p(ps: Sequence[float], levels: Callable[[float], Sequence[float]]) -> float:
    """Bisection: the smallest error alpha at which some look's p is at most its level; 1 above 0.9."""
    low, high = 1e-10, 0.9
    for _ in range(60):
        middle = math.sqrt(low * high)
        rejected = any(p <= level for p, level in zip(ps, levels(middle), strict=False))
        low, high = (low, middle) if rejected else (middle, high)
    return high if high < 0.9 else 1.0
