"""The declared test of an ablation, the paired sign-flip test with Holm's correction: what it can show with how many
seeds. Known before anything is trained; the test itself is in `ablate.analyze`."""

from __future__ import annotations

import math

ALPHA = 0.05
"""The level at which the declared test rejects."""

MAX_EXACT = 40
"""Pairs of which the sign-flip test counts every sign pattern; of more it draws DRAWS of them."""

DRAWS = 99_999


def smallest_p(seeds: int) -> float:
    """The smallest p of the two-sided sign-flip test: 2^(1 - n), or 1 / (1 + DRAWS) where its patterns are drawn."""
    return 1 / (1 + DRAWS) if seeds > MAX_EXACT else 2.0 ** (1 - seeds)


def smallest_p_holm(*, seeds: int, arms: int) -> float:
    """The smallest adjusted p that an arm can get: the test's own, times the arms."""
    return min(1.0, arms * smallest_p(seeds))


def seeds_needed(arms: int) -> int:
    """The fewest seeds with which the declared test can reject for one of so many arms."""
    return 1 + math.ceil(math.log2(arms / ALPHA))
