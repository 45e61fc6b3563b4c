"""The ledger: parts are whole or absent, a trial has one writer, and readers leave out damaged parts."""

from __future__ import annotations

import math
import os
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ablate.errors import BadInput
from ablate.records import atomic_files
from ablate.records.ledger import Ledger, StaleAttempt
from ablate.records.schema import HISTORY_COLUMNS, SCHEMA_VERSION, TRIAL_ENDS, TRIAL_STARTS
from ablate.trials import plan
from ablate.trials.trial import Trial
from tests import study_files
from tests.study_files import report, row

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "results" / "tides")


@pytest.fixture
def trials(tmp_path: Path) -> list[Trial]:
    """Three trials that differ in a number and in a text."""
    study = study_files.load(tmp_path)
    params = [{"model.ema_decay": 0.5}, {"model.ema_decay": 0.25, "model.query_norm": "none"}, {"model.ema": "off"}]
    return [plan.search_trial(study, values) for values in params]


def test_a_row_is_read_as_it_was_written(ledger: Ledger, trials: list[Trial]):
    ledger.claim(trials[0].trial_id)
    written = row(trials[0], metrics={"val_loss": 0.1 + 0.2, "coverage_by_layer": [0.5, 0.25], "parameters": 2**40})
    ledger.finish(written)
    (read,) = ledger.trials().to_pylist()
    assert read["val_loss"] == 0.1 + 0.2
    assert read["coverage_by_layer"] == [0.5, 0.25]
    assert read["parameters"] == 2**40
    assert read["param.model.ema_decay"] == 0.5
    assert read["started_at"] == written.started_at
    assert read["schema_version"] == SCHEMA_VERSION
    assert read["perplexity"] is None
    assert ledger.rows() == [ledger.row(trials[0].trial_id)] == [written]
    assert ledger.final_ids() == {trials[0].trial_id}


def names(columns: Iterable[Any]) -> list[str]:
    return [column.name for column in columns]


def test_empty_tables_have_every_column(ledger: Ledger):
    assert ledger.trials().column_names == names(TRIAL_STARTS) + names(ledger.metrics) + names(TRIAL_ENDS)
    assert ledger.history().column_names == names(HISTORY_COLUMNS) + names(ledger.metrics)
    assert ledger.trials().num_rows == ledger.history().num_rows == 0


def test_rows_with_different_parameters_make_one_table(ledger: Ledger, trials: list[Trial]):
    for trial in trials:
        ledger.claim(trial.trial_id)
        ledger.finish(row(trial))
    table = ledger.trials()
    assert table.schema.field("param.model.ema_decay").type == pa.float64()
    assert table.schema.field("param.model.query_norm").type == pa.string()
    frame = table.to_pandas().set_index("trial_id")
    assert frame.loc[trials[1].trial_id, "param.model.query_norm"] == "none"
    assert pd.isna(frame.loc[trials[0].trial_id, "param.model.query_norm"])


def test_a_failed_trial_has_null_metrics(ledger: Ledger, trials: list[Trial]):
    ledger.claim(trials[0].trial_id)
    ledger.finish(row(trials[0], status="nan", metrics={"val_loss": math.inf}))
    (read,) = ledger.trials().to_pylist()
    assert read["val_loss"] is None
    assert (read["status"], read["error"]) == ("nan", "it broke")


def test_a_trial_ends_once(ledger: Ledger, trials: list[Trial]):
    trial = trials[0]
    attempt = ledger.claim(trial.trial_id)
    ledger.finish(row(trial))
    with pytest.raises(StaleAttempt):
        ledger.finish(row(trial, metrics={"val_loss": 1.0}))
    with pytest.raises(StaleAttempt):
        ledger.append_report(trial.trial_id, attempt=attempt, report=report(2))
    assert ledger.trials().column("val_loss").to_pylist() == [2.0]


def test_an_older_attempt_cannot_write(ledger: Ledger, trials: list[Trial]):
    trial = trials[0]
    first = ledger.claim(trial.trial_id)
    ledger.append_report(trial.trial_id, attempt=first, report=report(2))
    second = ledger.claim(trial.trial_id)
    assert (first, second) == (1, 2)
    with pytest.raises(StaleAttempt):
        ledger.append_report(trial.trial_id, attempt=first, report=report(4))
    with pytest.raises(StaleAttempt):
        ledger.finish(row(trial, attempt=first))
    ledger.append_report(trial.trial_id, attempt=second, report=report(2))
    ledger.finish(row(trial, attempt=second))
    assert ledger.trials().column("attempt").to_pylist() == [2]


def test_simultaneous_claims_get_different_attempts(ledger: Ledger):
    attempts: list[int] = []
    threads = [threading.Thread(target=lambda: attempts.append(ledger.claim("t"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(attempts) == list(range(1, 9))


def test_a_resumed_attempt_replaces_the_steps_after_its_checkpoint(ledger: Ledger):
    first = ledger.claim("t")
    for step in (2, 4, 6):
        ledger.append_report("t", attempt=first, report=report(step, val_loss=1.0))
    second = ledger.claim("t")
    assert ledger.history("t").column("step").to_pylist() == [2, 4, 6]  # the second has not reported yet
    for step in (6, 8):  # it resumed from the checkpoint at step 4
        ledger.append_report("t", attempt=second, report=report(step, val_loss=2.0))
    history = ledger.history("t").to_pylist()
    assert [(line["step"], line["attempt"]) for line in history] == [(2, 1), (4, 1), (6, 2), (8, 2)]
    third = ledger.claim("t")
    ledger.append_report("t", attempt=third, report=report(2))  # it found no checkpoint and started again
    assert [(line["step"], line["attempt"]) for line in ledger.history("t").to_pylist()] == [(2, 3)]


def test_a_trials_history_has_only_its_own_reports(ledger: Ledger):
    for name in ("a", "a-1", "b"):
        attempt = ledger.claim(name)
        ledger.append_report(name, attempt=attempt, report=report(2))
    assert ledger.history("a").column("trial_id").to_pylist() == ["a"]
    assert ledger.history().column("trial_id").to_pylist() == ["a", "a-1", "b"]
    assert ledger.started_ids() == {"a", "a-1", "b"}


def test_nan_losses_are_kept(ledger: Ledger):
    attempt = ledger.claim("t")
    diverged = report(2)
    diverged.losses[-1] = math.nan
    ledger.append_report("t", attempt=attempt, report=diverged)
    (losses,) = ledger.history("t").column("losses").to_pylist()
    assert losses[0] == 2.0
    assert math.isnan(losses[1])


@pytest.mark.parametrize("folder", ["trials", "history"])
def test_unreadable_parts_are_reported_and_left_out(folder: str, ledger: Ledger, trials: list[Trial]):
    for trial in trials:
        attempt = ledger.claim(trial.trial_id)
        ledger.append_report(trial.trial_id, attempt=attempt, report=report(2))
        ledger.finish(row(trial))
    paths = sorted(ledger.path(folder).iterdir())
    os.truncate(paths[0], paths[0].stat().st_size // 2)
    pq.write_table(pa.table({"something": [1]}), ledger.path(folder, "foreign-1.parquet"))
    newer = pq.read_table(paths[1]).replace_schema_metadata({"schema_version": str(SCHEMA_VERSION + 1)})
    pq.write_table(newer, paths[1])
    misfit = pa.table({"trial_id": ["misfit-1"], "status": [["a list"]], "step": ["a"], "losses": [0]})
    pq.write_table(misfit, ledger.path(folder, "misfit-1.parquet"))
    ledger.path(folder, "cut.parquet.1234.tmp").write_bytes(b"half")
    table = ledger.trials() if folder == "trials" else ledger.history()
    assert table.column("trial_id").to_pylist() == [paths[2].stem.split("-")[0]]
    if folder == "trials":
        assert ledger.row(paths[0].stem) is None
    problems = ledger.problems()
    assert len(problems) == 4
    for path, words in (
        (paths[0], "cut off"),
        (paths[1], "newer"),
        (ledger.path(folder, "foreign-1.parquet"), "no column"),
        (ledger.path(folder, "misfit-1.parquet"), "do not fit"),
    ):
        assert any(problem.startswith(f"{path}: ") and words in problem for problem in problems), problems


def test_files_of_schema_version_1_load(ledger: Ledger):
    for name in ("trials/0123456789ab.parquet", "history/0123456789ab-1.parquet"):
        ledger.path(name).parent.mkdir(parents=True)
        shutil.copy(GOLDEN / "v1" / name, ledger.path(name))
    assert ledger.problems() == []
    (trial,) = ledger.trials().to_pylist()
    assert trial.keys() >= {*names(TRIAL_STARTS), *names(ledger.metrics), *names(TRIAL_ENDS)}
    shown = ("trial_id", "status", "val_loss", "param.model.ema_decay", "tokens_seen", "schema_version")
    assert [trial[name] for name in shown] == ["0123456789ab", "completed", 1.25, 0.5, 4_096, 1]
    assert [trial[name] for name in ("predicted_peak_gib", "gpu_fraction")] == [None, None]
    assert [line["losses"] for line in ledger.history().to_pylist()] == [[2.0, 2.0], [4.0, 4.0]]


def test_a_file_is_whole_or_absent(tmp_path: Path):
    path = tmp_path / "part"

    def fail(tmp: Path) -> None:
        tmp.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        atomic_files.replace(path, fail)
    assert list(tmp_path.iterdir()) == []
    atomic_files.create(path, lambda tmp: tmp.write_text("one"))
    with pytest.raises(FileExistsError):
        atomic_files.create(path, lambda tmp: tmp.write_text("two"))
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_a_broken_study_file_is_bad_input(text: str, ledger: Ledger):
    with pytest.raises(BadInput):
        ledger.read_study()
    ledger.root.mkdir(parents=True)
    ledger.path("study.json").write_text(text)
    with pytest.raises(BadInput, match=r"study\.json"):
        ledger.read_study()
