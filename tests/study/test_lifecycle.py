"""Studies in results/: started, resumed, extended, looked up and locked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ablate.errors import BadInput
from ablate.records.ledger import Ledger
from ablate.spec.models import StudySpec
from ablate.study import lock, lookup
from ablate.study.lifecycle import mark_finished, open_study
from ablate.trials import plan
from tests import study_files
from tests.study_files import GOOD

ARMS = GOOD + "ablation: {seeds: 2, exploratory: true, arms: {no_memory: {model.memory: none}}}\n"


def end_all(study: StudySpec, ledger: Ledger) -> list[str]:
    """End every planned trial of a study of a search and arms; returns their ids."""
    draws = [{"model.ema_decay": 0.5 + 0.01 * number} for number in range(study.optimizer.trials)]
    trials = [plan.search_trial(study, params) for params in draws] if study.search else []
    trials += plan.arm_trials(study, study.base) if study.ablation else []
    for trial in trials:
        ledger.finish(study_files.row(trial, attempt=ledger.claim(trial.trial_id)))
    return [trial.trial_id for trial in trials]


@pytest.fixture
def study(tmp_path: Path) -> StudySpec:
    return study_files.load(tmp_path)


def test_a_new_study_gets_its_study_json(study: StudySpec, results: Path):
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
def test_a_finished_study_is_extended_only_if_it_asks_for_more(more: str, tmp_path: Path, results: Path):
    study = study_files.load(tmp_path, text=ARMS)
    ledger, _ = open_study(study, results, resume=False)
    end_all(study, ledger)
    assert mark_finished(ledger)
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
        ("search.train.lr={loguniform: [1e-4, 1e-2]}", "search.train.lr"),
        ("ablation.arms.no_memory.model.dim=64", "ablation.arms.no_memory"),
        ("ablation.baseline=best", "ablation.baseline"),
    ],
)
def test_a_study_cannot_change_under_its_name(other: str, key: str, tmp_path: Path, results: Path):
    open_study(study_files.load(tmp_path, text=ARMS), results, resume=False)
    with pytest.raises(BadInput) as caught:
        open_study(study_files.load(tmp_path, other, text=ARMS), results, resume=True)
    assert f": {key}: changed: study tides exists with another " in str(caught.value)
    assert "give it another name" in str(caught.value)


def test_a_study_refuses_changed_data_files(tmp_path: Path, results: Path):
    data = tmp_path / "data.jsonl"
    sets = ("base.data.corpus=jsonl", f"base.data.train={data}")
    data.write_text('{"text": "one"}\n{"text": "two"}\n')
    open_study(study_files.load(tmp_path, *sets), results, resume=False)
    data.write_text('{"text": "one"}\n{"text": "three"}\n')
    with pytest.raises(BadInput, match="data files"):
        open_study(study_files.load(tmp_path, *sets), results, resume=True)


def test_lookup_finds_a_study_by_name_by_path_and_as_latest(tmp_path: Path, results: Path):
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
def test_lookup_of_latest_skips_broken_studies(
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


def test_one_sweep_at_a_time_holds_the_lock(study: StudySpec, results: Path):
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


def test_status_dry_run_and_lifecycle_import_neither_torch_nor_ray():
    imports = "import ablate.status, ablate.study.dry_run, ablate.study.lifecycle, sys"
    code = f"{imports}; print({{'torch', 'ray'}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"
