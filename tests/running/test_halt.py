"""How a study is asked to stop: by signals, from a thread, and by the process that it takes the place of."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ablate import cli, sweep
from ablate.running.runner import ASKING, Halt, undisturbed
from tests import ROOT
from tests.fakes import Scripted


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """Nothing is ignored that pytest was told to ignore (nohup, a job in the background)."""
    ignored = [number for number in ASKING if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.mark.parametrize("number", ASKING)
def test_the_first_signal_asks_and_the_second_interrupts(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Halt() as halt:
        os.kill(os.getpid(), number)
        assert halt.reason == "signal"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(number) is before


def test_no_signal_cuts_an_import_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a module would stay behind, and torch's import may end the process."""
    tmp_path.joinpath("asked_thrice.py").write_text(
        "import os, signal\nfor _ in range(3):\n    os.kill(os.getpid(), signal.SIGINT)\nwhole = True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with Halt() as halt:
        assert importlib.import_module("asked_thrice").whole
        assert halt.reason == "signal"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", sorted(set(ASKING) - {signal.SIGINT, signal.SIGTERM}))
def test_a_signal_that_nohup_ignores_is_ignored(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with Halt() as halt:
            os.kill(os.getpid(), number)
            assert halt.reason is None
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGQUIT, signal.SIGXCPU])
def test_a_batch_systems_warning_ends_a_sweep_that_trains(
    number: signal.Signals,
    space: Path,
    play: Callable[..., Scripted],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Slurm's `--signal=USR1@60`, a quit of the terminal, a soft limit of CPU seconds; the watchdog watches."""
    play("until_stopped").asks = number
    argv = [str(space), "--results", str(space.parent / "results"), "--inline"]
    assert cli.guarded(lambda: sweep.main(argv)) == cli.INTERRUPTED
    assert capsys.readouterr().err.splitlines()[-1].startswith("interrupted: 0 of 3 trials have ended; resume")


@pytest.mark.parametrize("number", ASKING)
def test_nothing_disturbs_what_must_come_to_its_end(number: signal.Signals) -> None:
    with Halt() as halt:
        with undisturbed():
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)
        assert halt.reason is None
        os.kill(os.getpid(), number)
        assert halt.reason == "signal", "the handlers are there again"


@pytest.mark.parametrize("number", ASKING)
def test_a_third_signal_leaves_the_end_of_a_study_whole(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Halt() as halt:
        halt.settle()
        os.kill(os.getpid(), number)
        assert halt.reason == "signal", "a study that may continue is not settled"
        halt.settle()
        os.kill(os.getpid(), number)
        halt.abandon("Ray is gone")  # while it is shut down
    assert signal.getsignal(number) is before


def test_a_halt_that_is_abandoned_interrupts_at_once_and_says_why() -> None:
    with Halt() as halt:
        with pytest.raises(KeyboardInterrupt):
            halt.abandon("Ray is gone")
        assert halt.abandoned
        assert (halt.reason, halt.fault) == ("fault", "Ray is gone")


REPLACED = """
import threading, time
from ablate.running.runner import Halt
halt = Halt()
if halt.abandoned:
    print(halt.fault, flush=True)
else:
    threading.Thread(target=Halt.start_over, args=("Ray is gone",)).start()
    time.sleep(60)
"""


def test_a_process_that_cannot_be_interrupted_is_replaced_by_the_same_command() -> None:
    with subprocess.Popen([sys.executable, "-c", REPLACED], cwd=ROOT, stdout=subprocess.PIPE, text=True) as started:
        out, _ = started.communicate(timeout=30)
    assert (started.returncode, out) == (0, "Ray is gone\n")


def test_the_process_that_takes_its_place_writes_the_report_and_trains_nothing(
    space: Path,
    play: Callable[..., Scripted],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    argv = [str(space), "--results", str(space.parent / "results"), "--inline"]
    train = play("complete", "until_stopped")
    assert cli.guarded(lambda: sweep.main(argv)) == cli.INTERRUPTED
    trained = len(train.configs)
    capsys.readouterr()
    monkeypatch.setenv("ABLATE_FAULT", "raylet has died")
    assert cli.guarded(lambda: sweep.main(argv)) == cli.INTERRUPTED
    out, err = capsys.readouterr()
    assert err == "raylet has died: 1 of 3 trials have ended; resume with the same command and --resume\n"
    assert out.splitlines()[-1].startswith("report: ")
    assert len(train.configs) == trained
    assert cli.guarded(lambda: sweep.main([*argv, "--resume"])) == cli.DONE, "the variable is used once"
