"""The real command on a private Ray, in a session and a temporary folder of its own: what it leaves behind is seen."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ablate import cli
from ablate.records.ledger import Ledger
from benchmarks.instruments import victims
from benchmarks.instruments.victims import Kind
from tests import study_files
from tests.processes import command, wait_for

STUDY = study_files.tiniest("ends", trials=4, tokens=200_000, report_every=20)
"""Trials of some seconds, two at once on two cores."""


@dataclass
class Sweeps:
    """Sweeps of one study, one after the other. `root`: their results; `temporary`: what Ray leaves would be here."""

    root: Path
    temporary: Path
    environment: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.root / "results" / "ends")

    def start(self, *flags: str) -> subprocess.Popen[str]:
        """The command, at the head of its own process group, as a terminal and `timeout` start it."""
        space = self.root / "ends.yaml"
        space.write_text(STUDY)
        flags = (str(space), "--results", str(self.root / "results"), *flags)
        environment = {"TMPDIR": str(self.temporary), **self.environment}
        sweeping = command([*flags], cwd=self.root, mark=self.temporary, **environment)
        self.started.append(sweeping)
        return sweeping

    def reports(self) -> int:
        """How many reports all trials have made."""
        return self.ledger.history(columns=["step"], repeats=True).num_rows

    def kill(self, kind: Kind, sweeping: subprocess.Popen[str]) -> bool:
        """SIGKILL for one process of this kind, as soon as there is one; False where the sweep ends before.

        Ray's own processes are killed from the moment on that the sweep has joined them. In the tenths of a second
        before, Ray's C++ ends the sweep by itself.
        """
        if kind == "driver":
            sweeping.kill()
            return True
        while sweeping.poll() is None:
            if kind in ("raylet", "gcs_server") and not victims.is_joined(self.temporary):
                time.sleep(0.05)
                continue
            for process in victims.find(kind, root=self.temporary, spare=None):
                if victims.kill(process):
                    return True
            time.sleep(0.05)
        return False

    def left(self) -> list[str]:
        """The processes that still run, and the folders that still stand."""
        running = [f"{process.pid} {' '.join(words)[:120]}" for process, words in victims.left(self.temporary)]
        return running + [str(path) for path in self.temporary.iterdir()]

    def wait_until_nothing_is_left(self) -> None:
        wait_for(lambda: not self.left(), seconds=30, what=self.left)


@contextmanager
def sweeps(root: Path) -> Iterator[Sweeps]:
    """Sweeps below `root`. At the end no process is left, whatever the test has found."""
    temporary = Path(tempfile.mkdtemp(prefix="s-", dir="/tmp"))
    made = Sweeps(root, temporary)
    try:
        yield made
    finally:
        for sweeping in made.started:
            if sweeping.poll() is None:
                sweeping.kill()
                sweeping.communicate()
        for process, _ in victims.left(temporary):
            victims.kill(process)
        shutil.rmtree(temporary, ignore_errors=True)


def check_end(sweeping: subprocess.Popen[str], *, line: str, seconds: float = 120) -> None:
    """The sweep ends in time, with 130, the report, and one line on stderr beside those of the study's course."""
    out, err = sweeping.communicate(timeout=seconds)
    assert sweeping.returncode == cli.INTERRUPTED, err
    assert out.splitlines()[-1].startswith("report: "), out + err
    course = re.compile(r"dashboard: |\[\d+/\d+\] |\d+ planned: ")
    said = [one for one in err.splitlines() if not course.match(one)]
    assert len(said) == 1, err
    assert line in said[0]
    assert "resume with the same command and --resume" in said[0]


def signal_group(sweeping: subprocess.Popen[str], number: signal.Signals) -> None:
    """What Ctrl-C, `timeout` and scancel do. Nothing where the sweep has ended."""
    if sweeping.poll() is None:
        os.killpg(sweeping.pid, number)
