"""The looks of a study with sequential seeds: when its arms are tested, and how small a p must be at each look.

O'Brien-Fleming alpha spending (Lan and DeMets 1983, Biometrika 70:659, their alpha_1, here for each of two sides): by
the share t of the seeds, 4 - 4 Phi(z / sqrt t) of the error is spent, z the upper alpha / 4 point of the normal
distribution. The nominal level of a look is the p at which what this look adds is spent, found by integrating over the
looks before it (Armitage, McPherson and Rowe 1969, JRSS A 132:235). The sum of the differences is taken as normal here;
the p that is held against the level is that of the sign-flip test. All of it follows from the study file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
from scipy import optimize, special

from ablate.spec import declared_test

MOST_LOOKS = 25
"""The integration takes time that grows with the number of looks."""

_FAR = 8.0
"""Standard deviations beyond which the sum of differences is not followed."""

_ALPHAS = (1e-10, 0.9)
"""Levels between which `sequential_p` is found; larger ones are 1."""


@dataclass(frozen=True)
class Looks:
    """The looks that a study file declares. `sizes`: the seeds at each look, the last is the most that an arm gets.
    `alpha`: the error, over all looks and arms, at which an arm is decided."""

    sizes: tuple[int, ...]
    alpha: float
    first_seed: int

    @property
    def most(self) -> int:
        """The seeds of an arm that is never decided."""
        return self.sizes[-1]

    def seeds(self, size: int) -> range:
        """The seeds of the first `size` pairs."""
        return range(self.first_seed, self.first_seed + size)

    def first_that_can_reject(self, arms: int) -> int | None:
        """The seeds at the first look at which all of `arms` arms can be decided, by their number of sign patterns
        alone; None where there is no such look."""
        at = levels(self.sizes, self.alpha / arms)
        able = (n for n, level in zip(self.sizes, at, strict=True) if declared_test.smallest_p(n) <= level)
        return next(able, None)


def sizes(*, first: int, most: int, step: int) -> tuple[int, ...]:
    """The seeds at each look: `first`, then `step` more at a time, and `most`."""
    return (*range(first, most, step), most)


@lru_cache
def levels(sizes: tuple[int, ...], alpha: float) -> tuple[float, ...]:
    """The nominal two-sided level of each look, for an overall error of `alpha`."""
    found: list[float] = []
    spent, z = 0.0, -special.ndtri(alpha / 4)
    # The density of the sum while no look has rejected: masses f_N at the nodes x_N. At first the sum is 0.
    x_N, f_N, before = np.zeros(1), np.ones(1), 0
    for size in sizes:
        spends, deviation = 4 * special.ndtr(-z / math.sqrt(size / sizes[-1])), math.sqrt(size - before)
        bound = _bound(x_N / deviation, f_N, spends - spent) * deviation
        found.append(float(2 * special.ndtr(-bound / math.sqrt(size))))
        y_M, weights_M = _nodes(min(bound, _FAR * math.sqrt(size)), deviation)
        density_M = np.exp(-0.5 * ((y_M[:, None] - x_N) / deviation) ** 2) @ f_N / (deviation * math.sqrt(2 * math.pi))
        x_N, f_N, before, spent = y_M, density_M * weights_M, size, spends
    return tuple(found)


def _bound(x_N: np.ndarray, f_N: np.ndarray, spend: float) -> float:
    """The bound that the sum crosses, on either side, with the probability `spend`; all in units of the step's standard
    deviation."""

    def crossing(bound: float) -> float:
        return float(f_N @ (special.ndtr(x_N - bound) + special.ndtr(-x_N - bound)))

    high = float(np.abs(x_N).max()) + 37.0  # beyond 37 standard deviations nothing is left of a double
    if crossing(high) >= spend:
        return high
    return cast(float, optimize.brentq(lambda at: crossing(at) - spend, 0.0, high))


def _nodes(half: float, deviation: float) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on (-half, half), close enough for a normal density of this deviation."""
    nodes, weights = _legendre(48 + math.ceil(6 * half / deviation))
    return half * nodes, half * weights


@lru_cache
def _legendre(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(count)


def sequential_p(ps: Sequence[float], sizes: tuple[int, ...]) -> float:
    """The smallest overall error at which some look so far rejects, `ps` being the p values of the first looks of
    `sizes` (NaN: no value). It is a p value whichever of the looks is the last (Liu and Anderson 2008, JASA 103:1621),
    so Holm's correction takes it like any other. NaN before the first look."""
    z_A, bounds_AK = _table(sizes)
    found = [
        float(4 * special.ndtr(-np.interp(bound, bounds_AK[:, look], z_A)))
        for look, p in enumerate(ps)
        if not math.isnan(p) and (bound := -special.ndtri(p / 2)) >= bounds_AK[0, look]
    ]
    return min(found, default=1.0 if ps else math.nan)


@lru_cache
def _table(sizes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Points z of alpha / 4, and for each the looks' bounds in standard deviations. Between them both are close to
    straight lines, as the bounds of O'Brien and Fleming are proportional to z."""
    low, high = (-special.ndtri(alpha / 4) for alpha in reversed(_ALPHAS))
    z_A = np.linspace(low, high, 48)
    levels_AK = np.array([levels(sizes, float(4 * special.ndtr(-z))) for z in z_A])
    return z_A, -special.ndtri(levels_AK / 2)
