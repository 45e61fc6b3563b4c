"""A command of the user's: its template, its environment, every way to report, and every way to go wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ablate.trainers.own import command
from tests import ROOT
from tests.trainers.own.studies import COMMAND, run, train, write

NANO = """
    import sys
    from model import start

    given = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
    x = start(int(given["seed"]))
    for step in range(int(given["steps"]) + 1):
        if step % 10 == 0:
            print(f"step {step}: train loss {x:.4f}, val loss {(x - 3) ** 2:.4f}, accuracy 50.0")
        x -= float(given["lr"]) * (x - 3)
"""
MODEL = """
    import random

    def start(seed):
        return random.Random(seed).gauss(0, 1)
"""
LINES = r"reports: {pattern: 'step (?P<steps>\d+):.* val loss (?P<val_loss>[-0-9.]+), accuracy (?P<accuracy>[0-9.]+)'}"

JSON = """
    import json, os
    params, budget = json.loads(os.environ["ABLATE_PARAMS"]), int(os.environ["ABLATE_BUDGET"])
    assert os.environ["ABLATE_SEED"] == os.environ["ABLATE_DATA_SEED"] == "0"
    print("a line that is no report")
    print(json.dumps({"other": "object"}))
    for step in (budget // 2, budget):
        print(json.dumps({"steps": step, "val_loss": params["lr"], "accuracy": 1}))
"""
BY_FILE = """
    import json, os, pathlib
    with pathlib.Path(os.environ["ABLATE_FOLDER"], "metrics.jsonl").open("a") as file:
        for step in (20, 40):
            print(json.dumps({"steps": step, "val_loss": 0.5, "accuracy": 1}), file=file, flush=True)
"""
BY_IMPORT = """
    import ablate
    for step in (20, 40):
        ablate.report(step, val_loss=0.5, accuracy=1)
"""


@pytest.mark.parametrize(
    ("script", "more"),
    [(NANO, LINES), (JSON, ""), (BY_FILE, "reports: {file: metrics.jsonl}"), (BY_IMPORT, "")],
    ids=["pattern", "json", "file", "import"],
)
def test_every_way_to_report(tmp_path: Path, script: str, more: str) -> None:
    path = write(tmp_path, script, how=f"{COMMAND}\n  {more}", model=MODEL)
    ledger = train(path)
    rows = ledger.rows()
    assert [row.error for row in rows] == [None, None]
    assert all(row.metrics["val_loss"] >= 0 and row.metrics["peak_rss_gib"] > 0 for row in rows)
    assert ledger.history(rows[0].trial_id).column("step").to_pylist()[-2:] in ([20, 40], [30, 40])


def test_its_output_is_the_trials_log(tmp_path: Path) -> None:
    script = "import sys\nprint('to stdout')\nprint('to stderr', file=sys.stderr)\n" + JSON.replace("\n    ", "\n")
    ledger = train(write(tmp_path, script, how=COMMAND))
    log = ledger.log(ledger.rows()[0].trial_id, attempt=1)
    assert "to stdout\n" in log
    assert "to stderr\n" in log


@pytest.mark.parametrize(
    ("script", "status", "said"),
    [
        ("raise ValueError('no data')", "error", "the command exited with status 1: ValueError: no data"),
        ("import sys\nsys.exit(7)", "error", "the command exited with status 7"),
        ("print('hello')", "error", "it ended without a report"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "error", "killed by SIGKILL; perhaps the memory"),
        ('print(\'{"steps": 40, "val_loss": NaN, "accuracy": 1}\')', "nan", "val_loss is nan at 40 steps"),
        ('print(\'{"steps": 40, "val_loss": "low"}\')', "error", "val_loss is 'low', not a number"),
        ('print(\'{"steps": 40, "other": 1}\')', "error", "'other' is not declared"),
        ('print(\'{"steps": 30, "val_loss": 1, "accuracy": 1}\')', "error", "last report is at 30 of 40 steps"),
        ("raise RuntimeError('CUDA out of memory. Tried to allocate')", "oom", "CUDA out of memory"),
        ("def broken(:", "error", "SyntaxError"),
    ],
)
def test_what_is_broken_ends_in_its_row(
    tmp_path: Path, script: str, status: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_LAST_S", 0.1)
    ledger = train(write(tmp_path, script, how=COMMAND))
    assert [row.status for row in ledger.rows()] == [status] * 2
    assert all(said in (row.error or "") for row in ledger.rows()), ledger.rows()[0].error


def test_children_that_it_leaves_behind_are_ended(tmp_path: Path) -> None:
    """In its group, and in a session of their own; a child that holds the output open ends nothing later."""
    script = """
        import subprocess, sys
        sleep = [sys.executable, "-c", "import time; time.sleep(300)", "LEFT-BEHIND-4711"]
        subprocess.Popen(sleep)
        subprocess.Popen(sleep, start_new_session=True)
        print('{"steps": 40, "val_loss": 1, "accuracy": 1}')
    """
    began = time.monotonic()
    ledger = train(write(tmp_path, script, how=COMMAND))
    assert {row.status for row in ledger.rows()} == {"completed"}
    assert time.monotonic() - began < 100
    assert [
        each for each in psutil.process_iter(["cmdline"]) if "LEFT-BEHIND-4711" in (each.info["cmdline"] or [])
    ] == []


def test_a_hundred_megabytes_of_output_are_read_and_not_kept(tmp_path: Path) -> None:
    script = """
        import sys
        for _ in range(25):
            sys.stdout.write("x" * 4_000_000)
        sys.stdout.write("\\n")
        print('{"steps": 40, "val_loss": 1, "accuracy": 1}')
    """
    more = "search: {lr: {choice: [0.1]}}\noptimizer: {sampler: random, trials: 1}"
    ledger = train(write(tmp_path, script, how=COMMAND, more=more))
    log = ledger.log(ledger.rows()[0].trial_id, attempt=1)
    assert len(log) < 5_000_000
    assert "bytes are left out" in log
    assert log.rstrip().endswith('"accuracy": 1}')


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "STOP_S", 0.5)
    script = """
        import json, os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for step in (10, 20, 30, 40):
            print(json.dumps({"steps": step, "val_loss": json.loads(os.environ["ABLATE_PARAMS"])["lr"], "accuracy": 1}))
            time.sleep(0 if step == 40 or json.loads(os.environ["ABLATE_PARAMS"])["lr"] < 0.2 else 100)
    """
    more = "search: {lr: {choice: [0.1, 0.2]}}\noptimizer: {sampler: random, trials: 2, seed: 2}\n"
    more += "early_stopping: {asha: {min_tokens: 10, reduction: 2}}"
    ledger = train(write(tmp_path, script, how=COMMAND, more=more))
    assert {row.params["lr"]: row.status for row in ledger.rows()} == {0.1: "completed", 0.2: "pruned"}


@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGTERM"])
def test_a_command_ends_with_the_process_that_wanted_it(tmp_path: Path, signal_name: str) -> None:
    script = """
        import time
        print('{"steps": 10, "val_loss": 1, "accuracy": 1}', flush=True)
        time.sleep(300)
    """
    path = write(tmp_path, script, how=f"{COMMAND} ENDS-WITH-{signal_name}")
    arguments = [sys.executable, "-m", "ablate.sweep", str(path), "--results", str(tmp_path / "results"), "--inline"]

    def running() -> list[int]:
        words = ((each.pid, each.info["cmdline"] or []) for each in psutil.process_iter(["cmdline"]))
        return [pid for pid, line in words if f"ENDS-WITH-{signal_name}" in line]

    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as sweeping:
        until = time.monotonic() + 60
        while len(running()) < 2 and time.monotonic() < until:  # the supervisor and the command
            time.sleep(0.1)
        assert len(running()) == 2
        sweeping.send_signal(signal.Signals[signal_name])
        if signal_name == "SIGTERM":
            time.sleep(0.5)
            sweeping.terminate()  # a second one ends at once
        sweeping.wait(60)
    until = time.monotonic() + 15
    while running() and time.monotonic() < until:
        time.sleep(0.1)
    assert running() == []


def test_a_template_is_filled_word_by_word(tmp_path: Path) -> None:
    """A value with spaces, quotes or a semicolon stays one argument: no shell reads it."""
    script = """
        import json, sys
        json.dump(sys.argv[1:], open("given.json", "w"))
        print('{"steps": 40, "val_loss": 1, "accuracy": 1}')
    """
    path = write(tmp_path, script, how="command: python train.py {norm} --x={lr}:{budget} '{seed}'")
    run(path, "--set", "trainer.parameters.norm=a b; rm -rf $HOME 'c'")
    assert json.loads((tmp_path / "given.json").read_text()) == ["a b; rm -rf $HOME 'c'", "--x=0.1:40", "0"]
