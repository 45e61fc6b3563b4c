"""Simulated power: the same verdicts as the report's, and known chances."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ablate.analyze.arms import simulated_power as power
from ablate.analyze.arms.hypotheses import Claim, judge_all
from ablate.analyze.arms.simulated_power import Chances, Plan, TargetPlan
from ablate.analyze.basis.stats import sign_flip_p, sign_flip_p_above
from tests.analyze.test_inference import table


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(0, 2**32 - 1), st.booleans())
def test_p_values_at_once_equal_those_one_by_one(n: int, seed: int, tied: bool):
    rng = np.random.default_rng(seed)
    values_RN = rng.integers(-2, 3, (20, n)).astype(float) if tied else rng.normal(0.3, 1.0, (20, n))
    one_by_one, above = [sign_flip_p(row) for row in values_RN], [sign_flip_p_above(row) for row in values_RN]
    assert power.sign_flip_ps(values_RN) == pytest.approx(one_by_one)
    assert power.sign_flip_ps(values_RN, above=True) == pytest.approx(above)


def test_p_values_of_many_seeds_are_near_the_exact_ones():
    values_RN = np.random.default_rng(0).normal(0.4, 1.0, (30, 20))
    exact = np.array([sign_flip_p(row) for row in values_RN])
    assert np.abs(power.sign_flip_ps(values_RN) - exact).max() < 4 * math.sqrt(0.25 / 2**11)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 3), st.integers(2, 12), st.floats(0.0, 3.0), st.integers(0, 2**32 - 1))
def test_simulated_verdicts_are_the_reports(claims: int, seeds: int, gain: float, seed: int):
    rng = np.random.default_rng(seed)
    gains_HDN = rng.normal(0.1 * gain, 0.08, (claims, 5, seeds))
    found = power.verdicts(gains_HDN, min_effects=[0.1] * claims)
    for study in range(5):
        losses = {f"a{claim}": (-gains_HDN[claim, study]).tolist() for claim in range(claims)}
        asked = [Claim("c", arm, "val_loss", 0.1) for arm in losses]
        judged = judge_all(table({"baseline": [0.0] * seeds, **losses}), claims=asked, maximised=())
        assert found[study] == tuple(entry.verdict for entry in judged)


@pytest.mark.parametrize("claims", [1, 3, 6])
def test_wrong_verdicts_of_all_hypotheses_together_keep_their_level(claims: int):
    """Every true gain is min_effect, where neither `supported` nor `equivalent` is right."""
    gains_HDN = np.random.default_rng(1).normal(0.02, 0.01, (claims, 2_000, 10))
    found = power.verdicts(gains_HDN, min_effects=[0.02] * claims)
    noise = 3 * math.sqrt(0.05 * 0.95 / 2_000)
    for wrong in ("supported", "equivalent"):
        assert sum(wrong in verdicts for verdicts in found) / 2_000 < 0.05 + noise


def test_chances_are_shares_and_repeat():
    plans = [Plan(0.02, 0.06), Plan(0.05, 0.02)]
    found = power.chances(plans, seeds=9, gain=2.0)
    assert found == power.chances(plans, seeds=9, gain=2.0)
    for one in found:
        assert one.supported + one.equivalent + one.refuted + one.inconclusive == pytest.approx(1)
    assert found[1].supported > 0.9 > 0.3 > found[0].supported
    assert power.chances(plans, seeds=1, gain=2.0) == [Chances(0.0, 0.0, 0.0, 1.0)] * 2


def test_the_chance_of_support_is_the_noncentral_t_distributions():
    """Of one hypothesis the interval is stricter than the test, so its power is (Johnson and Kotz)."""
    n, sd, least = 20, 0.05, 0.03
    found = power.chances([Plan(least, sd)], seeds=n, gain=2.0)[0].supported
    known = stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, least / sd * math.sqrt(n))
    assert found == pytest.approx(known, abs=4 * math.sqrt(0.25 / power.STUDIES))
    assert power.chances([Plan(least, sd)], seeds=n, gain=1.0)[0].supported < 0.06, "2.5% at min_effect itself"
    assert power.chances([Plan(least, 0.01)], seeds=n, gain=0.0)[0].equivalent > 0.99


def test_the_fewest_seeds_have_the_power_and_one_seed_less_has_not():
    plan = Plan(0.03, 0.05)
    (needed,) = power.seeds_for([plan], gain=2.0)
    assert needed is not None
    assert power.chances([plan], seeds=needed, gain=2.0)[0].supported >= power.POWER
    assert power.chances([plan], seeds=needed - 1, gain=2.0)[0].supported < power.POWER
    formula = ((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * 0.05 / 0.03) ** 2
    assert formula - 2 < needed < formula + 8, "the normal formula is a little too small"
    assert power.seeds_for([Plan(0.001, 1.0)], gain=2.0) == [None]
    several = power.seeds_for([plan] * 4, gain=2.0)
    assert all(count is not None and count > needed for count in several), "more hypotheses need more seeds"


def test_a_target_has_the_power_of_its_one_sided_test():
    plan = TargetPlan(sd=1.0, alpha=0.01)
    assert power.target_power(plan, seeds=6, margin=10.0) == 0, "six seeds have no p below 2^-6"
    assert power.target_power(plan, seeds=7, margin=10.0) == 1
    assert power.target_power(plan, seeds=20, margin=0.0) < 0.03
    n = 25
    known = stats.nct.sf(stats.t.ppf(0.99, n - 1), n - 1, 0.6 * math.sqrt(n))
    assert power.target_power(plan, seeds=n, margin=0.6) == pytest.approx(known, abs=0.1)
    needed = power.seeds_for_target(plan, margin=1.0)
    assert needed is not None
    assert 10 <= needed <= 16
    assert power.seeds_for_target(plan, margin=0.01) is None
