"""Injected faults: each becomes a typed row or one clear line, and finished trials keep their rows."""

from __future__ import annotations

import dataclasses
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ablate import cli, status
from ablate.records import study_reader
from ablate.records.ledger import Ledger
from ablate.report import writer
from ablate.running import inline
from ablate.running import trial as trial_module
from ablate.running.inline import InlineRunner
from ablate.running.limits import Limits
from ablate.running.runner import Event, Halt
from ablate.running.trial import StudyContext, run_trial
from ablate.study import lifecycle
from ablate.trainers import Verdict
from ablate.trainers.token_memory import TokenMemory
from ablate.trials.trial import Trial
from tests import ROOT, study_files
from tests.commands.test_sweep import run as sweeping
from tests.fakes import Act, FakeTrain, ListSource, Scripted, fake_trial
from tests.model.test_training import small
from tests.processes import wait_for


def run(context: StudyContext, acts: dict[int, Act], *, halt: Halt | None = None) -> dict[int, Any]:
    """Train one trial per act without Ray. Returns the rows by seed."""
    source = ListSource([fake_trial(seed) for seed in acts])
    train = FakeTrain(acts, folder=context.ledger.root)
    InlineRunner(context, halt=halt or Halt(), on_event=lambda _: None, train=train).run(source)
    return {row.seed: row for row in source.rows}


# ---- a trial's own faults


def test_every_fault_becomes_a_typed_row_and_the_next_trial_trains(context: StudyContext) -> None:
    context = dataclasses.replace(context, limits=Limits(max_s=90, stall_s=1.0))
    acts: dict[int, Act] = {0: "oom", 1: "cuda_oom", 2: "nan", 3: "error", 4: "silent", 5: "endless", 6: "complete"}
    began = time.monotonic()
    rows = run(context, acts)
    assert {seed: (row.status, row.error_kind) for seed, row in rows.items()} == {
        0: ("oom", "MemoryError"),
        1: ("oom", "OutOfMemoryError"),
        2: ("nan", "NonFiniteLoss"),
        3: ("error", "ValueError"),
        4: ("timeout", "Stalled"),
        5: ("timeout", "TimeLimit"),
        6: ("completed", None),
    }
    assert time.monotonic() - began < 30, "a hang lasts only until its limit"
    assert [rows[seed].metrics for seed in range(6)] == [{}] * 6
    assert rows[5].wall_s == 120, "it ends at the first report over the limit"


@pytest.fixture
def slow_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module whose import takes a second in Python."""
    path = tmp_path / "slow_to_import.py"
    path.write_text("import time\nfor _ in range(50):\n    time.sleep(0.02)\nwhole = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield path.stem
    sys.modules.pop(path.stem, None)


def test_a_trial_is_not_ended_in_the_middle_of_an_import(context: StudyContext, slow_module: str) -> None:
    """Cut off, torch's import ends the process, or leaves half of a module for the trials after."""
    found: list[str] = []

    def train(config: Any, report: Any, *, checkpoint_dir: Path) -> Any:
        imported = importlib.import_module(slow_module)
        found.append(f"trial {config.seed} has all of it: {imported.whole}")
        return FakeTrain({0: "silent", 1: "complete"}, folder=context.ledger.root)(
            config, report, checkpoint_dir=checkpoint_dir
        )

    source = ListSource([fake_trial(0), fake_trial(1)])
    limited = dataclasses.replace(context, limits=Limits(stall_s=0.4))
    InlineRunner(limited, halt=Halt(), on_event=lambda _: None, train=train, hard_s=0.5).run(source)
    assert [(row.status, row.error_kind) for row in source.rows] == [("timeout", "Stalled"), ("completed", None)]
    assert found[-1] == "trial 1 has all of it: True"


HANGING_IMPORT = """
import sys
from pathlib import Path
from ablate.records.ledger import Ledger
from ablate.running import watchdog
from ablate.running.inline import InlineRunner
from ablate.running.limits import Limits
from ablate.running.runner import Halt
from ablate.running.trial import StudyContext
from tests.fakes import ListSource, fake_trial

root = Path(sys.argv[1])
root.joinpath("never_imported.py").write_text("import time\\nwhile True:\\n    time.sleep(0.02)\\n")
sys.path.insert(0, str(root))
watchdog._IMPORT_S = 1.0

def train(config, report, *, checkpoint_dir):
    import never_imported

context = StudyContext(
    Ledger(root), swanlab="disabled", objective="val_loss", git_commit=None, limits=Limits(stall_s=0.2)
)
InlineRunner(context, halt=Halt(), on_event=lambda _: None, train=train, hard_s=0.5).run(ListSource([fake_trial(0)]))
"""


def test_an_import_that_never_ends_is_recorded_and_ends_the_process(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", HANGING_IMPORT, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120)
    assert ended.returncode == cli.INTERRUPTED
    row = Ledger(tmp_path).row(fake_trial(0).trial_id)
    assert row is not None
    assert (row.status, row.error_kind) == ("timeout", "Stalled")
    assert "--resume" in ended.stderr.splitlines()[-1]


def test_a_failed_trials_log_has_its_traceback_and_output(context: StudyContext) -> None:
    rows = run(dataclasses.replace(context, limits=Limits(stall_s=0.5)), {0: "error", 1: "silent", 2: "complete"})
    log = context.ledger.log(rows[0].trial_id, attempt=1)
    assert log.startswith("Traceback (most recent call last):")
    assert "ValueError: a toy error" in log
    assert "what a toy prints" in log
    silent = context.ledger.log(rows[1].trial_id, attempt=1)
    assert "time.sleep(BOUND_S)" in silent, "its stack"
    assert "silent from now on" in silent
    assert "\x1b" not in silent
    assert context.ledger.log(rows[2].trial_id, attempt=1) == ""
    assert context.ledger.store.names("logs") == sorted(f"{rows[seed].trial_id}-1.txt" for seed in (0, 1))


def test_report_and_status_show_the_end_of_a_failed_trials_log(
    space: Path, play: Callable[..., Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    play("complete", "error", "nan")
    assert sweeping(space) == cli.DONE
    root = space.parent / "results" / "small"
    failed = next(row for row in Ledger(root).rows() if row.status == "error")
    written = (root / "report" / "report.md").read_text()
    assert f"logs/{failed.trial_id}-1.txt" in written
    assert "what a toy prints" in written
    assert "ValueError: a toy error" in (root / "report" / "report.html").read_text()
    capsys.readouterr()
    found = status.collect(Ledger(root))
    said = status.render(found)
    assert f"{failed.trial_id} search error: ValueError: a toy error" in said
    assert "what a toy prints" in said
    assert {entry.status for entry in found.failed} == {"error", "nan"}


HANG = """
import hashlib, os, sys
from datetime import datetime
from pathlib import Path
from ablate.records.ledger import Ledger
from ablate.running.inline import InlineRunner
from ablate.running.limits import Limits
from ablate.running.runner import Halt
from ablate.running.trial import StudyContext
from tests.fakes import FakeTrain, ListSource, fake_trial

root, stall_s = Path(sys.argv[1]), float(sys.argv[2])

def hang(config, report, *, checkpoint_dir):
    FakeTrain({0: "complete"}, folder=root)(config, report, checkpoint_dir=checkpoint_dir)
    root.joinpath("hangs").touch()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # minutes in C, where no signal handler runs

context = StudyContext(
    Ledger(root), swanlab="disabled", objective="val_loss", git_commit=None, limits=Limits(stall_s=stall_s)
)
with Halt() as halt:
    InlineRunner(context, halt=halt, on_event=lambda _: None, train=hang, hard_s=1.0).run(ListSource([fake_trial(0)]))
"""


def hanging(root: Path, *, stall_s: float) -> subprocess.Popen[str]:
    root.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", HANG, str(root), str(stall_s)]
    return subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, text=True)


def test_a_hang_outside_python_is_recorded_and_ends_the_process(tmp_path: Path) -> None:
    """Without Ray there is one process, so a trial that cannot be interrupted ends it; the study can be resumed."""
    process = hanging(tmp_path / "fake", stall_s=1.0)
    _, err = process.communicate(timeout=120)
    assert process.returncode == cli.INTERRUPTED
    row = Ledger(tmp_path / "fake").row(fake_trial(0).trial_id)
    assert row is not None
    assert (row.status, row.error_kind) == ("timeout", "Stalled")
    assert "--resume" in err.splitlines()[-1]
    assert "in hang" in err, "the stack is printed"


@pytest.mark.slow  # its quick twin: test_time_in_which_the_watching_process_was_stopped_does_not_count
def test_a_sweep_that_was_stopped_and_continued_blames_no_trial(tmp_path: Path) -> None:
    root, stall_s = tmp_path / "fake", 8.0
    process = hanging(root, stall_s=stall_s)
    wait_for(lambda: (root / "hangs").exists(), seconds=60)
    process.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    wait_for(lambda: time.monotonic() > stopped + stall_s + 1, seconds=60)
    process.send_signal(signal.SIGCONT)
    continued = time.monotonic()
    wait_for(lambda: time.monotonic() > continued + 2, seconds=60)
    assert process.poll() is None, "it trains on"
    assert Ledger(root).final_ids() == set()
    process.communicate(timeout=60)
    assert Ledger(root).final_ids() == {fake_trial(0).trial_id}, "only its own silence counts"


@pytest.mark.slow
def test_ctrl_c_ends_a_hang_outside_python(tmp_path: Path) -> None:
    root = tmp_path / "fake"
    process = hanging(root, stall_s=600)
    wait_for(lambda: (root / "hangs").exists(), seconds=60)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == cli.INTERRUPTED
    assert time.monotonic() - began < 20
    assert Ledger(root).final_ids() == set(), "interrupted, not failed"
    assert "does not answer" in err


def test_an_interrupted_trial_that_does_not_answer_is_ended_and_the_report_written(
    space: Path, play: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(TokenMemory, "stop_s", 1.0)
    train = play("complete", "silent")
    silent = space.parent / "silent"
    code = (
        "import os, signal, sys, time, pathlib\n"
        "while not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.05)\n"
        "os.kill(int(sys.argv[2]), signal.SIGINT)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(silent), str(os.getpid())]):
        assert sweeping(space) == cli.INTERRUPTED
    said = capsys.readouterr()
    assert "1 of 3 trials have ended" in said.err
    assert Path(said.out.splitlines()[-1].removeprefix("report: ")).is_file()
    assert len(train.configs) == 2


# ---- files


def test_truncated_and_foreign_files_are_named_and_the_other_trials_reported(
    space: Path, play: Callable[..., Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    play()
    assert sweeping(space) == cli.DONE
    ledger = Ledger(space.parent / "results" / "small")
    cut, *_ = sorted(ledger.path("trials").glob("*.parquet"))
    cut.write_bytes(cut.read_bytes()[:-20])
    foreign = ledger.path("trials", "foreign.parquet")
    pq.write_table(pa.table({"weather": ["rain"]}), foreign)
    capsys.readouterr()
    assert cli.guarded(lambda: writer.main([str(ledger.root)])) == cli.DONE
    written = (ledger.root / "report" / "report.md").read_text()
    assert cut.name in written
    assert foreign.name in written
    said = status.render(status.collect(ledger))
    assert f"unreadable, left out: {cut}" in said
    assert "2 of 3 trials have ended" in said
    assert len(ledger.rows()) == 2


def test_a_truncated_checkpoint_is_reported_and_training_restarts(context: StudyContext) -> None:
    config = study_files.wrapped(small())
    trial = Trial("half", study="fake", arm="search", seed=0, config=config, params={})
    said: list[str] = []

    def interrupt(progress: Any) -> Verdict:
        return Verdict.INTERRUPT if progress.tokens_seen else Verdict.CONTINUE

    assert run_trial(trial, context=context, tell=interrupt) is None
    folder = context.ledger.checkpoint_dir(trial.trial_id)
    (weights,) = folder.glob("step-*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    row = run_trial(trial, context=context, tell=lambda now: said.append(now.warning) or Verdict.CONTINUE)
    assert row is not None
    assert (row.status, row.attempt) == ("completed", 2)
    assert "step-4 is damaged" in said[0]
    assert said[0].endswith("step 0")
    assert set(said[1:]) == {""}
    whole = dataclasses.replace(trial, trial_id="whole")
    assert run_trial(whole, context=context, tell=lambda _: Verdict.CONTINUE) is not None
    losses = [context.ledger.history(name)["losses"].to_pylist() for name in ("half", "whole")]
    assert losses[0] == losses[1]


# ---- the clock


def test_a_wall_clock_that_jumps_back_changes_no_duration(
    space: Path, play: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reading of the wall clock is an hour before the last one."""

    class Backwards(datetime):
        hours = 0

        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # noqa: ARG003 - always UTC here
            cls.hours += 1
            return datetime(2026, 1, 2, tzinfo=UTC) - timedelta(hours=cls.hours)

    for module in (trial_module, sys.modules["ablate.records.ledger"], inline, lifecycle):
        monkeypatch.setattr(module, "datetime", Backwards)
    play("complete", "silent", "complete")
    assert sweeping(space, "--set", "resources.stall_minutes=0.01") == cli.DONE
    ledger = Ledger(space.parent / "results" / "small")
    rows = ledger.rows()
    assert sorted(row.status for row in rows) == ["completed", "completed", "timeout"]
    assert all(row.finished_at < row.started_at for row in rows), "the clock did jump"
    assert all(0 <= row.wall_s < 10 for row in rows)
    assert cli.guarded(lambda: writer.main([str(ledger.root)])) == cli.DONE
    assert status.collect(ledger).states == {"completed": 2, "timeout": 1}
    assert study_reader.history(ledger.root, metrics=study_files.METRICS)[1] == []


def test_a_trial_ended_by_the_watchdog_has_all_its_events(context: StudyContext) -> None:
    events: list[Event] = []
    source = ListSource([fake_trial(0), fake_trial(1)])
    limited = dataclasses.replace(context, limits=Limits(stall_s=0.5))
    train = FakeTrain({0: "silent", 1: "complete"}, folder=context.ledger.root)
    InlineRunner(limited, halt=Halt(), on_event=events.append, train=train).run(source)
    assert [event.kind for event in events if event.trial.seed == 0] == ["started", "reported", "ended"]
    assert [event.row.status for event in events if event.row] == ["timeout", "completed"]
