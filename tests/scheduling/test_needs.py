"""GPUs by name, shares of them, plans on them, and budgets of GPU-hours."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from ablate import cli, sweep
from ablate.errors import BadInput
from ablate.records.ledger import Ledger
from ablate.records.rows import Status
from ablate.scheduling import needs
from ablate.scheduling.admission import MARGIN
from ablate.scheduling.needs import Card, Shares, Spent
from ablate.scheduling.packing import Slots
from ablate.search.source import Search
from ablate.spec.models import Resources, StudySpec
from ablate.study import dry_run, lifecycle, preflight
from ablate.trials.trial import Trial
from tests import study_files
from tests.study_files import TRAINER


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        ("NVIDIA GeForce RTX 4090", 24), ("RTX 4090", 24), ("4090", 24), ("rtx4090", 24), ("RTX 3090", 24),
        ("RTX 4080", 16), ("NVIDIA A100-SXM4-40GB", 40), ("NVIDIA A100 80GB PCIe", 80), ("A100", 40), ("H100", 80),
        ("NVIDIA H100 PCIe", 80), ("L4", 24), ("NVIDIA L40S", 48),
    ],
)  # fmt: skip
def test_a_gpu_is_known_by_its_name(name: str, gib: float) -> None:
    found = needs.card_named(name)
    assert found is not None
    assert found.gib == gib


@pytest.mark.parametrize("name", ["", "RTX", "NVIDIA GeForce", "Voodoo 2", "L", "40"])
def test_an_unknown_gpu_name_gives_none(name: str) -> None:
    assert needs.card_named(name) is None


def test_an_unknown_gpu_needs_its_memory_from_the_study() -> None:
    with pytest.raises(BadInput, match=r"Voodoo 2.*resources\.gpu_memory_gib"):
        needs.card_for(Resources(), "Voodoo 2")
    assert needs.card_for(Resources(gpu_memory_gib=12.0), "Voodoo 2").gib == 12
    assert needs.card_for(Resources(gpu_memory_gib=12.0), "RTX 4090").gib == 12


def test_a_share_holds_the_predicted_peak_with_its_margin(tmp_path: Path) -> None:
    config = study_files.load(tmp_path).base
    peak = config.trainer.peak_gib(config, ranks=1)
    shares = Shares(Resources(), Card(4.0, 1e14), trainer=TRAINER)
    assert peak * MARGIN / 4 <= shares.gpu(config) <= peak * MARGIN / 4 + 1e-3
    assert shares.fits(config)
    tight = Shares(Resources(), Card(peak, 1e14), trainer=TRAINER)
    assert tight.gpu(config) == 1.0
    assert not tight.fits(config)
    assert not Shares(Resources(gpu=0.1), Card(4.0, 1e14), trainer=TRAINER).fits(config)


def test_trials_at_once_are_bounded_by_memory_time_and_cores(tmp_path: Path) -> None:
    config = study_files.load(tmp_path).base
    shares = Shares(
        Resources(), Card(4 * config.trainer.peak_gib(config, ranks=1) * MARGIN * 1.01, 1e14), trainer=TRAINER
    )
    trials = [config] * 20
    assert shares.concurrent(trials, cpus=math.inf, gpus=2, turns=False) == 8
    assert shares.concurrent(trials, cpus=math.inf, gpus=2, turns=True) == 4
    assert shares.concurrent(trials, cpus=3, gpus=2, turns=False) == 3
    assert shares.concurrent(trials[:1], cpus=math.inf, gpus=2, turns=False) == 1


def test_the_json_plan_for_a_gpu_has_every_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = study_files.write(tmp_path)
    argv = [str(path), "--results", str(tmp_path), "--dry-run", "--json", "--gpu", "RTX 4090", "--gpus", "8"]
    assert cli.guarded(lambda: sweep.main(argv)) == cli.DONE
    answer = json.loads(capsys.readouterr().out)
    assert {trial["kind"] for trial in answer["trials"]} == {"sampled", "corner"}
    for trial in answer["trials"]:
        assert {"id", "kind", "params", "predicted_peak_gib", "gpu_fraction"} <= trial.keys()
        assert trial["gpu_fraction"] == pytest.approx(trial["predicted_peak_gib"] * MARGIN / 24, abs=1e-3)
    assert answer["concurrent"] == 6
    assert answer["gpu_hours"] > 0


def test_an_unknown_gpu_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = study_files.write(tmp_path)
    assert cli.guarded(lambda: sweep.main([str(path), "--dry-run", "--gpu", "Voodoo 2"])) == cli.BAD_INPUT
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "resources.gpu_memory_gib" in said.err


def test_a_dry_run_refuses_half_a_gpu_for_each_of_two_workers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = study_files.write(tmp_path)
    argv = [str(path), "--set", "resources.gpu=0.5", "--set", "resources.workers=2", "--dry-run", "--gpu", "RTX 4090"]
    assert cli.guarded(lambda: sweep.main(argv)) == cli.BAD_INPUT
    assert "NCCL" in capsys.readouterr().err


def test_a_plan_over_its_budget_is_refused(tmp_path: Path) -> None:
    study = study_files.load(tmp_path, "resources.max_gpu_hours=1e-9")
    with pytest.raises(BadInput, match=r"resources\.max_gpu_hours: 1e-09: the plan takes .* GPU-hours"):
        dry_run.describe(study, Slots(1, 1, 1, 1), card="RTX 4090")
    assert dry_run.describe(study, Slots(1, 0, 1, 2), card=None).gpu_hours == 0


HERE = preflight.Machine(cpus=8, gpus=2, card="RTX 4090", elsewhere=False)
HOUR_S, BUDGET_H = 3600, 10


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[StudySpec, Ledger, Search]:
    """A search of six trials with a whole GPU each, begun on a machine with two GPUs."""
    monkeypatch.setattr(preflight, "machine", lambda **_: HERE)
    study = study_files.load(tmp_path, f"resources={{gpu: 1, max_gpu_hours: {BUDGET_H}}}")
    ledger, _ = lifecycle.open_study(study, tmp_path, resume=False)
    return study, ledger, Search(study, ledger)


def trained(ledger: Ledger, trial: Trial, *, hours: float) -> None:
    """Record half of a trial, which took so long and was then cut off."""
    now = study_files.report(1)
    report = replace(now, tokens_seen=now.budget_tokens // 2, wall_s=HOUR_S * hours)
    ledger.append_report(trial.trial_id, attempt=ledger.claim(trial.trial_id), report=report)


def ended(ledger: Ledger, trial: Trial, *, hours: float, status: Status = "completed") -> None:
    ledger.claim(trial.trial_id)
    row = study_files.row(replace(trial, gpu_fraction=1.0), status=status)
    ledger.finish(replace(row, wall_s=HOUR_S * hours))


def hours(study: StudySpec, folder: Path) -> float | None:
    """How long a sweep of the study may take on the two GPUs."""
    options = sweep.parse([str(study.file), "--results", str(folder), "--resume"])
    return sweep._within_budget(study, options).max_hours


def test_time_of_cut_off_trials_counts_as_spent(begun: tuple[StudySpec, Ledger, Search], tmp_path: Path) -> None:
    study, ledger, search = begun
    assert hours(study, tmp_path) == BUDGET_H / 2
    first, second = search.ask(), search.ask()
    assert first is not None
    assert second is not None
    trained(ledger, first, hours=3)
    assert hours(study, tmp_path) == pytest.approx((BUDGET_H - 3) / 2)
    trained(ledger, first, hours=2)  # a second attempt, from an earlier checkpoint
    ended(ledger, second, hours=4)
    assert hours(study, tmp_path) == pytest.approx((BUDGET_H - 7) / 2)
    third = search.ask()
    assert third is not None
    trained(ledger, third, hours=3)
    with pytest.raises(BadInput, match=r"max_gpu_hours: 10\.0: 10 GPU-hours are spent"):
        hours(study, tmp_path)


def test_a_cut_off_trial_counts_with_its_planned_share(begun: tuple[StudySpec, Ledger, Search], tmp_path: Path) -> None:
    """It has no row yet that records its share."""
    _, ledger, search = begun
    study = study_files.load(tmp_path, f"resources={{gpu: auto, max_gpu_hours: {BUDGET_H}}}")
    drawn = search.ask()
    assert drawn is not None
    shares = Shares(study.resources, needs.card_for(study.resources, "RTX 4090"), trainer=TRAINER)
    trained(ledger, drawn, hours=20)
    spent = needs.spent_so_far(study, ledger, shares=shares, planned={"another": 1.0})
    assert spent.gpu_hours == pytest.approx(20 * shares.gpu(drawn.config))
    assert spent.begun == pytest.approx(0.5)
    unknown = replace(drawn, trial_id="of a winner's arm")
    trained(ledger, unknown, hours=10)
    more = needs.spent_so_far(study, ledger, shares=shares, planned={"one": 0.2, "another": 0.4})
    assert more.gpu_hours == pytest.approx(spent.gpu_hours + 10 * 0.3)


def test_only_the_rest_of_the_plan_must_fit_the_rest_of_the_budget(tmp_path: Path) -> None:
    study = study_files.load(tmp_path, "resources.max_gpu_hours=10")
    plan = [("search", 2.0), ("search", 2.0), ("baseline", 4.0)]
    assert needs.remaining_gpu_hours(study, plan, spent=Spent()) == 10
    assert needs.remaining_gpu_hours(study, plan, spent=Spent(5.5, {"search": 2})) == 4.5
    with pytest.raises(BadInput, match=r"6\.5 GPU-hours are spent, and the rest of the plan takes 4;"):
        needs.remaining_gpu_hours(study, plan, spent=Spent(6.5, {"search": 2}))
    assert needs.remaining_gpu_hours(study, plan, spent=Spent(6.5, {"search": 2}, begun=0.5)) == 3.5
    assert needs.remaining_gpu_hours(study, plan, spent=Spent(90, {"search": 2, "baseline": 1, "gone": 7})) is None
    with pytest.raises(BadInput, match="90 GPU-hours are spent;"):
        needs.remaining_gpu_hours(study, [("search", None)], spent=Spent(90))


def test_a_finished_study_is_not_checked_against_its_budget(
    begun: tuple[StudySpec, Ledger, Search], tmp_path: Path
) -> None:
    """Its search may have ended before it drew all its trials."""
    study, ledger, search = begun
    trial = search.ask()
    assert trial is not None
    ended(ledger, trial, hours=11, status="pruned")
    with pytest.raises(BadInput, match="11 GPU-hours are spent"):
        hours(study, tmp_path)
    lifecycle.record_exhausted(ledger, 1)
    assert lifecycle.mark_finished(ledger)
    assert hours(study, tmp_path) is None
    with pytest.raises(BadInput, match="11 GPU-hours are spent"):
        hours(study_files.load(tmp_path, "resources={gpu: 1, max_gpu_hours: 10}", "optimizer.trials=7"), tmp_path)
