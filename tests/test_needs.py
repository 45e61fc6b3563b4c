"""Cards by name, shares of them, plans on them, and budgets."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ablate import cli, dry_run, needs, sweep
from ablate.admission import MARGIN
from ablate.errors import BadInput
from ablate.needs import Card, Shares
from ablate.packing import Slots
from ablate.spec_models import Resources
from model.api import footprint
from tests import study_files


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        ("NVIDIA GeForce RTX 4090", 24), ("RTX 4090", 24), ("4090", 24), ("rtx4090", 24), ("RTX 3090", 24),
        ("RTX 4080", 16), ("NVIDIA A100-SXM4-40GB", 40), ("NVIDIA A100 80GB PCIe", 80), ("A100", 40), ("H100", 80),
        ("NVIDIA H100 PCIe", 80), ("L4", 24), ("NVIDIA L40S", 48),
    ],
)  # fmt: skip
def test_a_card_is_known_by_its_name(name: str, gib: float) -> None:
    found = needs.card_named(name)
    assert found is not None
    assert found.gib == gib


@pytest.mark.parametrize("name", ["", "RTX", "NVIDIA GeForce", "Voodoo 2", "L", "40"])
def test_any_other_is_not(name: str) -> None:
    assert needs.card_named(name) is None


def test_an_unknown_card_wants_its_memory() -> None:
    with pytest.raises(BadInput, match=r"Voodoo 2.*resources\.gpu_memory_gib"):
        needs.card_for(Resources(), "Voodoo 2")
    assert needs.card_for(Resources(gpu_memory_gib=12.0), "Voodoo 2").gib == 12
    assert needs.card_for(Resources(gpu_memory_gib=12.0), "RTX 4090").gib == 12


def test_a_share_holds_the_predicted_peak_with_its_margin(tmp_path: Path) -> None:
    config = study_files.load(tmp_path).base
    peak = footprint(config).peak_gib
    shares = Shares(Resources(), Card(4.0, 1e14))
    assert peak * MARGIN / 4 <= shares.gpu(config) <= peak * MARGIN / 4 + 1e-3
    assert shares.fits(config)
    tight = Shares(Resources(), Card(peak, 1e14))
    assert tight.gpu(config) == 1.0
    assert not tight.fits(config)
    assert not Shares(Resources(gpu=0.1), Card(4.0, 1e14)).fits(config)


def test_trials_at_once_are_bounded_by_memory_time_and_cores(tmp_path: Path) -> None:
    config = study_files.load(tmp_path).base
    shares = Shares(Resources(), Card(4 * footprint(config).peak_gib * MARGIN * 1.01, 1e14))
    trials = [config] * 20
    assert shares.concurrent(trials, cpus=math.inf, gpus=2, turns=False) == 8
    assert shares.concurrent(trials, cpus=math.inf, gpus=2, turns=True) == 4
    assert shares.concurrent(trials, cpus=3, gpus=2, turns=False) == 3
    assert shares.concurrent(trials[:1], cpus=math.inf, gpus=2, turns=False) == 1


def test_a_plan_for_a_card_has_every_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_an_unknown_card_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = study_files.write(tmp_path)
    assert cli.guarded(lambda: sweep.main([str(path), "--dry-run", "--gpu", "Voodoo 2"])) == cli.BAD_INPUT
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "resources.gpu_memory_gib" in said.err


def test_half_a_card_for_each_of_two_workers_is_refused_before_a_card_is_there(
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


def test_what_is_left_of_a_budget(tmp_path: Path) -> None:
    study = study_files.load(tmp_path, "resources.max_gpu_hours=2")
    assert needs.left_of_budget(study, [(3600, 0.5), (1800, None)]) == 1.0
    with pytest.raises(BadInput, match="are spent"):
        needs.left_of_budget(study, [(7200, 1.0)])
