"""A study in a bucket from beginning to end, in real processes: killed, gone on with elsewhere, reported, verified."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pyarrow import fs

from ablate import cli
from ablate.records import object_store, store
from ablate.records.ledger import Ledger
from ablate.records.locations import Url
from tests import ROOT, study_files
from tests.records import s3

STUDY = """\
study: small
base:
  preset: tiny
  data: {corpus: facts}
  train.tokens: 40_960
  train.report_every: 10
  train.checkpoint_every: 1
search:
  model.ema_decay: {one_minus_loguniform: [0.3, 0.999]}
optimizer: {sampler: random, startup: 1, trials: 2, seed: 0}
tracking: {swanlab: disabled}
"""


def command(*words: str, folder: Path, machine: str = "here") -> subprocess.Popen[str]:
    """A command of ablate, as it runs on a machine with copies of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=folder,
        env={
            **os.environ,
            "XDG_CACHE_HOME": str(folder / machine),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], code: int) -> str:
    """What a command answers; it must end with this exit code."""
    out, err = process.communicate(timeout=280)
    assert process.returncode == code, err
    assert s3.KEYS["AWS_SECRET_ACCESS_KEY"] not in out + err
    return out if code == cli.DONE else err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_in_a_bucket(bucket: Url, tmp_path: Path):
    study_files.write(tmp_path, STUDY)
    sweep = ("ablate.sweep", "study.yaml", "--inline", "--results", str(bucket))
    where = ("small", "--results", str(bucket))
    ledger = Ledger(bucket / "small")

    running = command(*sweep, folder=tmp_path)
    end = time.monotonic() + 280
    while ledger.history().num_rows < 3:  # the first report's checkpoint was uploaded with the second
        assert running.poll() is None, running.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.2)
    running.send_signal(signal.SIGSTOP)  # or it may be done before the next command has begun
    assert "another sweep is running it" in ended(
        command(*sweep, "--resume", folder=tmp_path, machine="there"), cli.BAD_INPUT
    )
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert "add --resume" in ended(command(*sweep, folder=tmp_path, machine="there"), cli.BAD_INPUT)
    said = ended(command("ablate.status", *where, folder=tmp_path, machine="there"), cli.DONE)
    assert "no sweep is running it" in said
    assert "unfinished" in said

    answer = ended(command(*sweep, "--resume", folder=tmp_path, machine="there"), cli.DONE)
    assert f"report: {bucket}/small/report/report.md" in answer
    rows = {row.trial_id: row for row in ledger.rows()}
    assert [row.status for row in rows.values()] == ["completed"] * 2
    (gone_on,) = (row for row in rows.values() if row.attempt == 2)
    steps = ledger.history(gone_on.trial_id).to_pylist()
    assert {line["attempt"] for line in steps} == {1, 2}, "it went on from the checkpoint in the bucket"

    verify = ("ablate.rerun", *where, "--trial", gone_on.trial_id, "--verify")
    assert ended(command(*verify, folder=tmp_path), cli.DONE) == "identical: 80 steps\n", "bit for bit"
    told = ended(command("ablate.report", "latest", "--results", str(bucket), folder=tmp_path), cli.DONE)
    assert told.startswith(f"{bucket}/small/report\n2 of 2 planned trials have ended")
    names = store.at(bucket / "small").names("report")
    assert {"report.md", "report.html", "report.tex", "trials.csv"} <= set(names)

    files = object_store.connect(bucket)
    found = files.get_file_info(fs.FileSelector(f"{bucket.bucket}/{bucket.key}", recursive=True))
    contents = {info.path: files.open_input_stream(info.path).read() for info in found if info.is_file}
    assert len(contents) > 20
    for path, content in contents.items():
        assert not path.endswith(".tmp")
        assert s3.KEYS["AWS_SECRET_ACCESS_KEY"].encode() not in content, path
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or s3.KEYS["AWS_SECRET_ACCESS_KEY"].encode() not in path.read_bytes(), path
    assert "driver.lock" not in {Path(path).name for path in contents}
