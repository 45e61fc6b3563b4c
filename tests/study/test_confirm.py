"""The best trials of a search on fresh seeds: which, when, and what the study calls best."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from ablate import status
from ablate.errors import BadInput
from ablate.report.writer import write as write_report
from ablate.running.runner import Halt
from ablate.scheduling.packing import Slots
from ablate.study import completion, dataset, dry_run
from ablate.trials import plan
from tests import study_files
from tests.study.test_phases import ARMS, SEARCH, Formula, go

TEXT = ARMS[: ARMS.index("ablation")] + SEARCH + "tracking: {swanlab: disabled}\n"
CONFIRM = "optimizer.confirm={best: 2, seeds: 3}"


def test_the_best_trials_run_on_fresh_seeds(tmp_path: Path, results: Path, empty_figures: None):  # noqa: ARG001
    study = study_files.load(tmp_path, CONFIRM, text=TEXT)
    done = go(study, results, Formula())
    assert done.finished
    rows = done.ledger.rows()
    searched = sorted((row for row in rows if row.arm == "search"), key=lambda row: row.metrics["val_loss"])
    fresh = [row for row in rows if row.arm != "search"]
    assert Counter(row.arm for row in fresh) == {f"confirm.{row.trial_id}": 3 for row in searched[:2]}
    assert {row.seed for row in fresh} == {1001, 1002, 1003}
    assert {row.params["train.lr"] for row in fresh} == {row.params["train.lr"] for row in searched[:2]}
    assert len(rows) == plan.planned(study) == completion.read(done.ledger).planned == 4 + 2 * 3
    found = status.collect(done.ledger)
    assert found.best is not None
    assert found.best.trial_id == searched[0].trial_id, "the search's best stays the best"
    assert [one.trial_id for one in found.confirmed] == [row.trial_id for row in searched[:2]]
    assert "on 3 fresh seeds: trial" in status.render(found)
    data = dataset.read(done.ledger.root)
    assert set(data.trials["arm"]) == {"search"}
    page = " ".join((write_report(done.ledger.root) / "report.md").read_text().split())
    assert "The best trials on fresh seeds" in page
    assert f"On fresh seeds it is best too, before the second, trial {searched[1].trial_id}" in page


@pytest.mark.parametrize("trials", [2, 6])
def test_an_interrupted_confirmation_resumes(trials: int, tmp_path: Path, results: Path):
    study = study_files.load(tmp_path, CONFIRM, text=TEXT)
    whole = Formula()
    go(study, tmp_path / "whole", whole)
    halt, first = Halt(), Formula()
    first.stop = lambda: setattr(halt, "_signalled", len(first.configs) >= trials)
    interrupted = go(study, results, first, halt=halt)
    assert not interrupted.finished
    found = completion.read(interrupted.ledger)
    assert (found.planned, found.left) == (10, 10 - trials)
    second = Formula()
    assert go(study, results, second).finished
    assert first.configs + second.configs == whole.configs


def test_a_finished_search_may_be_confirmed_later(tmp_path: Path, results: Path):
    go(study_files.load(tmp_path, text=TEXT), results, Formula())
    train = Formula()
    assert go(study_files.load(tmp_path, CONFIRM, text=TEXT), results, train).finished
    assert len(train.configs) == 6
    more = Formula()
    go(study_files.load(tmp_path, "optimizer.confirm={best: 2, seeds: 4}", text=TEXT), results, more)
    assert [config["train.seed"] for config in more.configs] == [1004, 1004]


def test_without_a_completed_trial_nothing_is_confirmed(tmp_path: Path, results: Path):
    done = go(study_files.load(tmp_path, CONFIRM, text=TEXT), results, Formula(broken=("token",)))
    assert Counter(row.arm for row in done.ledger.rows()) == {"search": 4}
    assert completion.read(done.ledger).finished


def test_the_ablation_follows_on_seeds_of_its_own(tmp_path: Path, results: Path):
    study = study_files.load(tmp_path, CONFIRM, "ablation.baseline=best", text=ARMS + SEARCH)
    done = go(study, results, Formula())
    order = [row.arm.partition(".")[0] for row in sorted(done.ledger.rows(), key=lambda row: row.finished_at)]
    assert order == ["search"] * 4 + ["confirm"] * 6 + ["baseline", "none"] * 6
    assert not set(plan.seeds(study)) & {1001, 1002, 1003}


def test_a_dry_run_counts_the_confirmation(tmp_path: Path):
    study = study_files.load(tmp_path, CONFIRM, text=TEXT)
    run = dry_run.describe(study, Slots(1.0, 0.0, 1, 1), card=None)
    assert (run.total, run.confirms) == (10, 6)
    assert run.tokens == 10 * study.base["train.tokens"]
    assert "confirmed on fresh seeds, 6 trials" in dry_run.render(run)


@pytest.mark.parametrize(
    ("text", "sets", "words"),
    [
        (ARMS, (CONFIRM,), "the study has no search"),
        (TEXT, (CONFIRM, "objective=[{metric: val_loss}, {metric: tokens_per_s}]"), "no single best trial"),
    ],
)
def test_a_confirmation_needs_one_best_trial(text: str, sets: tuple[str, ...], words: str, tmp_path: Path):
    with pytest.raises(BadInput, match=words):
        study_files.load(tmp_path, *sets, text=text)
