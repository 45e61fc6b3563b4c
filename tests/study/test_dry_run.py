"""A dry run of a study that has begun counts what is left of it, in whatever phase it was left."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.running.runner import Halt
from ablate.scheduling.packing import Slots
from ablate.spec.models import StudySpec
from ablate.study import completion, dry_run, lifecycle
from ablate.study.dry_run import DryRun
from tests import study_files
from tests.study.test_confirm import CONFIRM, TEXT
from tests.study.test_phases import ARMS, SEARCH, Formula, Run, go


def planned(study: StudySpec, run: Run) -> DryRun:
    return dry_run.describe(study, Slots(1.0, 0.0, 1, 1), card=None, earlier=run.ledger.root)


def left(run: DryRun) -> int:
    return run.total - run.ended


@pytest.mark.parametrize("trials", [6, 15, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 11, 20))])
def test_what_is_left_in_each_phase_is_what_is_trained_then(trials: int, tmp_path: Path, results: Path):
    """Interrupted in the search, its confirmation, the calibration, the tuning, and the arms."""
    ablation = ("match=wall", "tune_each_arm={trials: 3}", "baseline=best", "seeds=6")
    study = study_files.load(tmp_path, CONFIRM, *(f"ablation.{entry}" for entry in ablation), text=ARMS + SEARCH)
    halt, first, rest = Halt(), Formula(), Formula()
    first.stop = lambda: setattr(halt, "_signalled", len(first.configs) >= trials)
    plan = planned(study, go(study, results, first, halt=halt))
    assert plan.ended == len(first.configs) == trials
    whole = go(study, results, rest)
    assert left(plan) == len(rest.configs)
    assert left(planned(study, whole)) == 0


def test_a_grown_search_may_be_confirmed_by_other_trials(tmp_path: Path, results: Path):
    """The best ones may be among those that it draws now. What confirmed the earlier ones does not count for them."""
    done = go(study_files.load(tmp_path, CONFIRM, text=TEXT), results, Formula())
    assert left(planned(study_files.load(tmp_path, CONFIRM, text=TEXT), done)) == 0
    grown = study_files.load(tmp_path, CONFIRM, "optimizer.trials=16", text=TEXT)
    plan, more = planned(grown, done), Formula()
    assert (left(plan), plan.confirms) == (12 + 6, 6)
    assert "6 trials at most" in dry_run.render(plan), "its four start-up draws have ended, and others are left"
    assert plan.tokens == 18 * grown.base["train.tokens"]
    whole = go(grown, results, more)
    assert len(more.configs) == 18, "both of the best are new"
    assert left(planned(grown, whole)) == 0


def test_a_search_without_a_completed_trial_leaves_nothing_to_confirm(tmp_path: Path, results: Path):
    study = study_files.load(tmp_path, CONFIRM, text=TEXT)
    failed = go(study, results, Formula(broken=("token",)))
    assert failed.finished
    assert (left(planned(study, failed)), planned(study, failed).tokens) == (0, 0)


def test_a_search_whose_draws_are_used_up_has_none_left(tmp_path: Path, results: Path):
    study, halt, first = study_files.load(tmp_path, CONFIRM, text=TEXT), Halt(), Formula()
    first.stop = lambda: setattr(halt, "_signalled", len(first.configs) >= 3)
    run = go(study, results, first, halt=halt)
    lifecycle.record_exhausted(run.ledger, 3)
    assert (left(planned(study, run)), planned(study, run).confirms) == (6, 6)
    assert completion.read(run.ledger).left == 6, "the sweep says the same"
    grown = study_files.load(tmp_path, CONFIRM, "optimizer.trials=5", text=TEXT)
    assert left(planned(grown, run)) == 2 + 6, "more are asked for, and there may be more"
