"""The real sweep command as a process of its own, what it leaves running, and waiting for what it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.instruments import victims
from tests import ROOT


def command(flags: list[str], *, cwd: Path, mark: Path | None = None, **environment: str) -> subprocess.Popen[str]:
    """Start the command at the head of its own process group, as a terminal and `timeout` do. `mark`: the folder by
    which `victims.left` finds all that it starts, the current one by default."""
    return subprocess.Popen(
        [sys.executable, "-m", "ablate.sweep", *flags],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), victims.MARK: str(mark or cwd), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_as_in_a_terminal,
    )


def _as_in_a_terminal() -> None:
    """Heed the signals that pytest may have been told to ignore (nohup, a job in the background)."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def wait_for(condition: Callable[[], bool], *, seconds: float, what: Callable[[], object] = str) -> None:
    """Poll until `condition` holds; fail after `seconds`, and show `what` there is instead."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.1)
