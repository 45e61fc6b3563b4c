"""The statistics against scipy and against brute force."""

from __future__ import annotations

import itertools
import math
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ablate.analyze.basis.stats import (
    MAX_POWER,
    detectable_effect,
    flip_detectable_effect,
    holm,
    paired_t_p,
    sign_flip_p,
    t_interval,
)
from ablate.spec.declared_test import ALPHA, DRAWS, MAX_EXACT, smallest_p


def brute_sign_flip_p(differences: np.ndarray) -> float:
    """Every sign pattern, one after the other."""
    observed = abs(differences.sum()) * (1 - 1e-9)
    patterns = itertools.product((1, -1), repeat=len(differences))
    return sum(abs(np.dot(signs, differences)) >= observed for signs in patterns) / 2 ** len(differences)


@pytest.mark.parametrize("n", [2, 3, 6, 11])
def test_t_interval_and_p_equal_scipy(n: int):
    values = np.random.default_rng(n).normal(0.3, 1.0, n)
    found, test = t_interval(values), cast(Any, stats.ttest_1samp(values, 0.0))
    expected = test.confidence_interval(0.95)
    assert (found.n, found.mean) == (n, pytest.approx(values.mean()))
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert found.sd == pytest.approx(values.std(ddof=1))
    assert paired_t_p(values) == pytest.approx(test.pvalue)


def test_interval_needs_two_finite_values():
    one = t_interval([5.0])
    assert one.mean == 5.0
    assert math.isnan(one.low)
    assert not one.above_zero
    assert math.isnan(t_interval([]).mean)
    assert t_interval([1.0, math.nan, 3.0]).n == 2, "what was not measured is not counted"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-5, 5).map(lambda value: round(value, 2)), min_size=1, max_size=9))
def test_sign_flip_p_equals_brute_force(values: list[float]):
    differences = np.array(values)
    assert sign_flip_p(differences) == pytest.approx(brute_sign_flip_p(differences))


def test_sign_flip_p_counts_ties_that_differ_in_their_last_bits():
    differences = np.array([0.1, 0.2, 0.3])  # 0.1 + 0.2 - 0.3 is not 0 in doubles
    assert sign_flip_p(differences) == 0.25
    assert sign_flip_p(np.array([0.1, 0.1, -0.2])) == 1.0
    assert sign_flip_p(np.zeros(4)) == 1.0


def test_sign_flip_p_is_exact_up_to_max_exact_pairs():
    differences = np.random.default_rng(0).normal(0.5, 1.0, 30)
    assert sign_flip_p(differences) == pytest.approx(paired_t_p(differences), rel=0.35)
    assert sign_flip_p(np.ones(MAX_EXACT)) == 2 ** (1 - MAX_EXACT) == smallest_p(MAX_EXACT)
    assert math.isnan(sign_flip_p(np.array([])))


@pytest.mark.parametrize("n", [MAX_EXACT + 1, 45, 1_000])
def test_sign_flip_p_of_more_pairs_is_drawn_and_agrees_with_t(n: int):
    differences = np.random.default_rng(n).normal(2 / math.sqrt(n), 1.0, n)
    found = sign_flip_p(differences)
    assert found == sign_flip_p(differences), "seeded"
    assert found == pytest.approx(paired_t_p(differences), abs=0.005)
    assert sign_flip_p(np.full(n, 0.1)) == smallest_p(n) == 1 / (1 + DRAWS)
    assert sign_flip_p(np.zeros(n)) == 1.0, "no pattern is below nothing"


def test_drawn_p_values_are_near_exact_ones(monkeypatch: pytest.MonkeyPatch):
    differences = [np.random.default_rng(seed).normal(0.4, 1.0, 12) for seed in range(5)]
    exact = [sign_flip_p(values) for values in differences]
    monkeypatch.setattr("ablate.analyze.basis.stats.MAX_EXACT", 11)
    assert [sign_flip_p(values) for values in differences] == pytest.approx(exact, abs=0.006)


@pytest.mark.parametrize(("n", "smallest"), [(3, 0.25), (4, 0.125), (5, 0.0625), (6, 0.03125), (8, 0.0078125)])
def test_smallest_p(n: int, smallest: float):
    assert smallest_p(n) == smallest == sign_flip_p(np.arange(1.0, n + 1))


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.6, 0.5]) == pytest.approx([1.0, 1.0])
    with_a_gap = holm([0.01, math.nan, 0.02])
    assert with_a_gap[0] == pytest.approx(0.03), "an arm without a p counts in the family"
    assert math.isnan(with_a_gap[1])
    assert with_a_gap[2] == pytest.approx(0.04)


@pytest.mark.parametrize(("n", "alpha"), [(3, 0.05), (6, 0.05 / 3), (10, 0.05)])
def test_detectable_effect_has_its_power(n: int, alpha: float):
    effect = detectable_effect(2.0, n=n, alpha=alpha)
    draws_SN = np.random.default_rng(1).normal(effect, 2.0, (40_000, n))
    power = (cast(Any, stats.ttest_1samp(draws_SN, 0.0, axis=1)).pvalue < alpha).mean()
    assert power == pytest.approx(0.8, abs=0.01)
    assert math.isnan(detectable_effect(2.0, n=1, alpha=alpha))


@pytest.mark.parametrize(("n", "alpha"), [(6, ALPHA), (8, ALPHA / 6), (10, ALPHA / 7)])
def test_flip_detectable_effect_has_its_power(n: int, alpha: float):
    effect = flip_detectable_effect(2.0, n=n, alpha=alpha)
    draws_SN = np.random.default_rng(1).normal(effect, 2.0, (3_000, n))
    assert np.mean([sign_flip_p(row) <= alpha for row in draws_SN]) == pytest.approx(0.8, abs=0.025)
    assert effect > detectable_effect(2.0, n=n, alpha=alpha), "few patterns cost power"


def test_flip_detectable_effect_is_nan_where_the_test_cannot_reject():
    assert math.isnan(flip_detectable_effect(1.0, n=5, alpha=ALPHA))
    assert math.isnan(flip_detectable_effect(1.0, n=0, alpha=ALPHA))
    assert math.isnan(flip_detectable_effect(math.nan, n=8, alpha=ALPHA))
    assert math.isnan(flip_detectable_effect(1.0, n=MAX_POWER + 1, alpha=ALPHA)), "not simulated"
    assert flip_detectable_effect(1.0, n=MAX_POWER, alpha=ALPHA) == pytest.approx(
        detectable_effect(1.0, n=MAX_POWER, alpha=ALPHA), rel=0.03
    )
