"""The positive control, fixed targets and components of variance, against their oracles."""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from ablate.analyze.arms import variance
from ablate.analyze.arms.fixed_target import TargetClaim, judge_targets
from ablate.analyze.arms.hypotheses import Claim, judge_all, without_equality
from ablate.analyze.arms.paired import effects
from ablate.analyze.arms.sensitivity import sensitivity
from ablate.analyze.basis.stats import sign_flip_p_above, t_p_above
from ablate.spec.models import Objective
from tests.analyze.test_inference import table
from tests.oracles import inference as oracle
from tests.oracles import variance as variance_oracle

LOSS = Objective(metric="val_loss", mode="min")
SAMPLES = st.lists(st.floats(-1, 1), min_size=2, max_size=10).filter(lambda values: np.std(values) > 1e-6)


# ---- the positive control


@settings(deadline=None)
@given(SAMPLES, st.sampled_from([0.0, -1.0, 1.0]), st.sampled_from(["min", "max"]))
def test_a_control_is_seen_as_its_oracle_says(differences: list[float], shift: float, mode: Literal["min", "max"]):
    moved = [value + shift for value in differences]
    trials = table({"baseline": [0.0] * len(moved), "control": list(moved)})
    objective = Objective(metric="val_loss", mode=mode)
    found = sensitivity(effects(trials, objective=objective, control="control"), objective=objective)
    assert found is not None
    assert found.seen == oracle.sees_control(moved, less_is_better=mode == "min")


def test_a_control_is_outside_of_holms_family_and_unadjusted():
    rng = np.random.default_rng(1)
    losses = {name: [float(x) for x in rng.normal(3, 0.1, 8)] for name in ("baseline", "a", "b", "control", "aa")}
    with_control = {e.arm: e for e in effects(table(losses), objective=LOSS, checks=["aa"], control="control")}
    without = effects(table({k: v for k, v in losses.items() if k not in ("control", "aa")}), objective=LOSS)
    for effect in without:
        assert with_control[effect.arm] == effect, "the others' numbers are those of a study without it"
    control = with_control["control"]
    assert (control.control, control.check, math.isnan(control.p_holm)) == (True, False, True)
    assert with_control["aa"].check


@pytest.mark.parametrize("losses", [{}, {"control": [3.0]}, {"control": [None] * 6}], ids=["none", "one", "failed"])
def test_a_control_that_was_not_measured_is_not_seen(losses: dict[str, list[float | None]]):
    trials = table({"baseline": [3.1] * 6, **losses})
    found = sensitivity(effects(trials, objective=LOSS, declared=["control"], control="control"), objective=LOSS)
    assert found is not None
    assert (found.seen, found.known) == (False, False)
    assert sensitivity(effects(trials, objective=LOSS), objective=LOSS) is None


def test_without_sensitivity_no_verdict_rests_on_a_missing_difference():
    noise = np.array([-1.0, 1, -1, 1, -1, 1, 1, -1]) * 1e-3
    gains = {"same": 0.0, "unclear": 0.05, "worse": -1.0, "better": 1.0}
    losses = {"baseline": [3.0] * 8}
    losses |= {arm: [3.0 - gain + float(x) for x in noise] for arm, gain in gains.items()}
    losses["wide"] = [3.04 + 0.1 * 1e3 * float(x) for x in noise]  # refuted, though no loss is shown
    claims = [Claim("c", arm, "val_loss", 0.05) for arm in (*gains, "wide")]
    judged = judge_all(table({arm: list(x) for arm, x in losses.items()}), claims=claims, maximised=())
    assert [entry.verdict for entry in judged] == ["equivalent", "inconclusive", "refuted", "supported", "inconclusive"]
    (alone,) = judge_all(table({arm: list(x) for arm, x in losses.items()}), claims=claims[-1:], maximised=())
    found = without_equality(judged)
    assert [entry.verdict for entry in found] == [
        "inconclusive", "inconclusive", "refuted", "supported", "inconclusive",
    ]  # fmt: skip
    assert [entry.withheld for entry in found] == ["equivalent", "", "", "", ""]
    assert alone.verdict in ("inconclusive", "refuted")


def test_a_refutation_that_shows_no_loss_is_withheld():
    trials = table({"baseline": [3.0] * 6, "arm": [3.05, 3.2, 2.98, 3.21, 2.99, 3.19]})
    (entry,) = judge_all(trials, claims=[Claim("c", "arm", "val_loss", 0.05)], maximised=())
    assert (entry.verdict, entry.gain.excludes_zero) == ("refuted", False)
    (held,) = without_equality([entry])
    assert (held.verdict, held.withheld) == ("inconclusive", "refuted")


# ---- fixed targets


@settings(deadline=None)
@given(SAMPLES)
def test_one_sided_tests_equal_their_oracles(values: list[float]):
    assert sign_flip_p_above(np.array(values)) == pytest.approx(oracle.sign_flip_p_above(values))
    known = cast(Any, scipy_stats.ttest_1samp(values, 0.0, alternative="greater")).pvalue
    assert t_p_above(np.array(values)) == pytest.approx(known)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 1.0], [0.0, 0.0], [-1.0, -1.0]])
def test_one_sided_tests_of_few_or_equal_values(values: list[float]):
    exact, by_t = sign_flip_p_above(np.array(values)), t_p_above(np.array(values))
    expected = {0: math.nan, 1: math.nan}.get(len(values), 0.0 if sum(values) > 0 else 1.0)
    assert by_t == pytest.approx(expected, nan_ok=True)
    assert exact == pytest.approx(oracle.sign_flip_p_above(values) if values else math.nan, nan_ok=True)


def test_more_than_forty_runs_draw_their_patterns():
    values = np.random.default_rng(0).normal(0.3, 1.0, 60)
    assert sign_flip_p_above(values) == pytest.approx(t_p_above(values), rel=0.2)


def test_a_target_is_reached_by_the_speedruns_rule():
    good = [3.275, 3.277, 3.279, 3.276, 3.278, 3.274, 3.2795, 3.276]
    trials = table({"arm": list(good), "baseline": [3.5] * 8, "few": [3.2] * 6})

    def verdict(target: float, arm: str = "arm", maximised: tuple[str, ...] = ()) -> str:
        claim = TargetClaim("c", arm, "val_loss", target, 0.01)
        (found,) = judge_targets(trials, claims=[claim], maximised=maximised)
        return found.verdict

    assert verdict(3.28) == "supported"
    assert verdict(3.277) == "inconclusive", "the mean is there, and the test does not reject"
    assert verdict(3.27) == "inconclusive"
    assert verdict(3.27, maximised=("val_loss",)) == "supported"
    assert verdict(3.28, "few") == "inconclusive", "six runs have no p below 2^-6"
    assert verdict(3.6, "baseline") == "supported"


def test_targets_are_a_family_of_their_own():
    trials = table({"arm": [1.0 + 0.01 * seed for seed in range(8)]})
    claims = [TargetClaim("c", "arm", "val_loss", 2.0, 0.01)] * 3
    one, *_ = judge_targets(trials, claims=claims, maximised=())
    assert (one.p_exact, one.p_holm) == (2**-8, 3 * 2**-8)
    assert one.verdict == "inconclusive"
    assert judge_targets(trials, claims=claims[:2], maximised=())[0].verdict == "supported"


# ---- components of variance


@settings(deadline=None)
@given(st.integers(2, 5), st.integers(3, 8), st.integers(0, 2**32 - 1))
def test_components_equal_their_definition(arms: int, seeds: int, seed: int):
    rng = np.random.default_rng(seed)
    values_SA = rng.normal(0, 0.05, (seeds, 1)) + rng.normal(3, 0.02, (seeds, arms))
    names = ["baseline", *(f"arm{index}" for index in range(1, arms))]
    as_lists = dict(zip(names, values_SA.T.tolist(), strict=True))
    history = pd.DataFrame(
        [
            {"trial_id": f"{arm}{number}", "tokens_seen": step, "val_loss": float(rng.normal(3, 0.1))}
            for arm in names
            for number in range(1, seeds + 1)
            for step in range(8)
        ]
    )
    found = variance.components(table(as_lists), history, objective=LOSS)
    assert found is not None
    assert (found.arms, found.seeds) == (arms, seeds)
    assert (found.seed, found.arm_by_seed) == pytest.approx(variance_oracle.two_way(as_lists))
    others = {arm: values for arm, values in as_lists.items() if arm != "baseline"}
    assert (found.correlation, found.ratio) == pytest.approx(variance_oracle.pairing(as_lists["baseline"], others))
    last = [group["val_loss"].tolist()[-variance.LAST :] for _, group in history.groupby("trial_id")]
    assert found.evaluation == pytest.approx(variance_oracle.evaluation_sd(last))


def test_components_find_what_was_put_in():
    rng = np.random.default_rng(0)
    seeds, arms = 4_000, 4
    seed, own = variance.two_way(rng.normal(0, 0.05, (seeds, 1)) + rng.normal(0, 0.02, (seeds, arms)) + np.arange(arms))
    assert (seed, own) == pytest.approx((0.05, 0.02), rel=0.05)
    trend = [np.linspace(3, 2, 9) + rng.normal(0, 0.01, 9) for _ in range(2_000)]
    assert variance.evaluation_sd(trend) == pytest.approx(0.01, rel=0.05), "a trend is no noise"
    shared = rng.normal(0, 1, 4_000)
    correlation, ratio = variance.pairing(shared, shared[:, None] + rng.normal(0, 1, (4_000, 1)))
    assert correlation == pytest.approx(math.sqrt(0.5), abs=0.03)
    assert ratio == pytest.approx(1 / 3, abs=0.03)


@pytest.mark.parametrize(
    "losses",
    [
        {},
        {"baseline": [3.0, 3.1, 3.2]},
        {"baseline": [3.0, 3.1], "arm": [3.0, 3.1]},
        {"arm": [3.0, 3.1, 3.2], "other": [3.0, 3.1, 3.2]},
        {"baseline": [3.0, 3.1, 3.2], "arm": [None, 3.1, 3.2]},
    ],
)
def test_too_little_has_no_components(losses: dict[str, list[float | None]]):
    trials = table(losses or {"search": [3.0]})
    assert variance.components(trials, pd.DataFrame({"trial_id": []}), objective=LOSS) is None


def test_equal_values_have_no_pairing():
    trials = table({"baseline": [3.0] * 4, "arm": [3.0] * 4, "dead": [None] * 4})
    found = variance.components(trials, pd.DataFrame({"trial_id": []}), objective=LOSS)
    assert found is not None
    assert (found.arms, found.seed, found.arm_by_seed) == (2, 0.0, 0.0), "an arm without a value is left out"
    assert math.isnan(found.ratio)
    assert math.isnan(found.correlation)
    assert math.isnan(found.evaluation)
