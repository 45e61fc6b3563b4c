"""Studies under results/: opening and extending them, finding them, and what `ablate.status` says of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ablate import status
from ablate.errors import BadInput
from ablate.records import provenance
from ablate.records.ledger import Ledger
from ablate.spec.models import StudySpec
from ablate.study import lifecycle, lock, lookup
from ablate.study.lifecycle import mark_finished, open_study
from ablate.trials import plan
from ablate.trials.trial import Trial
from tests import study_files
from tests.study_files import GOOD, report, row

ARMS = GOOD + "ablation: {seeds: 2, exploratory: true, arms: {no_memory: {model.memory: none}}}\n"


@pytest.fixture
def study(tmp_path: Path) -> StudySpec:
    return study_files.load(tmp_path)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def draws(study: StudySpec, count: int) -> list[Trial]:
    return [plan.search_trial(study, {"model.ema_decay": 0.5 + 0.01 * index}) for index in range(count)]


def test_a_new_study_is_written_down(study: StudySpec, results: Path):
    ledger, state = open_study(study, results, resume=False)
    assert state == "new"
    written = ledger.read_study()
    assert written["finished_at"] is None
    assert written["spec"]["base"]["model.dim"] == 128
    assert written["space"][0] == {
        "key": "model.ema_decay",
        "kind": "one_minus_loguniform",
        "low": 0.3,
        "high": 0.999,
        "choices": None,
    }
    assert written["provenance"]["versions"]["optuna"]
    assert len(written["provenance"]["data_hash"]) == 16


def test_an_unfinished_study_needs_resume_and_keeps_its_start(study: StudySpec, results: Path):
    ledger, _ = open_study(study, results, resume=False)
    started_at = ledger.read_study()["started_at"]
    with pytest.raises(BadInput, match="--resume"):
        open_study(study, results, resume=False)
    assert open_study(study, results, resume=True)[1] == "resumed"
    assert ledger.read_study()["started_at"] == started_at


@pytest.mark.parametrize("more", ["optimizer.trials=8", "ablation.seeds=3", "ablation.arms.blind.model.memory=blind"])
def test_a_finished_study_runs_only_what_is_new(more: str, tmp_path: Path, results: Path):
    study = study_files.load(tmp_path, text=ARMS)
    ledger, _ = open_study(study, results, resume=False)
    mark_finished(ledger)
    before = ledger.path("study.json").read_bytes()
    assert open_study(study, results, resume=False)[1] == "finished"
    assert ledger.path("study.json").read_bytes() == before
    assert open_study(study_files.load(tmp_path, more, text=ARMS), results, resume=False)[1] == "extended"
    assert ledger.read_study()["finished_at"] is None


@pytest.mark.parametrize(
    ("other", "key"),
    [
        ("base.model.dim=64", "base.model.dim"),
        ("base.data.corpus=pydoc", "base.data.corpus"),
        ("base.train.tokens=1024", "base.train.tokens"),
        ("search.train.lr={loguniform: [1e-4, 1e-2]}", "search.train.lr"),
        ("ablation.arms.no_memory.model.dim=64", "ablation.arms.no_memory"),
        ("ablation.baseline=best", "ablation.baseline"),
    ],
)
def test_another_study_under_the_same_name_is_refused(other: str, key: str, tmp_path: Path, results: Path):
    open_study(study_files.load(tmp_path, text=ARMS), results, resume=False)
    with pytest.raises(BadInput) as caught:
        open_study(study_files.load(tmp_path, other, text=ARMS), results, resume=True)
    assert f": {key}: changed: study tides exists with another " in str(caught.value)
    assert "give it another name" in str(caught.value)


def test_other_data_under_the_same_path_is_another_study(tmp_path: Path, results: Path):
    data = tmp_path / "data.jsonl"
    sets = ("base.data.corpus=jsonl", f"base.data.train={data}")
    data.write_text('{"text": "one"}\n')
    open_study(study_files.load(tmp_path, *sets), results, resume=False)
    data.write_text('{"text": "two"}\n')
    with pytest.raises(BadInput, match="data files"):
        open_study(study_files.load(tmp_path, *sets), results, resume=True)


def test_studies_are_found_by_name_by_path_and_latest(tmp_path: Path, results: Path):
    with pytest.raises(BadInput, match="there is no study yet"):
        lookup.find("latest", results=results)
    for name in ("one", "two"):
        open_study(study_files.load(tmp_path, f"study={name}"), results, resume=False)
    assert lookup.find("one", results=results) == results / "one"
    assert lookup.find(str(results / "one"), results=tmp_path / "elsewhere") == results / "one"
    assert lookup.find("latest", results=results) == results / "two"
    with pytest.raises(BadInput, match="did you mean two"):
        lookup.find("twoo", results=results)


@pytest.mark.parametrize("text", ["{", "[]", '{"study": "broken"}'])
def test_the_latest_is_found_beside_folders_that_are_no_studies(
    text: str, study: StudySpec, results: Path, capsys: pytest.CaptureFixture[str]
):
    open_study(study, results, resume=False)
    broken = results / "broken" / "study.json"
    broken.parent.mkdir()
    broken.write_text(text)
    assert lookup.find("latest", results=results) == results / "tides"
    said = capsys.readouterr().err
    assert said.startswith(f"skipped: {broken}: ")
    assert said.count("\n") == 1


def test_one_sweep_drives_a_study_at_a_time(study: StudySpec, results: Path):
    ledger, _ = open_study(study, results, resume=False)
    assert not lock.is_held(ledger)
    with lock.hold(ledger):
        assert lock.is_held(ledger)
        with pytest.raises(BadInput, match="another sweep"), lock.hold(ledger):
            pass
        before = ledger.path("study.json").read_bytes()
        with pytest.raises(BadInput, match="another sweep"):
            open_study(study, results, resume=True)
        assert ledger.path("study.json").read_bytes() == before
    assert not lock.is_held(ledger)


def test_status_counts_what_ended_runs_and_waits(study: StudySpec, results: Path):
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
    assert now.left_s == pytest.approx(3 * 2.5 - 0.5)  # two wait and one runs, 2.5 s each, half a second of it spent

    killed = status.collect(ledger)
    assert killed.states["unfinished"] == 1
    assert killed.left_s is None
    assert "--resume" in status.render(killed)


def test_status_says_what_to_do_about_trials_that_wait(tmp_path: Path, results: Path):
    """A search of two that both fail leaves an ablation without a baseline; the same command again would not help."""
    study = study_files.load(tmp_path, "ablation.baseline=best", "optimizer.trials=2", text=ARMS)
    ledger, _ = open_study(study, results, resume=False)
    assert status.collect(ledger).hint == "to resume: the sweep's command line and --resume"
    for trial in draws(study, 2):
        ledger.claim(trial.trial_id)
        ledger.finish(row(trial, status="nan"))
    assert status.collect(ledger).hint == lifecycle.NO_WINNER
    assert lifecycle.NO_WINNER in status.render(status.collect(ledger))
    arms = open_study(study_files.load(tmp_path, "study=arms", text=ARMS), results, resume=False)[0]
    mark_finished(arms)
    assert "not trained" in status.collect(arms).hint


def test_status_survives_a_broken_part_and_says_so(study: StudySpec, results: Path):
    ledger, _ = open_study(study, results, resume=False)
    (trial,) = draws(study, 1)
    ledger.claim(trial.trial_id)
    ledger.path("trials").mkdir()
    ledger.path("trials", f"{trial.trial_id}.parquet").write_bytes(b"PAR1 not really")
    now = status.collect(ledger)
    assert now.states == {"unfinished": 1, "waiting": 5}
    assert "unreadable, left out" in status.render(now)


@pytest.mark.parametrize("text", ['{"study": "tides"}', '{"study": "tides", "spec": []}'])
def test_a_strange_study_file_is_bad_input(text: str, tmp_path: Path):
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(BadInput, match=r"study\.json"):
        status.collect(Ledger(tmp_path))


def test_the_command(study: StudySpec, results: Path):
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


def test_nothing_that_plans_or_looks_imports_torch_or_ray():
    imports = "import ablate.status, ablate.study.dry_run, ablate.study.lifecycle, sys"
    code = f"{imports}; print({{'torch', 'ray'}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"


def test_provenance_says_null_for_what_it_cannot_know():
    assert provenance.version("no-such-package-anywhere") is None
    assert provenance.git("no-such-command") is None
    assert provenance.device()
