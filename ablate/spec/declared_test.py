"""What the declared test of an ablation (paired sign-flip test with Holm's correction) can show with a number of seeds.

This is known before training starts. The test itself is in `ablate.analyze.basis.stats`."""

from __future__ import annotations

import math

ALPHA = 0.05
"""The level at which the declared test rejects."""

MAX_EXACT = 40
"""The sign-flip test counts every sign pattern of up to so many pairs; of more pairs it draws DRAWS patterns."""

DRAWS = 99_999


def smallest_p(seeds: int) -> float:
    """The smallest p of the two-sided sign-flip test: 2^(1 - n), or 1 / (1 + DRAWS) where patterns are drawn."""
    return 1 / (1 + DRAWS) if seeds > MAX_EXACT else 2.0 ** (1 - seeds)


def smallest_p_one_sided(seeds: int) -> float:
    """The smallest p of the one-sided sign-flip test of one sample: 2^-n, or 1 / (1 + DRAWS)."""
    return 1 / (1 + DRAWS) if seeds > MAX_EXACT else 2.0**-seeds


def seeds_needed_one_sided(alpha: float) -> int:
    """The fewest seeds with which the one-sided test's p can be below `alpha`."""
    return 1 + math.floor(-math.log2(alpha))


def smallest_p_holm(*, seeds: int, arms: int) -> float:
    """The smallest p that an arm can have after Holm's correction: `smallest_p` times the arms, at most 1."""
    return min(1.0, arms * smallest_p(seeds))


def seeds_needed(arms: int) -> int:
    """The fewest seeds with which the declared test can reject for one of `arms` arms."""
    return 1 + math.ceil(math.log2(arms / ALPHA))
