"""A trial whose process is killed by SIGKILL between two steps resumes to bit-for-bit the same result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ablate.records.ledger import Ledger
from ablate.running.trial import StudyContext, run_trial
from ablate.trainers import Verdict
from ablate.trials.trial import Trial, trial_id
from tests import ROOT
from tests.model.test_training import comparable, small
from tests.study_files import METRICS, wrapped

VARIANTS: dict[str, dict[str, Any]] = {
    "token": {},
    "sparse_cache": {"model__ema_state": "sparse_cache"},
    "refresh": {"model__refresh": "frequency"},
    "vector": {"model__memory": "vector"},
    "accumulation": {"train__accumulation_steps": 2},
}

LENGTH: dict[str, Any] = {"train__tokens": 128 * 200, "train__report_every": 4, "train__checkpoint_every": 3}
"""Fifty reports, a checkpoint every third."""

REPORTS = 8
"""Reports before the kill. The last checkpoint is then that of report 6, or of report 9 if the kill comes late."""


def trial_of(variant: str) -> Trial:
    config = wrapped(small(**LENGTH, **VARIANTS[variant]))
    name = trial_id("search", config, config["train.seed"])
    return Trial(name, study="killed", arm="search", seed=config["train.seed"], config=config, params={})


def context_at(folder: Path) -> StudyContext:
    return StudyContext(Ledger(folder, METRICS), swanlab="disabled", objective="val_loss", git_commit=None)


def resume(variant: str, folder: Path) -> None:
    """Train the trial from its last checkpoint, if any, to its end. The process that is killed calls this too."""
    run_trial(trial_of(variant), context=context_at(folder), tell=lambda _: Verdict.CONTINUE)


def kill_midway(variant: str, folder: Path) -> int:
    """Train in a process of its own and kill it. Returns the number of reports it had made."""
    program = "import sys, pathlib, tests.running.test_killed as t; t.resume(sys.argv[1], pathlib.Path(sys.argv[2]))"
    process = subprocess.Popen([sys.executable, "-c", program, variant, str(folder)], cwd=ROOT)
    name, ledger, end = trial_of(variant).trial_id, Ledger(folder), time.monotonic() + 240
    while ledger.history(name, columns=["step"]).num_rows < REPORTS:
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < end, "it never reported"
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert ledger.row(name) is None
    return ledger.history(name).num_rows


@pytest.mark.parametrize(
    "variant",
    [pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS],  # tests/model/test_resume.py interrupts, quickly
)
def test_a_killed_trial_resumes_bit_for_bit(variant: str, tmp_path: Path) -> None:
    trial, whole, parts = trial_of(variant), tmp_path / "whole", tmp_path / "parts"
    reported = kill_midway(variant, parts)
    assert REPORTS <= reported < 50
    (saved,) = (path for path in Ledger(parts).checkpoint_dir(trial.trial_id).iterdir() if path.suffix != ".tmp")
    resumed_from = int(saved.name.removeprefix("step-"))
    assert 0 < resumed_from <= 4 * reported

    resume(variant, parts)
    resume(variant, whole)
    resumed, uninterrupted = (Ledger(folder).row(trial.trial_id) for folder in (parts, whole))
    assert resumed is not None
    assert uninterrupted is not None
    assert (resumed.attempt, uninterrupted.attempt) == (2, 1)
    histories = [Ledger(folder).history(trial.trial_id).to_pylist() for folder in (parts, whole)]
    assert {row["attempt"] for row in histories[0]} == {1, 2}
    assert min(row["step"] for row in histories[0] if row["attempt"] == 2) > resumed_from
    losses = [[loss for row in history for loss in row["losses"]] for history in histories]
    assert len(losses[1]) == 200
    assert losses[0] == losses[1]
    assert [row["val_loss"] for row in histories[0]] == [row["val_loss"] for row in histories[1]]
    assert comparable(resumed.metrics) == comparable(uninterrupted.metrics)
    samples = [json.loads(Ledger(f).path("samples", f"{trial.trial_id}.json").read_text()) for f in (parts, whole)]
    assert samples[0] == samples[1]
    for name in ("model.safetensors", "optimizer.safetensors"):  # weights, bank and moments
        bytes_of = [(Ledger(f).checkpoint_dir(trial.trial_id) / "step-200" / name).read_bytes() for f in (parts, whole)]
        assert bytes_of[0] == bytes_of[1], name
