"""Sequential seeds: blocks until each arm is decided, from the ledger alone, whatever interrupts the study."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ablate import status
from ablate.errors import BadInput
from ablate.report.writer import write as write_report
from ablate.running.runner import Halt
from ablate.scheduling.packing import Slots
from ablate.study import completion, dry_run, lifecycle
from ablate.study.dry_run import DryRun
from ablate.study.lifecycle import open_study
from ablate.trainers import Config, Report, Result, Verdict
from tests import study_files
from tests.study.test_phases import Formula, go

ARMS = """\
study: blocks
base: {preset: tiny, data: {corpus: facts}}
ablation:
  seeds: {first: 4, most: 12, step: 3}
  arms:
    none: {model.memory: none}
    blind: {model.memory: blind}
tracking: {swanlab: disabled}
"""
# Looks at 4, 7, 10 and 12 seeds. Two arms, so 0.025 for the smaller p: of 7 pairs there are too few sign patterns.
LOSS = {"token": lambda _: 0.0, "none": lambda _: 0.5, "blind": lambda seed: 0.5 * (-1) ** seed}


@dataclass
class Losses(Formula):
    """Losses by memory: `none` is always worse than the baseline, `blind` as often better as worse."""

    loss: dict[str, Callable[[int], float]] = field(default_factory=lambda: dict(LOSS))

    def __call__(self, config: Config, report: Callable[[Report], Verdict], *, checkpoint_dir: Path) -> Result:
        del report, checkpoint_dir
        memory, tokens, seed = config["model.memory"], config["train.tokens"] or 0, config["train.seed"]
        if memory in self.broken:
            raise ValueError("broken")
        self.configs.append(config)
        noise = 0.01 * ((7 * seed) % 11)
        self.stop()
        return Result(
            Verdict.CONTINUE, 1, tokens, tokens, "0" * 64, "cpu", {"val_loss": 3 + noise + self.loss[memory](seed)}, []
        )


def seeds_of(run: Any) -> dict[str, int]:
    return dict(Counter(row.arm for row in run.ledger.rows()))


def test_a_decided_arm_gets_no_more_seeds_and_the_baseline_runs_as_long_as_any(tmp_path: Path, results: Path):
    study = study_files.load(tmp_path, text=ARMS)
    done = go(study, results, Losses())
    assert done.finished
    assert seeds_of(done) == {"baseline": 12, "none": 10, "blind": 12}
    found = completion.read(done.ledger)
    assert found.walk is not None
    assert (found.walk.decided, found.planned, found.finished) == ({"none"}, 34, True)
    assert go(study, results, Losses()).finished, "the same file again only writes the report"


def test_arms_that_are_all_decided_end_the_study(tmp_path: Path, results: Path):
    train = Losses(loss={**LOSS, "blind": lambda _: -0.5})
    done = go(study_files.load(tmp_path, text=ARMS), results, train)
    assert seeds_of(done) == {"baseline": 10, "none": 10, "blind": 10}
    assert status.collect(done.ledger).states == {"completed": 30}


@pytest.mark.parametrize("trials", [12, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 14, 21, 30, 33))])
def test_an_interrupted_study_ends_as_if_it_had_not_been(trials: int, tmp_path: Path, results: Path):
    """12, 21 and 30 trials are whole blocks, so it is stopped within blocks and between them."""
    study = study_files.load(tmp_path, text=ARMS)
    whole = Losses()
    go(study, tmp_path / "whole", whole)
    halt, first = Halt(), Losses()
    first.stop = lambda: setattr(halt, "_signalled", len(first.configs) >= trials)
    interrupted = go(study, results, first, halt=halt)
    assert not interrupted.finished
    assert not completion.read(interrupted.ledger).whole
    second = Losses()
    assert go(study, results, second).finished
    assert first.configs + second.configs == whole.configs


def test_a_hypothesis_keeps_its_arm_until_it_is_decided_too(tmp_path: Path, results: Path):
    claim = "hypotheses=[{claim: faster, arm: none, metric: tokens_per_s, min_effect: 1}]"
    done = go(study_files.load(tmp_path, claim, text=ARMS), results, Losses())
    assert seeds_of(done)["none"] == 12, "tokens_per_s was never measured, so its claim is never decided"


def test_failed_seeds_are_pairs_without_a_value(tmp_path: Path, results: Path):
    done = go(study_files.load(tmp_path, text=ARMS), results, Losses(broken=("blind",)))
    assert seeds_of(done) == {"baseline": 12, "none": 10, "blind": 12}
    assert done.finished


def test_looks_are_declared_so_seeing_results_makes_nothing_exploratory(
    tmp_path: Path,
    results: Path,
    empty_figures: None,  # noqa: ARG001
):
    study = study_files.load(tmp_path, text=ARMS)
    halt, first = Halt(), Losses()
    first.stop = lambda: setattr(halt, "_signalled", len(first.configs) >= 12)
    write_report(go(study, results, first, halt=halt).ledger.root)
    done = go(study, results, Losses())
    folder = write_report(done.ledger.root)
    page = " ".join((folder / "report.md").read_text().split())
    assert "Exploratory" not in page
    assert "yes, at look 3" in page
    assert "no, by the last look" in page
    assert "95% repeated t intervals" in page


@pytest.mark.parametrize("change", ["first=5", "most=14", "step=2", "alpha=0.04"])
def test_declared_looks_do_not_change(change: str, tmp_path: Path, results: Path):
    open_study(study_files.load(tmp_path, text=ARMS), results, resume=False)
    with pytest.raises(BadInput, match=r"ablation\.seeds: changed: study blocks exists with another plan of looks"):
        open_study(study_files.load(tmp_path, f"ablation.seeds.{change}", text=ARMS), results, resume=True)


def test_a_fixed_number_of_seeds_writes_what_it_always_wrote(tmp_path: Path, results: Path):
    ledger, _ = open_study(study_files.load(tmp_path, "ablation.seeds=7", text=ARMS), results, resume=False)
    ablation = json.loads((ledger.root / "study.json").read_text())["spec"]["ablation"]
    assert ablation["seeds"] == 7
    assert not {"looks", "sequential"} & ablation.keys()
    assert completion.read(ledger).walk is None
    assert not lifecycle.is_finished(study_files.load(tmp_path, "ablation.seeds=7", text=ARMS), ledger)


def test_a_dry_run_says_the_looks_and_the_cost_at_least_and_at_most(tmp_path: Path, results: Path):
    study = study_files.load(tmp_path, text=ARMS)

    def planned(earlier: Path | None) -> DryRun:
        return dry_run.describe(study, Slots(1.0, 0.0, 1, 1), card=None, earlier=earlier)

    fresh = planned(None)
    assert fresh.total == 36
    said = " ".join(dry_run.render(fresh).split())
    assert "error 0.05 over 4 looks and 2 arms" in said
    assert "at least 30 and at most 36 trials" in said
    assert "which no p reaches" in said
    halt, first = Halt(), Losses()
    first.stop = lambda: setattr(halt, "_signalled", len(first.configs) >= 30)
    ledger = go(study, results, first, halt=halt).ledger
    assert status.collect(ledger).block == "1 of 2 arms decided (none); block up to 12 of at most 12 seeds"
    left = planned(ledger.root)
    assert (left.total, left.ended) == (34, 30)


def test_status_shows_the_block(tmp_path: Path, results: Path):
    study, halt, first = study_files.load(tmp_path, text=ARMS), Halt(), Losses()
    first.stop = lambda: setattr(halt, "_signalled", len(first.configs) >= 14)
    ledger = go(study, results, first, halt=halt).ledger
    found = status.collect(ledger)
    assert found.block == "0 of 2 arms decided; block up to 7 of at most 12 seeds"
    assert found.planned == 21
    assert f"sequential seeds: {found.block}" in status.render(found)
