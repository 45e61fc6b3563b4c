"""How likely each verdict is before anything is trained, by simulation through the rules that the report judges by.

A simulated study draws every hypothesis' paired gains from a normal distribution with a known spread and judges all of
them together: the sign-flip test with Holm's correction, the simultaneous intervals, the equivalence test. Hypotheses
are drawn independently of each other. Legend: H hypotheses, D simulated studies, N seeds, P sign patterns, R samples.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats

from ablate.analyze.arms.fixed_target import judge_target
from ablate.analyze.arms.hypotheses import Verdict, judge, level
from ablate.analyze.basis.stats import SEED, Interval, holm

STUDIES = 400
"""Simulated studies: a chance of a half has a standard error of 0.025."""

MOST_SEEDS = 100
"""More seeds than this are not looked at."""

POWER = 0.8

_HALF = 2**11
"""Sign patterns that are looked at: all there are up to 12 seeds, so many seeded ones of more seeds. A pattern stands
for its mirror image too."""

_BLOCK = 1_000
"""Samples whose patterns are held in memory at once."""


@dataclass(frozen=True)
class Plan:
    """A hypothesis about a gain: `min_effect`, and the standard deviation of the paired differences."""

    min_effect: float
    sd: float


@dataclass(frozen=True)
class TargetPlan:
    """A hypothesis about a target: the standard deviation of the arm's runs, and the level that is left for the first
    step of Holm's correction over the targets."""

    sd: float
    alpha: float


@dataclass(frozen=True)
class Chances:
    """The probability of each verdict."""

    supported: float
    equivalent: float
    refuted: float
    inconclusive: float


def chances(plans: Sequence[Plan], *, seeds: int, gain: float) -> list[Chances]:
    """The chances of every hypothesis where each true gain is `gain` times its min_effect."""
    if seeds < 2:
        return [Chances(0.0, 0.0, 0.0, 1.0)] * len(plans)
    rng = np.random.default_rng(SEED)
    gains_HDN = rng.standard_normal((len(plans), STUDIES, seeds))
    for plan, gains_DN in zip(plans, gains_HDN, strict=True):
        gains_DN *= plan.sd
        gains_DN += gain * plan.min_effect
    verdicts_DH = verdicts(gains_HDN, min_effects=[plan.min_effect for plan in plans])
    return [_shares(column) for column in zip(*verdicts_DH, strict=True)]


def verdicts(gains_HDN: np.ndarray, *, min_effects: Sequence[float]) -> list[tuple[Verdict, ...]]:
    """The verdicts of every simulated study. They are `hypotheses.judge`'s, on numbers that are computed at once."""
    claims, studies, seeds = gains_HDN.shape
    margin_H1 = np.asarray(min_effects)[:, None]
    mean_HD, sd_HD = gains_HDN.mean(axis=2), gains_HDN.std(axis=2, ddof=1)
    error_HD = sd_HD / math.sqrt(seeds)
    half_HD = float(stats.t.ppf((1 + level(claims)) / 2, seeds - 1)) * error_HD
    equal_HD = stats.t.sf((margin_H1 - np.abs(mean_HD)) / error_HD, seeds - 1)
    exact_HD = sign_flip_ps(gains_HDN.reshape(-1, seeds)).reshape(claims, studies)
    found = []
    for study in range(studies):
        p_holm, p_equivalence = holm(exact_HD[:, study].tolist()), holm(equal_HD[:, study].tolist())
        found.append(
            tuple(
                judge(
                    Interval(seeds, mean, sd, mean - half, mean + half),
                    p_holm=p_holm[claim],
                    p_equivalence=p_equivalence[claim],
                    min_effect=min_effects[claim],
                )
                for claim, (mean, sd, half) in enumerate(
                    zip(mean_HD[:, study], sd_HD[:, study], half_HD[:, study], strict=True)
                )
            )
        )
    return found


def target_power(plan: TargetPlan, *, seeds: int, margin: float) -> float:
    """The chance that a claim about a target is supported where the arm's true mean is better than the target by
    `margin`."""
    rng = np.random.default_rng(SEED)
    beyond_DN = margin + plan.sd * rng.standard_normal((STUDIES, seeds))
    ps_D = sign_flip_ps(beyond_DN, above=True)
    return sum(judge_target(p, alpha=plan.alpha) == "supported" for p in ps_D.tolist()) / STUDIES


def seeds_for(plans: Sequence[Plan], *, gain: float) -> list[int | None]:
    """For every hypothesis the fewest seeds that support it with POWER where the true gain is `gain` times min_effect;
    None where MOST_SEEDS do not suffice. By bisection: more seeds do not lower the chance, but for the noise of the
    simulation."""

    @cache
    def supported(seeds: int) -> list[float]:
        return [found.supported for found in chances(plans, seeds=seeds, gain=gain)]

    return [_fewest(lambda seeds, claim=claim: supported(seeds)[claim]) for claim in range(len(plans))]


def seeds_for_target(plan: TargetPlan, *, margin: float) -> int | None:
    """As seeds_for, for a claim about a target."""
    return _fewest(lambda seeds: target_power(plan, seeds=seeds, margin=margin))


def sign_flip_ps(values_RN: np.ndarray, *, above: bool = False) -> np.ndarray:
    """The p of the sign-flip test of every row: two-sided, or with `above` one-sided. Up to 12 values it is exact, as
    `stats.sign_flip_p` is; of more it uses seeded patterns."""
    signs_PN, every = _signs(values_RN.shape[1])
    found = []
    for start in range(0, len(values_RN), _BLOCK):
        block_RN = values_RN[start : start + _BLOCK]
        sums_RP = block_RN @ signs_PN.T
        observed_R = block_RN.sum(axis=1)
        reach_R1 = (observed_R if above else np.abs(observed_R))[:, None]
        reach_R1 = reach_R1 - 1e-9 * np.abs(block_RN).sum(axis=1)[:, None]
        if above:  # a pattern, its mirror image, or both reach
            hits_R = (sums_RP >= reach_R1).sum(axis=1) + (-sums_RP >= reach_R1).sum(axis=1)
        else:
            hits_R = 2 * (np.abs(sums_RP) >= reach_R1).sum(axis=1)
        found.append(hits_R / (2 * len(signs_PN)) if every else (1 + hits_R) / (1 + 2 * len(signs_PN)))
    return np.minimum(1.0, np.concatenate(found))


@cache
def _signs(seeds: int) -> tuple[np.ndarray, bool]:
    """Sign patterns, and whether they are all; of a pattern and its mirror image only one is among them."""
    if 2 ** (seeds - 1) <= _HALF:
        bits = (np.arange(2 ** (seeds - 1))[:, None] >> np.arange(seeds)) & 1
        return 1.0 - 2.0 * bits, True
    return 1.0 - 2.0 * np.random.default_rng(SEED).integers(2, size=(_HALF, seeds)), False


def _fewest(power_at: Callable[[int], float]) -> int | None:
    low, high = 1, MOST_SEEDS
    if power_at(high) < POWER:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_at(middle) >= POWER else (middle, high)
    return high


def _shares(found: Sequence[Verdict]) -> Chances:
    counts = Counter(found)
    return Chances(
        supported=counts["supported"] / len(found),
        equivalent=counts["equivalent"] / len(found),
        refuted=counts["refuted"] / len(found),
        inconclusive=counts["inconclusive"] / len(found),
    )
