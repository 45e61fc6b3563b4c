"""Two sweeps on one study: the second is refused with the holder of the lock; a dead process holds no lock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ablate import cli, status
from ablate.errors import BadInput
from ablate.records.ledger import Ledger
from ablate.study import lock
from tests import ROOT
from tests.commands.test_sweep import run as sweeping
from tests.fakes import Scripted


def test_the_second_sweep_is_refused_and_names_the_first(
    space: Path, play: Callable[..., Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    play("complete", "until_stopped")
    assert sweeping(space) == cli.INTERRUPTED
    ledger = Ledger(space.parent / "results" / "small")
    with lock.hold(ledger):
        capsys.readouterr()
        assert sweeping(space, "--resume") == cli.BAD_INPUT
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        held = json.loads(ledger.path("driver.lock").read_text())
        assert held["pid"] == os.getpid()
        assert f"process {os.getpid()} on {held['host']}, since {held['since']}" in said
        with pytest.raises(BadInput, match="another sweep is running it"), lock.hold(ledger):
            pass
        assert json.loads(ledger.path("driver.lock").read_text()) == held, "the second does not overwrite it"
        assert f"process {os.getpid()} on" in status.render(status.collect(ledger))
    play()
    assert sweeping(space, "--resume") == cli.DONE


def test_a_dead_process_does_not_hold_the_lock(space: Path, play: Callable[..., Scripted]) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom ablate.study import lock\n"
        "from ablate.records.ledger import Ledger\n"
        "with lock.hold(Ledger(Path(sys.argv[1]))): print('held', flush=True); time.sleep(60)\n"
    )
    root = space.parent / "results" / "small"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(root)], env=env, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert lock.is_held(Ledger(root))
        assert str(holder.pid) in lock.holder(Ledger(root))
        holder.kill()
    assert not lock.is_held(Ledger(root))
    play()
    assert sweeping(space) == cli.DONE
