"""Components of variance as a textbook's two-way table reads: loops over arms and seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

Table = Mapping[str, Sequence[float]]
"""Arm -> its values, one for each seed in the same order."""


def two_way(table: Table) -> tuple[float, float]:
    """(sd of the seed, sd of arm by seed): the mean squares' expectations are own + arms * seed and own."""
    arms, seeds = list(table), range(len(next(iter(table.values()))))
    mean = statistics.mean(table[arm][seed] for arm in arms for seed in seeds)
    of_arm = {arm: statistics.mean(table[arm]) for arm in arms}
    of_seed = [statistics.mean(table[arm][seed] for arm in arms) for seed in seeds]
    own_squares = sum((table[arm][s] - of_arm[arm] - of_seed[s] + mean) ** 2 for arm in arms for s in seeds)
    own = own_squares / ((len(arms) - 1) * (len(seeds) - 1))
    seed_square = sum(len(arms) * (value - mean) ** 2 for value in of_seed) / (len(seeds) - 1)
    return math.sqrt(max(0.0, (seed_square - own) / len(arms))), math.sqrt(own)


def pairing(baseline: Sequence[float], arms: Table) -> tuple[float, float]:
    """(mean correlation with the baseline, summed variance of paired over that of unpaired differences)."""
    correlations = [statistics.correlation(values, baseline) for values in arms.values()]
    paired = [statistics.variance([a - b for a, b in zip(values, baseline, strict=True)]) for values in arms.values()]
    unpaired = [statistics.variance(values) + statistics.variance(baseline) for values in arms.values()]
    return statistics.mean(correlations), sum(paired) / sum(unpaired)


def evaluation_sd(runs: Sequence[Sequence[float]]) -> float:
    """The root of the mean squared second difference over 6."""
    bends = [a - 2 * b + c for run in runs for a, b, c in zip(run, run[1:], run[2:], strict=False)]
    return math.sqrt(statistics.mean(bend**2 for bend in bends) / 6)
