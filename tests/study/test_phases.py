"""The phases of a study, on a trainer whose losses are a formula: tuning, matching, the winner, resuming."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ablate.errors import BadInput
from ablate.records.ledger import Ledger
from ablate.report.writer import write as write_report
from ablate.running.inline import InlineRunner
from ablate.running.runner import Halt
from ablate.running.trial import StudyContext
from ablate.spec.models import StudySpec
from ablate.study import dataset, lifecycle, phases
from ablate.study.lifecycle import open_study
from ablate.trainers import Config, Report, Result, Verdict
from ablate.trials import plan
from tests import study_files

ARMS = """\
study: fair
base: {preset: tiny, data: {corpus: facts}}
ablation:
  seeds: 6
  arms:
    none: {model.memory: none}
tracking: {swanlab: disabled}
"""

SEARCH = """\
search: {train.lr: {loguniform: [1.0e-4, 1.0e-1]}}
optimizer: {sampler: sobol, trials: 4, seed: 0}
"""

BEST_LR = {"token": 3e-3, "none": 8e-3, "blind": 3e-3}
SPEED = {"token": 1_000.0, "none": 1_500.0, "blind": 2_000.0}


@dataclass
class Formula:
    """A trainer whose loss is the distance of the learning rate to the best one of the arm. Keeps all configurations.

    `broken`: memories whose trials fail. `stop`: called after every trial.
    """

    broken: tuple[str, ...] = ()
    configs: list[Config] = field(default_factory=list)
    stop: Callable[[], None] = lambda: None

    def __call__(self, config: Config, report: Callable[[Report], Verdict], *, checkpoint_dir: Path) -> Result:
        del checkpoint_dir
        if config["model.memory"] in self.broken:
            raise ValueError("broken")
        self.configs.append(config)
        memory, tokens = config["model.memory"], config["train.tokens"] or 0
        distance = abs(math.log(config["train.lr"] / BEST_LR[memory]))
        metrics: dict[str, Any] = {
            "val_loss": 2.0 + distance + 0.1 * config["train.seed"],
            "tokens_per_s": SPEED[memory],
        }
        for part, speed in enumerate((0.1, 1.0, 0.01, 1.0), start=1):  # a slow start and a slow report
            measured = {**metrics, "tokens_per_s": metrics["tokens_per_s"] * speed}
            report(Report(part, tokens * part // 4, tokens, 0.1 * part, config["train.lr"], [2.0], measured))
        self.stop()
        return Result(Verdict.CONTINUE, 1, tokens, tokens, "0" * 64, "cpu", metrics, [])


@dataclass
class Run:
    """One command's run of a study: its ledger, its messages, and whether it finished."""

    ledger: Ledger
    said: list[str]
    finished: bool


def go(study: StudySpec, results: Path, train: Formula, *, halt: Halt | None = None) -> Run:
    halt = halt or Halt()
    ledger, state = open_study(study, results, resume=True)
    said: list[str] = []
    if state != "finished":
        context = StudyContext(ledger, swanlab="disabled", objective="val_loss", git_commit=None)
        runner = InlineRunner(context, halt=halt, on_event=lambda _: None, train=train)
        if not phases.run(study, ledger, runner=runner, halt=halt, say=said.append):
            return Run(ledger, said, finished=False)
        lifecycle.mark_finished(ledger)
    return Run(ledger, said, finished=True)


def test_every_arm_runs_with_its_best_tuned_values(tmp_path: Path, results: Path):
    study = study_files.load(tmp_path, "ablation.tune_each_arm={trials: 8}", text=ARMS)
    train = Formula()
    done = go(study, results, train)
    arms = Counter(row.arm for row in done.ledger.rows())
    assert arms == {"tune.baseline": 8, "tune.none": 8, "baseline": 6, "none": 6}
    points = [point["train.lr"] for point in phases.tuning_points(study)]
    nearest = {memory: min(points, key=lambda lr: abs(math.log(lr / BEST_LR[memory]))) for memory in ("token", "none")}
    assert nearest["token"] != nearest["none"]
    for row in done.ledger.rows():
        if row.arm in ("baseline", "none"):
            memory = "none" if row.arm == "none" else "token"
            assert row.params["train.lr"] == nearest[memory]
            assert row.seed in plan.seeds(study)
    data = dataset.read(done.ledger.root)
    assert data.tuned_values == {
        "baseline": {"train.lr": nearest["token"]},
        "none": {"train.lr": nearest["none"]},
    }


def test_tuning_and_calibration_are_no_results(tmp_path: Path, results: Path):
    study = study_files.load(tmp_path, "ablation.tune_each_arm={trials: 2}", "ablation.match=wall", text=ARMS)
    done = go(study, results, Formula())
    data = dataset.read(done.ledger.root)
    assert set(data.trials["arm"]) == {"baseline", "none"}
    assert set(data.preparation["arm"]) == {"tune.baseline", "tune.none", "calibrate.baseline", "calibrate.none"}
    assert len(data.every_trial) == data.trials_arrow.num_rows == data.planned == plan.planned(study) == 2 * (6 + 2 + 1)
    assert set(data.settled_keys) == {"train.lr", "train.tokens"}
    write_report(done.ledger.root)  # budgets differ on purpose, so the report is not refused
    table = (done.ledger.root / "report" / "ablation.csv").read_text()
    assert "tune." not in table
    assert "calibrate." not in table


def test_match_wall_sets_budgets_by_measured_speeds(tmp_path: Path, results: Path):
    study = study_files.load(tmp_path, "ablation.match=wall", text=ARMS)
    train = Formula()
    done = go(study, results, train)
    budget = study.base["train.tokens"]
    assert budget is not None
    calibrated = [config for config in train.configs if config["train.seed"] == study.base["train.seed"]]
    assert len(calibrated) == 2
    assert all(config["train.tokens"] is not None and config["train.tokens"] < budget for config in calibrated)
    tokens = {row.arm: row.budget_tokens for row in done.ledger.rows() if row.arm in ("baseline", "none")}
    assert tokens == {"baseline": budget, "none": round(budget * 1.5)}
    assert tokens["none"] / SPEED["none"] == pytest.approx(budget / SPEED["token"])


@pytest.mark.parametrize("trials", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 5)), 9])
def test_an_interrupted_ablation_resumes_without_repeating_a_trial(trials: int, tmp_path: Path, results: Path):
    sets = ("ablation.tune_each_arm={trials: 2}", "ablation.match=wall")
    study = study_files.load(tmp_path, *sets, text=ARMS)
    whole = Formula()
    go(study, tmp_path / "whole", whole)
    halt = Halt()
    first = Formula()
    first.stop = lambda: setattr(halt, "_signalled", len(first.configs) >= trials)
    assert not go(study, results, first, halt=halt).finished
    second = Formula()
    assert go(study, results, second).finished
    assert first.configs + second.configs == whole.configs


def test_an_arm_without_a_completed_tuning_trial_is_not_trained(tmp_path: Path, results: Path):
    study = study_files.load(tmp_path, "ablation.tune_each_arm={trials: 2}", text=ARMS)
    done = go(study, results, Formula(broken=("none",)))
    assert done.said == ["none is not trained: none of its tuning trials completed"]
    assert Counter(row.arm for row in done.ledger.rows()) == {"tune.baseline": 2, "tune.none": 2, "baseline": 6}


def test_the_winner_gets_fresh_seeds_and_stays_when_the_search_is_extended(tmp_path: Path, results: Path):
    text, best = ARMS + SEARCH, "ablation.baseline=best"
    study = study_files.load(tmp_path, best, text=text)
    first = go(study, results, Formula())
    rows = first.ledger.rows()
    winner = min((row for row in rows if row.arm == "search"), key=lambda row: row.metrics["val_loss"])
    assert lifecycle.winner(first.ledger) == winner.trial_id
    judged = [row for row in rows if row.arm == "baseline"]
    assert {row.seed for row in judged}.isdisjoint({row.seed for row in rows if row.arm == "search"})
    assert len(judged) == 6
    rate = winner.params["train.lr"]

    longer = study_files.load(tmp_path, best, "optimizer.trials=32", "ablation.seeds=7", text=text)
    train = Formula()
    again = go(longer, results, train)
    searched = [row for row in again.ledger.rows() if row.arm == "search"]
    better = min(searched, key=lambda row: row.metrics["val_loss"])
    assert better.trial_id != winner.trial_id, "the longer search finds a better trial, or this test shows nothing"
    assert again.said == [
        f"the ablation keeps trial {winner.trial_id} as its baseline, though {better.trial_id} is better now"
    ]
    assert lifecycle.winner(again.ledger) == winner.trial_id
    arms = [config for config in train.configs if config["train.seed"] != study.base["train.seed"]]
    assert [config["train.seed"] for config in arms] == [7, 7], "only the new seed is trained"
    assert {config["train.lr"] for config in arms} == {rate}


def test_an_extended_ablation_trains_only_new_trials(tmp_path: Path, results: Path):
    tune = "ablation.tune_each_arm={trials: 2}"
    go(study_files.load(tmp_path, tune, text=ARMS), results, Formula())
    sets = [tune, "ablation.seeds=8"]
    first = Formula()
    go(study_files.load(tmp_path, *sets, text=ARMS), results, first)
    assert Counter(config["train.seed"] for config in first.configs) == {7: 2, 8: 2}
    steps: dict[str, dict[str, int]] = {  # 8 seeds and 2 trials of tuning for an arm that is new
        "ablation.arms.blind.model.memory=blind": {"blind": 10},
        "ablation.leave_one_out.ema.model.ema=off": {"token": 10},
        "ablation.factorial={model.ema_decay: [0.9, 0.99]}": {"token": 10},
        "ablation.seeds=9": {"token": 3, "none": 1, "blind": 1},
    }
    for step, expected in steps.items():
        sets.append(step)
        train = Formula()
        assert go(study_files.load(tmp_path, *sets, text=ARMS), results, train).finished
        assert Counter(config["model.memory"] for config in train.configs) == expected, step
    again = Formula()
    go(study_files.load(tmp_path, *sets, text=ARMS), results, again)
    assert again.configs == []


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("ablation.match=flops", "ablation.match"),
        ("ablation.tune_each_arm={trials: 3}", "ablation.tune_each_arm"),
        ("ablation.tune_each_arm={trials: 2, over: [train.weight_decay]}", "ablation.tune_each_arm"),
        ("search.train.lr={loguniform: [1e-4, 1e-2]}", "ablation.tune_each_arm"),
        ("ablation.exploratory=false", "ablation.exploratory"),
        ("ablation.leave_one_out.ema.model.ema_decay=0.5", "ablation.leave_one_out.ema"),
        ("hypotheses=null", "hypotheses"),
    ],
)
def test_an_ablation_cannot_change_its_design(change: str, key: str, tmp_path: Path, results: Path):
    claim = "hypotheses=[{claim: it helps, arm: none, metric: val_loss, min_effect: 0.01}]"
    sets = (
        "ablation.tune_each_arm={trials: 2}",
        "ablation.exploratory=true",
        "ablation.seeds=7",
        "ablation.leave_one_out.ema.model.ema=off",
        claim,
    )
    open_study(study_files.load(tmp_path, *sets, text=ARMS), results, resume=False)
    with pytest.raises(BadInput) as caught:
        open_study(study_files.load(tmp_path, *sets, change, text=ARMS), results, resume=True)
    assert f": {key}: changed: study fair exists with another " in str(caught.value)


def test_a_finished_study_takes_targets_and_hypotheses_without_training(tmp_path: Path, results: Path):
    go(study_files.load(tmp_path, text=ARMS), results, Formula())
    claim = "hypotheses=[{claim: it helps, arm: none, metric: val_loss, min_effect: 1}]"
    more = study_files.load(tmp_path, claim, "targets={val_loss: 2}", text=ARMS)
    train = Formula()
    done = go(more, results, train)
    assert train.configs == []
    written = done.ledger.read_study()
    assert written["spec"]["targets"] == {"val_loss": 2.0}
    (late,) = written["spec"]["hypotheses"]
    assert written["finished_at"] < late.pop("declared_at"), "after its results"
    assert late == {"claim": "it helps", "arm": "none", "metric": "val_loss", "min_effect": 1.0}
