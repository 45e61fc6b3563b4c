"""Designs become arms and arms become trials: names, seeds, matched budgets, tuning points, and the test's power."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ablate.analyze.basis.stats import detectable_effect, flip_detectable_effect, holm, sign_flip_p
from ablate.scheduling.packing import Slots
from ablate.spec import declared_test, designs, matching, tuning
from ablate.spec.distributions import Range
from ablate.spec.models import Ablation, StudySpec, TuneEachArm
from ablate.study import dry_run, phases, power
from ablate.study.lifecycle import open_study
from ablate.trials import plan
from tests import study_files
from tests.study_files import resolve, row

MIXED = """\
study: mixed
base: {preset: tiny, data: {corpus: facts}}
ablation:
  seeds: 9
  arms:
    blind: {model.memory: blind}
    again: {reseed: true}
  leave_one_out:
    ema: {model.ema: off}
    norms: {model: {query_norm: none, read_norm: none}}
  add_one_in:
    freeze: {model.freeze_ratio: 0.5}
  factorial:
    model.knowledge_length: [4, 8]
    model.ema_decay: [0.9, 0.99]
"""


@pytest.fixture
def study(tmp_path: Path) -> StudySpec:
    return study_files.load(tmp_path, text=MIXED)


def arms_of(study: StudySpec) -> tuple[designs.Arm, ...]:
    assert study.ablation is not None
    return designs.expand(study.ablation, study.base)


def test_designs_expand_to_arms_in_the_order_of_the_file(study: StudySpec):
    arms = arms_of(study)
    assert [(arm.name, arm.design) for arm in arms] == [
        ("blind", "arm"),
        ("again", "reseed"),
        ("without_ema", "leave_one_out"),
        ("without_norms", "leave_one_out"),
        ("with_freeze", "add_one_in"),
        ("knowledge_length-4.ema_decay-0.9", "factorial"),
        ("knowledge_length-4.ema_decay-0.99", "factorial"),
        ("knowledge_length-8.ema_decay-0.99", "factorial"),
    ]
    assert arms[1].overrides == {"train.reseed": 1}
    assert arms[3].overrides == {"model.query_norm": "none", "model.read_norm": "none"}
    assert arms[6].levels == {"model.knowledge_length": 4, "model.ema_decay": 0.99}
    assert all(not arm.levels for arm in arms[:5])
    assert designs.family(arms, control=None) == 7, "Holm does not correct for the A/A arm"
    assert designs.family(arms, control=arms[0].name) == 6, "nor for the positive control"


def test_the_cell_that_equals_the_baseline_is_no_arm(study: StudySpec):
    base = study.base.override({"model.knowledge_length": 4, "model.ema_decay": 0.99})
    assert study.ablation is not None
    names = {arm.name for arm in designs.expand(study.ablation, base) if arm.design == "factorial"}
    assert "knowledge_length-4.ema_decay-0.99" not in names
    assert len(names) == 3


def test_every_cell_is_an_arm_where_none_equals_the_baseline(study: StudySpec):
    base = study.base.override({"model.ema_decay": 0.5})
    assert study.ablation is not None
    assert sum(arm.design == "factorial" for arm in designs.expand(study.ablation, base)) == 4


def test_arms_have_the_same_seeds_and_only_the_aa_arm_other_streams(study: StudySpec):
    trials = plan.arm_trials(study, study.base)
    seeds = {arm: [trial.seed for trial in trials if trial.arm == arm] for arm in plan.arms(study, study.base)}
    assert all(own == list(range(1, 10)) for own in seeds.values())
    assert {(t.arm, t.config["train.reseed"]) for t in trials if t.config["train.reseed"]} == {("again", 1)}
    assert len({trial.trial_id for trial in trials}) == len(trials) == 9 * 9 == plan.planned(study)


@pytest.mark.parametrize("arms", [1, 2, 3, 5, 6, 7, 12, 13, 40])
def test_seeds_needed_is_the_fewest_seeds_that_can_reject(arms: int):
    def smallest(n: int) -> float:
        return holm([sign_flip_p(np.full(n, 0.1)), *[1.0] * (arms - 1)])[0]

    n = declared_test.seeds_needed(arms)
    assert smallest(n) <= declared_test.ALPHA < smallest(n - 1)
    assert declared_test.smallest_p_holm(seeds=n, arms=arms) == pytest.approx(smallest(n))


def test_adding_seeds_arms_or_cells_keeps_the_existing_trial_ids(study: StudySpec, tmp_path: Path):
    before = {trial.trial_id for trial in plan.arm_trials(study, study.base)}
    for more in (
        "ablation.seeds=11",
        "ablation.arms.none.model.memory=none",
        "ablation.leave_one_out.balance={train.balance_loss_coef: 0}",
        "ablation.factorial={model.knowledge_length: [4, 8, 16], model.ema_decay: [0.9, 0.99]}",
    ):
        grown = study_files.load(tmp_path, more, text=MIXED)
        assert before < {trial.trial_id for trial in plan.arm_trials(grown, grown.base)}, more


# ---- matching


@pytest.mark.parametrize("memory", ["none", "blind"])
def test_matched_flops_are_equal_within_one_token(memory: str):
    base = resolve("tiny", {})
    arm = base.override({"model.memory": memory})
    tokens = matching.budget_for_flops(base, arm)
    control, own = base.cost, arm.cost
    assert control.budget is not None
    assert control.flops_per_token is not None
    assert own.flops_per_token is not None
    assert abs(tokens * own.flops_per_token - control.budget * control.flops_per_token) <= own.flops_per_token
    assert (tokens > control.budget) == (own.flops_per_token < control.flops_per_token)


def test_a_budget_matched_by_time_is_proportional_to_the_measured_speed():
    base = resolve("tiny", {"train.tokens": 100_000})
    assert matching.budget_for_speed(base, baseline_tokens_per_s=2_000.0, arm_tokens_per_s=3_000.0) == 150_000


def test_speed_is_the_median_without_the_first_report():
    assert matching.speed([10.0, 100.0, 98.0, 3.0, 102.0, 101.0]) == 100.0
    assert matching.speed([10.0]) == 10.0


def test_matching_flops_changes_the_budget_of_arms_but_not_of_the_baseline(tmp_path: Path):
    study = study_files.load(tmp_path, "ablation.match=flops", "ablation.arms.blind.model.memory=blind", text=MIXED)
    budgets = plan.budgets(study, study.base, tokens_per_s={})
    trials = {trial.arm: trial for trial in plan.arm_trials(study, study.base, budgets)}
    blind, control = trials["blind"], trials["baseline"]
    assert control.config == study.base.override({"train.seed": control.seed})
    assert (
        blind.config["train.tokens"]
        == matching.budget_for_flops(study.base, blind.config)
        != control.config["train.tokens"]
    )
    assert blind.params == {"model.memory": "blind"}, "the budget is not a parameter of the arm"


def test_an_arm_without_a_measured_speed_gets_no_budget(tmp_path: Path):
    study = study_files.load(tmp_path, "ablation.match=wall", text=MIXED)
    found = plan.budgets(study, study.base, tokens_per_s={"baseline": 1_000.0, "blind": 2_000.0})
    assert found == {"baseline": {}, "blind": {"train.tokens": 2 * (study.base["train.tokens"] or 0)}}
    assert plan.budgets(study, study.base, tokens_per_s={"blind": 2_000.0}) == {}


# ---- tuning


def test_the_tuned_range_is_the_searchs_or_eightfold_around_the_base_value():
    base, searched = resolve("tiny", {}), Range("loguniform", 1e-4, 1e-2)
    tune = TuneEachArm(trials=4, over=("train.lr", "train.weight_decay"))
    assert tuning.space(tune, base, {"train.lr": searched}) == {
        "train.lr": searched,
        "train.weight_decay": Range("loguniform", 0.01 / 8, 0.08),
    }


def test_all_arms_are_tuned_at_the_same_points_on_the_searchs_seed(tmp_path: Path):
    study = study_files.load(tmp_path, "ablation.tune_each_arm={trials: 4, over: [train.lr]}", text=MIXED)
    points = phases.tuning_points(study)
    assert points == phases.tuning_points(study)
    budgets = plan.budgets(study, study.base, tokens_per_s={})
    trials = plan.tuning_trials(study, study.base, points, budgets)
    rates = {
        arm: [trial.config["train.lr"] for trial in trials if trial.arm == plan.TUNE + arm]
        for arm in plan.arms(study, study.base)
    }
    assert all(own == rates["baseline"] for own in rates.values())
    assert len(set(rates["baseline"])) == 4
    assert all(3e-3 / 8 <= rate <= 3e-3 * 8 for rate in rates["baseline"])
    assert {trial.seed for trial in trials} == {study.base["train.seed"]}
    assert study.base["train.seed"] not in plan.seeds(study)
    assert plan.planned(study) == 9 * (9 + 4)


# ---- the dry run


def test_a_dry_run_reports_smallest_p_and_detectable_effect(tmp_path: Path):
    study = study_files.load(tmp_path, "ablation.match=flops", text=MIXED)
    run = dry_run.describe(study, Slots(1, 0, 1, 2), card=None)
    assert run.ablation is not None
    said = run.ablation
    assert (said.smallest_p, said.smallest_p_holm) == (2.0**-8, pytest.approx(7 * 2.0**-8))
    assert said.mde_sd == pytest.approx(detectable_effect(1.0, n=9, alpha=0.05 / 7))
    assert said.mde_sd_exact == flip_detectable_effect(1.0, n=9, alpha=0.05 / 7)
    blind = next(arm for arm in said.arms if arm.name == "blind")
    assert blind.tokens == matching.budget_for_flops(study.base, study.base.override({"model.memory": "blind"}))
    assert blind.mde is None
    text = dry_run.render(run)
    assert "compared at equal flops" in text
    assert f"(t test, power 0.8 at 0.05 / 7), {said.mde_sd_exact:.3g} by the declared test" in text
    answer = json.loads(dry_run.render_json(run))["ablation"]
    assert answer["seeds"] == list(range(1, 10))
    assert {arm["design"] for arm in answer["arms"]} == {"arm", "reseed", "leave_one_out", "add_one_in", "factorial"}


def test_power_uses_the_differences_of_earlier_results(tmp_path: Path):
    study = study_files.load(tmp_path, text=MIXED)
    ledger, _ = open_study(study, tmp_path / "results", resume=False)
    differences = [0.1, 0.3, 0.2]
    for trial in plan.arm_trials(study, study.base):
        if trial.arm in ("baseline", "blind") and trial.seed <= 3:
            loss = 2.0 + trial.seed + (differences[trial.seed - 1] if trial.arm == "blind" else 0.0)
            ledger.finish(row(trial, attempt=ledger.claim(trial.trial_id), metrics={"val_loss": loss}))
    said = power.describe(study, earlier=ledger.root)
    assert said is not None
    found = {arm.name: (arm.mde, arm.pairs) for arm in said.arms}
    assert found["blind"] == (pytest.approx(detectable_effect(0.1, n=9, alpha=0.05 / 7)), 3)
    assert found["without_ema"] == (None, 0)
    assert "(from 3 pairs)" in "\n".join(power.lines(said))


def test_a_dry_run_plans_calibration_and_tuning_trials(tmp_path: Path):
    sets = ("ablation.match=wall", "ablation.tune_each_arm={trials: 2}")
    study = study_files.load(tmp_path, *sets, text=MIXED)
    run = dry_run.describe(study, Slots(1, 0, 1, 2), card=None)
    assert Counter(planned.kind for planned in run.trials) == {"calibration": 9, "tuning": 18, "arm": 81}
    assert run.total == 108 == plan.planned(study)
    assert "tuned first, 2 trials for each arm and the baseline: train.lr loguniform" in dry_run.render(run)


def test_a_dry_run_says_that_an_exploratory_design_cannot_reject(tmp_path: Path):
    study = study_files.load(tmp_path, "ablation.exploratory=true", "ablation.seeds=4", text=MIXED)
    assert "it cannot reject; exploratory" in dry_run.render(dry_run.describe(study, Slots(1, 0, 1, 2), card=None))


def test_the_smallest_p_of_many_seeds_is_that_of_drawn_patterns(tmp_path: Path):
    study = study_files.load(tmp_path, "ablation.seeds=45", text=MIXED)
    said = power.describe(study, earlier=None)
    assert said is not None
    assert (said.smallest_p, said.mde_sd_exact) == (sign_flip_p(np.full(45, 0.1)), None)
    assert said.smallest_p_holm == pytest.approx(7 * said.smallest_p)
    assert "(sign-flip, 99,999 patterns drawn): 1e-05" in "\n".join(power.lines(said))


def test_an_ablation_has_defaults():
    ablation = Ablation(seeds=6, arms={"blind": {"model.memory": "blind"}})
    assert (ablation.match, ablation.exploratory, ablation.baseline) == ("tokens", False, "base")
