"""Statistics as their definitions read: loops over seeds, cells, sign patterns and trials."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from scipy import stats


def main_effect(runs: Mapping[tuple[str, ...], float], factor: int, level: str, reference: str) -> float:
    """One seed: the mean, over all settings of the other factors, of run(level) - run(reference)."""
    gaps = [
        loss - runs[(*cell[:factor], reference, *cell[factor + 1 :])]
        for cell, loss in runs.items()
        if cell[factor] == level
    ]
    return sum(gaps) / len(gaps)


def interaction(
    runs: Mapping[tuple[str, ...], float], first: tuple[int, str, str], second: tuple[int, str, str]
) -> float:
    """One seed: what the first factor's level changes at the second's level, minus what it changes at its reference."""
    (one, high, low), (two, on, off) = first, second
    at_on = {cell: loss for cell, loss in runs.items() if cell[two] == on}
    at_off = {cell: loss for cell, loss in runs.items() if cell[two] == off}
    return main_effect(at_on, one, high, low) - main_effect(at_off, one, high, low)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Every sign pattern, one after the other."""
    observed = abs(sum(differences)) * (1 - 1e-9)
    patterns = list(itertools.product((1, -1), repeat=len(differences)))
    return sum(abs(sum(s * d for s, d in zip(p, differences, strict=True))) >= observed for p in patterns) / len(
        patterns
    )


def holm(ps: Sequence[float]) -> list[float]:
    """Of m hypotheses the k-th smallest p is multiplied by m - k + 1, and none is smaller than one before it."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    adjusted = [0.0] * len(ps)
    for rank, index in enumerate(order):
        before = adjusted[order[rank - 1]] if rank else 0.0
        adjusted[index] = max(before, min(1.0, (len(ps) - rank) * ps[index]))
    return adjusted


def equivalence_p(gains: Sequence[float], *, margin: float) -> float:
    """The larger p of scipy's two one-sided tests."""
    below = cast(Any, stats.ttest_1samp(gains, margin, alternative="less")).pvalue
    above = cast(Any, stats.ttest_1samp(gains, -margin, alternative="greater")).pvalue
    return float(max(below, above))


def verdicts(samples: Sequence[Sequence[float]], min_effects: Sequence[float]) -> list[str]:
    """Every hypothesis of a study, with Holm over both kinds of p and Bonferroni's intervals."""
    p_holm = holm([sign_flip_p(gains) for gains in samples])
    p_equal = holm([equivalence_p(gains, margin=m) for gains, m in zip(samples, min_effects, strict=True)])
    level = 1 - 0.05 / len(samples)
    return [
        verdict(gains, p_holm=p, p_equivalence=equal, min_effect=margin, level=level)
        for gains, p, equal, margin in zip(samples, p_holm, p_equal, min_effects, strict=True)
    ]


def verdict(
    gains: Sequence[float], *, p_holm: float, p_equivalence: float, min_effect: float, level: float = 0.95
) -> str:
    """The rules of a hypothesis on a sample of gains, by scipy's tests alone."""
    if len(gains) < 2:
        return "inconclusive"
    if p_equivalence <= 0.05:
        return "equivalent"
    low, high = cast(Any, stats.ttest_1samp(gains, 0.0)).confidence_interval(level)
    if low >= min_effect and p_holm <= 0.05:
        return "supported"
    return "refuted" if high < min_effect else "inconclusive"


def pareto(points: Sequence[Sequence[float]]) -> list[bool]:
    """Which points no other beats, all costs: everybody against everybody."""

    def beats(a: Sequence[float], b: Sequence[float]) -> bool:
        return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))

    return [not any(beats(other, point) for other in points) for point in points]


def audit_rung(early: Mapping[str, float], final: Mapping[str, float], *, reduction: int) -> tuple[float, int, float]:
    """(Spearman's rho, stopped, regret) of audited trials `final`; `early`: everybody's cost at the rung."""
    kept = sorted(early, key=lambda trial: early[trial])[: max(1, len(early) // reduction)]
    ids = [trial for trial in final if trial in early]
    rho = cast(Any, stats.spearmanr([early[i] for i in ids], [final[i] for i in ids])).statistic
    best_kept = min((final[i] for i in ids if i in kept), default=math.nan)
    return float(rho), sum(i not in kept for i in ids), best_kept - min(final[i] for i in ids)


def sign_flip_p_above(values: Sequence[float]) -> float:
    """One-sided: every sign pattern whose sum is as large as the observed one."""
    reach = sum(values) - 1e-9 * sum(map(abs, values))
    patterns = list(itertools.product((1, -1), repeat=len(values)))
    return sum(sum(s * v for s, v in zip(p, values, strict=True)) >= reach for p in patterns) / len(patterns)


def sees_control(differences: Sequence[float], *, less_is_better: bool) -> bool:
    """The gain of a positive control is shown: by the interval, by the test, and on the good side."""
    gains = [-d if less_is_better else d for d in differences]
    low = cast(Any, stats.ttest_1samp(gains, 0.0)).confidence_interval(0.95).low
    return bool(low > 0) and sign_flip_p(gains) <= 0.05
