"""Parameter importances: which parameters separate the best trials from the rest. PED-ANOVA (Watanabe et al. 2023,
arXiv 2304.10255, equations 15 and 16) with bootstrap intervals.

For each parameter the kernel density of the best tenth's values is compared, on a grid, with that of all trials'.
Its importance is the Pearson divergence of the two as a share of the sum over parameters. The densities are those of
Optuna's evaluator, which the tests compare with. That evaluator is not used here, because it takes a second to import
and half a second for each resample of a long search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from ablate.analyze.basis.frames import floats
from ablate.analyze.search.best import ranked
from ablate.analyze.search.space import Dimension
from ablate.spec.models import Objective

NEEDED = 30  # completed trials: fewer than three in the best tenth say nothing
TOP = 0.1
STEPS = 50  # most points of the grid
RESAMPLES = 400
SEED = 0


@dataclass(frozen=True)
class Share:
    """One parameter's share of all importance, with its 95 % percentile bootstrap interval over the trials."""

    key: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Importances:
    """Shares that sum to 1, largest first; empty while `missing` more completed trials are needed."""

    shares: tuple[Share, ...]
    completed: int
    missing: int


@dataclass(frozen=True)
class _Grid:
    """A parameter's values as places on a grid of `size` points."""

    places: np.ndarray
    size: int
    categorical: bool


def importances(trials: pd.DataFrame, *, space: Sequence[Dimension], objective: Objective) -> Importances:
    """Importances over the completed trials of a search, each parameter on the scale it was drawn on."""
    order = ranked(trials, objective=objective)
    missing = max(0, NEEDED - len(order))
    if missing or not space:
        return Importances(shares=(), completed=len(order), missing=missing)
    grids = [_grid(dimension, list(order[dimension.column])) for dimension in space]
    costs = objective.sign * floats(order, objective.metric)
    everything = np.arange(len(costs))
    values_D = _shares(grids, costs, everything)
    rng = np.random.default_rng(SEED)
    resampled_RD = np.stack(
        [_shares(grids, costs, rng.integers(len(costs), size=len(costs))) for _ in range(RESAMPLES)]
    )
    low_D, high_D = np.quantile(resampled_RD, [0.025, 0.975], axis=0)
    found = [
        Share(dimension.key, *(float(numbers[index]) for numbers in (values_D, low_D, high_D)))
        for index, dimension in enumerate(space)
    ]
    return Importances(tuple(sorted(found, key=lambda share: -share.value)), completed=len(order), missing=0)


def _shares(grids: Sequence[_Grid], costs: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Each parameter's share over the trials `chosen` (indices, repeats count); equal shares where nothing differs."""
    own = costs[chosen]
    cutoff = math.ceil(TOP * len(own)) - 1
    best = chosen[own <= np.partition(own, cutoff)[cutoff]]
    divergences = np.array(
        [_divergence(grid, best=grid.places[best], everything=grid.places[chosen]) for grid in grids]
    )
    total = divergences.sum()
    return divergences / total if total > 0 else np.full(len(grids), 1 / len(grids))


def _divergence(grid: _Grid, *, best: np.ndarray, everything: np.ndarray) -> float:
    """Pearson's divergence of the best trials' density from that of all trials."""
    if grid.size == 1:
        return 0.0
    density = _categorical_density if grid.categorical else _density
    top, local = (density(np.bincount(places, minlength=grid.size)) + 1e-12 for places in (best, everything))
    return float(local @ (top / local - 1) ** 2)


def _density(counts: np.ndarray) -> np.ndarray:
    """Normal kernels at the occupied points, truncated at the grid's ends and integrated over each point's width, with
    Scott's bandwidth (Scott 1992); one wide kernel in the middle, with the weight of one trial, is the prior."""
    size, occupied = len(counts), np.flatnonzero(counts)
    weights, total = counts[occupied], counts.sum()
    mean = occupied @ weights / total
    sd = math.sqrt((occupied - mean) ** 2 @ weights / max(1, total - 1))
    below = np.cumsum(weights)
    first = occupied[np.searchsorted(below, total // 4, side="left")]
    third = occupied[min(len(occupied) - 1, int(np.searchsorted(below, total * 3 // 4, side="right")))]
    bandwidth = max(1.059 * min((third - first) / 1.34, sd) * total**-0.2, 0.5 / 1.64)
    mu_K = np.append(occupied, (size - 1) / 2)
    sigma_K = np.append(np.full(len(occupied), bandwidth), size)
    edges_E1 = np.arange(size + 1)[:, None] - 0.5
    below_EK = special.ndtr((edges_E1 - mu_K) / sigma_K)
    kernels_GK = np.diff(below_EK, axis=0) / (below_EK[-1] - below_EK[0])
    return kernels_GK @ (np.append(weights, 1.0) / (total + 1))


def _categorical_density(counts: np.ndarray) -> np.ndarray:
    """One kernel for each occupied choice, smoothed towards all choices equally; a uniform kernel is the prior."""
    occupied = np.flatnonzero(counts)
    kernels_KC = np.full((len(occupied) + 1, len(counts)), 1 / (len(occupied) + 1))
    kernels_KC[np.arange(len(occupied)), occupied] += 1
    kernels_KC /= kernels_KC.sum(axis=1, keepdims=True)
    return (np.append(counts[occupied], 1.0) / (counts.sum() + 1)) @ kernels_KC


def _grid(dimension: Dimension, stored: list[object]) -> _Grid:
    """Each trial's place on the grid. A one_minus_loguniform is log-uniform in 1 - x, so its grid is too."""
    values = [dimension.read(value) for value in stored]
    if dimension.kind == "choice":
        places = [dimension.choices.index(value) for value in values]
        return _Grid(np.array(places), size=len(dimension.choices), categorical=True)
    numbers = np.array(values, dtype=float)
    low, high, size = dimension.low, dimension.high, STEPS
    if dimension.kind == "one_minus_loguniform":
        numbers, low, high = 1 - numbers, 1 - high, 1 - low
    if dimension.kind == "int":
        size = min(STEPS, round(high - low) + 1)
    elif dimension.kind == "logint":
        size = min(STEPS, math.ceil(math.log2(high - low + 1)) + 1)
    if dimension.kind in ("loguniform", "logint", "one_minus_loguniform"):
        numbers, low, high = np.log(numbers), math.log(low), math.log(high)
    if high <= low:
        return _Grid(np.zeros(len(values), dtype=int), size=1, categorical=False)
    places = np.ceil((numbers - low) / ((high - low) / (size - 1)) - 0.5).astype(int)
    return _Grid(np.clip(places, 0, size - 1), size=size, categorical=False)
