"""`ablate.status`: trials by state, the best one, time left, and what to do next."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ablate import status
from ablate.errors import BadInput
from ablate.records.ledger import Ledger
from ablate.spec.models import StudySpec
from ablate.study import lifecycle, lock
from ablate.study.lifecycle import open_study
from ablate.trials import plan
from ablate.trials.trial import Trial
from tests import study_files
from tests.study.test_lifecycle import ARMS
from tests.study_files import report, row


@pytest.fixture
def study(tmp_path: Path) -> StudySpec:
    return study_files.load(tmp_path)


def draws(study: StudySpec, count: int) -> list[Trial]:
    return [plan.search_trial(study, {"model.ema_decay": 0.5 + 0.01 * index}) for index in range(count)]


def test_status_counts_trials_by_state(study: StudySpec, results: Path):
    ledger, _ = open_study(study, results, resume=False)
    done, pruned, broken, running = draws(study, 4)
    ends = [row(done, metrics={"val_loss": 1.5}), row(pruned, status="pruned", metrics={"val_loss": 1.0})]
    for end in (*ends, row(broken, status="oom")):
        ledger.claim(end.trial_id)
        ledger.finish(end)
    attempt = ledger.claim(running.trial_id)
    ledger.append_report(running.trial_id, attempt=attempt, report=report(1))
    with lock.hold(ledger):
        now = status.collect(ledger)
    assert now.states == {"completed": 1, "pruned": 1, "oom": 1, "running": 1, "waiting": 2}
    assert now.failures == {"oom": 1}
    assert now.best is not None
    assert (now.best.trial_id, now.best.value) == (done.trial_id, 1.5)
    assert now.best.params == {"model.ema_decay": 0.5}
    assert now.left_s == pytest.approx(3 * 2.5 - 0.5)  # two waiting and one running, 2.5 s each, 0.5 s of it done

    killed = status.collect(ledger)
    assert killed.states["unfinished"] == 1
    assert killed.left_s is None
    assert "--resume" in status.render(killed)


def test_status_names_the_positive_control(tmp_path: Path, results: Path):
    study = study_files.load(tmp_path, "ablation.control=no_memory", text=ARMS)
    now = status.collect(open_study(study, results, resume=False)[0])
    assert now.control == "no_memory"
    assert "positive control: no_memory" in status.render(now)


def test_status_hints_what_to_do_about_waiting_trials(tmp_path: Path, results: Path):
    """After a search whose two trials failed, the ablation has no baseline, and the same command again is no help."""
    study = study_files.load(tmp_path, "ablation.baseline=best", "optimizer.trials=2", text=ARMS)
    ledger, _ = open_study(study, results, resume=False)
    assert status.collect(ledger).hint == "to resume: the sweep's command line and --resume"
    for trial in draws(study, 2):
        ledger.claim(trial.trial_id)
        ledger.finish(row(trial, status="nan"))
    assert status.collect(ledger).hint == lifecycle.NO_WINNER
    assert lifecycle.NO_WINNER in status.render(status.collect(ledger))


def test_status_reports_an_unreadable_part(study: StudySpec, results: Path):
    ledger, _ = open_study(study, results, resume=False)
    (trial,) = draws(study, 1)
    ledger.claim(trial.trial_id)
    ledger.path("trials").mkdir()
    ledger.path("trials", f"{trial.trial_id}.parquet").write_bytes(b"PAR1 not really")
    now = status.collect(ledger)
    assert now.states == {"unfinished": 1, "waiting": 5}
    assert "unreadable, left out" in status.render(now)


@pytest.mark.parametrize("text", ['{"study": "tides"}', '{"study": "tides", "spec": []}'])
def test_a_damaged_study_json_is_bad_input(text: str, tmp_path: Path):
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(BadInput, match=r"study\.json"):
        status.collect(Ledger(tmp_path))


def test_status_prints_json_and_refuses_unknown_studies(study: StudySpec, results: Path):
    open_study(study, results, resume=False)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ablate.status", *arguments, "--results", str(results)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    said = run("latest", "--json")
    assert said.returncode == 0
    assert json.loads(said.stdout)["states"] == {"waiting": 6}
    wrong = run("tide")
    assert wrong.returncode == 2
    assert wrong.stdout == ""
    assert wrong.stderr == f"{results}: study: tide: no such study; did you mean tides?\n"
