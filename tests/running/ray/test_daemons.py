"""Ray's processes, played by others: they stand in sessions of their own, and their death is told once."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray._private.services

from ablate.running.ray.daemons import Daemons
from tests.processes import wait_for


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def running(tmp_path: Path, told: list[str]) -> Iterator[tuple[Daemons, dict[str, subprocess.Popen[bytes]]]]:
    """A raylet, a server and a monitor of logs that were started as `ray.init` starts them."""
    heard = Daemons(told.append, stuck=told.append, temporary=tmp_path)
    started = {}
    with heard.starting():
        for name in ("raylet", "gcs_server", "log_monitor"):
            (tmp_path / name).symlink_to("/bin/sleep")
            started[name] = ray._private.services.ConsolePopen([str(tmp_path / name), "60"], env=dict(os.environ))
    yield heard, started
    for process in started.values():
        process.kill()
        process.wait()


Running = tuple[Daemons, dict[str, subprocess.Popen[bytes]]]


def end(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGKILL) -> None:
    """End a process that nobody watches, without collecting it: a watcher would do that."""
    process.send_signal(how)
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        pass


def test_only_the_raylet_whose_children_the_trials_are_keeps_the_temporary_folder(
    running: Running, tmp_path: Path
) -> None:
    _, started = running
    given = {name: psutil.Process(process.pid).environ().get("TMPDIR") for name, process in started.items()}
    assert given == {"raylet": os.environ.get("TMPDIR"), "gcs_server": str(tmp_path), "log_monitor": str(tmp_path)}


def test_every_process_is_in_a_session_of_its_own_and_later_ones_are_not(running: Running) -> None:
    _, started = running
    assert [os.getsid(process.pid) for process in started.values()] == [process.pid for process in started.values()]
    later = ray._private.services.ConsolePopen(["sleep", "60"])
    try:
        assert os.getsid(later.pid) == os.getsid(0)
    finally:
        later.kill()
        later.wait()


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_death_is_told_once_with_its_cause(name: str, how: signal.Signals, running: Running, told: list[str]) -> None:
    heard, started = running
    with heard:
        heard.watch()
        started[name].send_signal(how)
        wait_for(lambda: bool(told), seconds=30)
    assert told == [f"{name}, a process of Ray, has died ({how.name})"]


def test_the_death_of_a_helper_or_of_nobody_is_not_told(running: Running, told: list[str]) -> None:
    heard, started = running
    with heard:
        heard.watch()
        end(started["log_monitor"])
    assert told == []
    end(started["raylet"])
    assert told == [], "what dies after the context was ended on purpose"


def test_an_error_of_ray_after_a_death_ends_the_study_as_an_interruption_does(
    running: Running, told: list[str]
) -> None:
    heard, started = running
    end(started["raylet"])
    with pytest.raises(KeyboardInterrupt), heard:  # Ray was still starting: nobody watches
        raise RuntimeError("a hundred lines of C++")
    assert told == ["raylet, a process of Ray, has died (SIGKILL)"]


def test_an_error_without_a_death_stays(running: Running, told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablate.running.ray.daemons._CAUSE_S", 0.1)
    heard, _ = running
    with pytest.raises(RuntimeError, match="our own"), heard:
        raise RuntimeError("our own")
    assert told == []


def test_a_main_thread_that_waits_in_c_is_not_waited_for(
    running: Running, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ablate.running.ray.daemons._LEAVE_S", 0.1)
    heard, started = running
    with heard:
        heard.watch()
        started["gcs_server"].kill()  # the watcher collects it, maybe before anybody could look
        assert heard._watcher is not None
        heard._watcher.join(timeout=30)
    assert told == ["gcs_server, a process of Ray, has died (SIGKILL)"] * 2
