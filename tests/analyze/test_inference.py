"""Contrasts, hypotheses, robust means and interim looks, against oracles or by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ablate.analyze.arms.contrasts import factorial
from ablate.analyze.arms.hypotheses import Claim, equivalence_p, judge, judge_all
from ablate.analyze.arms.paired import effects
from ablate.analyze.arms.robust import iqm, robust, share
from ablate.analyze.basis.frames import rows
from ablate.analyze.basis.stats import Interval, t_interval
from ablate.records.interim_looks import Look, hindsight, peeked
from ablate.spec.models import Objective
from benchmarks import inference
from tests.oracles import inference as oracle

LOSS = Objective(metric="val_loss", mode="min")


def table(losses: Mapping[str, Sequence[float | None]]) -> pd.DataFrame:
    """Arm -> losses by seed 1, 2, ...; None is a failed run."""
    lines = [
        {"trial_id": f"{arm}{seed}", "arm": arm, "seed": seed, "val_loss": loss,
         "status": "nan" if loss is None else "completed"}
        for arm, values in losses.items()
        for seed, loss in enumerate(values, start=1)
    ]  # fmt: skip
    return pd.DataFrame(lines).astype({"val_loss": float})


# ---- factorial designs

FACTORS = {"length": ("8", "4", "16"), "state": ("on", "off"), "norm": ("rms", "none")}
POINTS = list(itertools.product(*FACTORS.values()))
CELLS = {
    "baseline" if index == 0 else f"cell{index}": dict(zip(FACTORS, point, strict=True))
    for index, point in enumerate(POINTS)
}


@pytest.fixture
def cell_losses() -> dict[str, list[float | None]]:
    rng = np.random.default_rng(5)
    return {arm: [float(x) for x in rng.normal(3, 0.1, 6)] for arm in CELLS}


def test_contrasts_equal_their_definition(cell_losses: dict[str, list[float | None]]):
    found = factorial(table(cell_losses), objective=LOSS, cells=CELLS)
    assert found is not None
    assert len(found.contrasts) == 4 + (2 * 1 + 2 * 1 + 1 * 1), "mains, then the products of their numbers"
    names = list(FACTORS)
    seeds = [
        {tuple(levels.values()): float(cell_losses[arm][seed] or 0) for arm, levels in CELLS.items()}
        for seed in range(6)
    ]
    ps = []
    for contrast in found.contrasts:
        asked = [(names.index(key), level, FACTORS[key][0]) for key, level in contrast.levels.items()]
        if contrast.interaction:
            values = [oracle.interaction(runs, asked[0], asked[1]) for runs in seeds]
        else:
            values = [oracle.main_effect(runs, *asked[0]) for runs in seeds]
        test = cast(Any, stats.ttest_1samp(values, 0.0))
        assert contrast.value.mean == pytest.approx(np.mean(values))
        assert contrast.p == pytest.approx(test.pvalue)
        assert contrast.value.low == pytest.approx(test.confidence_interval(0.95).low)
        assert contrast.p_exact == pytest.approx(oracle.sign_flip_p(values))
        ps.append(contrast.p_exact)
    assert [contrast.p_holm for contrast in found.contrasts] == pytest.approx(oracle.holm(ps))


def test_contrasts_drop_seeds_without_every_cell(cell_losses: dict[str, list[float | None]]):
    cell_losses["cell3"][2] = None
    found = factorial(table(cell_losses), objective=LOSS, cells=CELLS)
    assert found is not None
    assert (found.n, found.dropped, found.pending) == (5, 1, 0)
    assert {contrast.value.n for contrast in found.contrasts} == {5}
    running = table(cell_losses)
    running = rows(running, ~((running["arm"] == "cell1") & (running["seed"] == 6)))
    found = factorial(running, objective=LOSS, cells=CELLS)
    assert found is not None
    assert (found.n, found.dropped, found.pending) == (4, 1, 1)


def test_contrasts_need_an_arm_for_every_cell(cell_losses: dict[str, list[float | None]]):
    cells = {arm: levels for arm, levels in CELLS.items() if arm != "cell3"}
    found = factorial(table(cell_losses), objective=LOSS, cells=cells)
    assert found is not None
    assert found.contrasts == ()
    assert found.missing == (CELLS["cell3"],)


# ---- hypotheses


@settings(deadline=None)
@given(
    st.lists(st.floats(-1, 1), min_size=2, max_size=8).filter(lambda values: np.std(values) > 1e-6),
    st.floats(0.01, 0.5),
    st.floats(0, 1),
)
def test_verdicts_equal_their_oracle(gains: list[float], min_effect: float, p_holm: float):
    p = equivalence_p(np.array(gains), margin=min_effect)
    found = judge(t_interval(gains), p_holm=p_holm, p_equivalence=p, min_effect=min_effect)
    p_equal = oracle.equivalence_p(gains, margin=min_effect)
    assert p == pytest.approx(p_equal)
    assert found == oracle.verdict(gains, p_holm=p_holm, p_equivalence=p_equal, min_effect=min_effect)


@pytest.mark.parametrize(
    ("low", "high", "p_holm", "p_equivalence", "expected"),
    [
        (0.06, 0.10, 0.01, 0.9, "supported"),
        (0.06, 0.10, 0.20, 0.9, "inconclusive"),  # the declared test does not reject
        (0.01, 0.10, 0.01, 0.4, "inconclusive"),  # a gain, but perhaps not one that matters
        (-0.02, 0.03, 0.80, 0.01, "equivalent"),
        (0.01, 0.04, 0.01, 0.01, "equivalent"),  # shown, and shown to be too small
        (-0.20, -0.10, 0.01, 0.9, "refuted"),
        (-0.20, 0.04, 0.30, 0.3, "refuted"),
        (math.nan, math.nan, math.nan, math.nan, "inconclusive"),
    ],
)
def test_rules_of_verdicts(low: float, high: float, p_holm: float, p_equivalence: float, expected: str):
    gain = Interval(n=1 if math.isnan(low) else 9, mean=(low + high) / 2, sd=0.01, low=low, high=high)
    assert judge(gain, p_holm=p_holm, p_equivalence=p_equivalence, min_effect=0.05) == expected


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4), st.integers(3, 9), st.integers(0, 2**32 - 1))
def test_verdicts_of_all_hypotheses_together_equal_their_oracle(claims: int, seeds: int, seed: int):
    rng = np.random.default_rng(seed)
    samples = rng.normal(rng.choice([0.0, 0.1, 0.3], claims)[:, None], 0.05, (claims, seeds))
    names, margins = [f"a{index}" for index in range(claims)], [0.1] * claims
    losses = {"baseline": [0.0] * seeds, **dict(zip(names, (-samples).tolist(), strict=True))}
    asked = [Claim("c", name, "val_loss", margin) for name, margin in zip(names, margins, strict=True)]
    found = judge_all(table(losses), claims=asked, maximised=())
    assert [entry.verdict for entry in found] == oracle.verdicts(samples.tolist(), margins)


def test_claims_follow_the_metrics_direction_and_holm_over_claims():
    rng = np.random.default_rng(0)
    losses = {"baseline": [float(x) for x in rng.normal(3, 0.01, 9)]}
    losses["less"] = [x - 0.2 + float(rng.normal(0, 0.01)) for x in losses["baseline"]]
    claims = [Claim("less is better", "less", "val_loss", 0.1), Claim("twice", "less", "val_loss", 0.15)]
    trials = table({arm: list(values) for arm, values in losses.items()})
    down = judge_all(trials, claims=claims, maximised=())
    assert [entry.verdict for entry in down] == ["supported", "supported"]
    assert down[0].gain.mean == pytest.approx(np.mean(losses["baseline"]) - np.mean(losses["less"]))
    assert down[0].p_holm == pytest.approx(2 * down[0].p_exact) == pytest.approx(2 * 2 / 2**9)
    assert judge_all(trials, claims=claims, maximised={"val_loss"})[0].verdict == "refuted"


# ---- A/A arms, robust means


def test_aa_arm_is_measured_outside_of_holms_family():
    rng = np.random.default_rng(2)
    losses = {arm: [float(x) for x in rng.normal(3, 0.1, 8)] for arm in ("baseline", "one", "two", "again")}
    with_check = effects(table(dict(losses)), objective=LOSS, checks=["again"])
    without = effects(table({arm: values for arm, values in losses.items() if arm != "again"}), objective=LOSS)
    assert with_check[:2] == without
    check = with_check[2]
    assert check.check
    assert check.p_exact == pytest.approx(oracle.sign_flip_p(np.subtract(losses["again"], losses["baseline"]).tolist()))
    assert math.isnan(check.p_holm)


@pytest.mark.parametrize("n", [2, 5, 8, 10])
def test_interquartile_mean_equals_scipy(n: int):
    values = np.random.default_rng(n).normal(size=n)
    found = iqm(values)
    assert found.value == pytest.approx(stats.trim_mean(values, 0.25))
    assert found.low <= found.value <= found.high
    if n > 4:
        expected = stats.bootstrap(
            (values,), lambda x, axis: stats.trim_mean(x, 0.25, axis=axis), method="percentile", n_resamples=20_000,
            rng=np.random.default_rng(1),
        ).confidence_interval  # fmt: skip
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.08)


def test_share_of_better_seeds_has_scipys_exact_interval():
    found = share(7, n=10)
    expected = stats.binomtest(7, 10).proportion_ci(0.95, method="exact")
    assert (found.value, found.low, found.high) == (0.7, pytest.approx(expected.low), pytest.approx(expected.high))
    losses: dict[str, list[float | None]] = {"baseline": [3.0, 3.0, 3.0, 3.0], "arm": [2.0, 2.0, 3.0, None]}
    (entry,) = robust(table(losses), objective=LOSS)
    assert (entry.n, entry.better.value) == (3, pytest.approx(2.5 / 3)), "a tie counts half, a failed run not at all"


# ---- interim looks


def test_look_at_an_unchanged_plan_makes_nothing_exploratory():
    half = Look(at="2026-03-01T00:00:00+00:00", planned_seeds=6, shown={"token": (1, 2, 3)})
    assert peeked([half], arms=["token"], planned_seeds=6) == {}


def test_seeds_changed_after_a_look_make_seen_arms_exploratory():
    looks = [
        Look(at="2026-03-02T10:30:00+00:00", planned_seeds=6, shown={"token": (1, 2, 3, 4, 5, 6)}),
        Look(at="2026-03-01T00:00:00+00:00", planned_seeds=6, shown={}),
    ]
    more = peeked(looks, arms=["token", "blind"], planned_seeds=10)
    assert list(more) == ["token"]
    assert more["token"] == (
        "seeds were added (6 to 10) after its results on 6 seeds had been seen (2026-03-02 10:30 UTC)"
    )
    assert "removed (6 to 4)" in peeked(looks, arms=["token"], planned_seeds=4)["token"]


def test_claim_is_exploratory_after_a_look_or_a_run():
    look = Look(at="2026-03-02T10:30:00.000000+00:00", planned_seeds=6, shown={"token": (1, 2, 3), "blind": ()})
    later, before = "2026-03-03T08:00:00.000000+00:00", "2026-03-01T08:00:00.000000+00:00"
    seen = hindsight([look], arm="token", declared_at=later, ended=[before])
    assert seen == "declared (2026-03-03 08:00 UTC) after its results on 3 seeds had been seen"
    ran = hindsight([look], arm="blind", declared_at=later, ended=[before, "2026-03-04T08:00:00.000000+00:00"])
    assert ran == "declared (2026-03-03 08:00 UTC) after 1 of the arm's runs had ended"
    assert hindsight([look], arm="token", declared_at=before, ended=[later]) == ""
    assert hindsight([look], arm="blind", declared_at=later, ended=[]) == ""


# ---- a smaller run of the benchmark


@pytest.mark.parametrize("name", ["equal arms, failed runs, n = 8", "effect of one mde, n = 8"])
def test_simulated_coverage_error_and_power_are_nominal(name: str):
    line = inference.simulate(inference.settings()[name], studies=150)
    assert 0.92 < line.coverage < 0.975  # 900 intervals
    if name.startswith("equal"):
        assert line.fwer < 0.12
        assert line.pairs < 7.5, "one run in ten failed, and its pair was dropped"
    else:
        assert 0.72 < line.found_t < 0.88


def test_real_residuals_are_centred(tmp_path: Path):
    path = tmp_path / "runs.csv"
    rng = np.random.default_rng(0)
    lines = [(f"arm{arm}", seed, 3 + arm + rng.normal()) for arm in range(7) for seed in range(5)]
    pd.DataFrame(lines, columns=pd.Index(["arm", "seed", "val_loss"])).to_csv(path, index=False)
    found = inference.real_residuals(path)
    assert found is not None
    assert found.shape == (7, 5)
    assert found.mean(axis=1) == pytest.approx(np.zeros(7))
    assert inference.real_residuals(path.with_name("none")) is None
    line = inference.simulate(inference.Setting(5, residuals=found), studies=20)
    assert 0.5 < line.coverage <= 1.0
