"""The next start ends the processes that a killed driver left running, and no others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ablate.running.ray import orphans, session_folder
from ablate.running.ray.orphans import Session
from tests import ROOT

AGENT = "exec -a {name} sleep 300 > {log}"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A session's folder in its own temporary folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = tmp_path / f"{session_folder.PREFIX}abc"
    made.mkdir()
    return made


@pytest.fixture
def dead() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.fixture
def processes(folder: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """An agent of the session, an agent of another session, and a process that reads the session's log."""
    other = folder.with_name(f"{folder.name}d")
    other.mkdir()
    commands = {
        "agent": AGENT.format(name="ray::DashboardAgent", log=folder / "agent.log"),
        "other agent": AGENT.format(name="ray::DashboardAgent", log=other / "agent.log"),
        "reader": f"exec tail -f {folder}/agent.log > /dev/null",
    }
    (folder / "agent.log").touch()
    started = {name: subprocess.Popen(["bash", "-c", command]) for name, command in commands.items()}
    end = time.monotonic() + 30
    while not all(_is_started(psutil.Process(one.pid).cmdline()) for one in started.values()):
        assert time.monotonic() < end
        time.sleep(0.01)
    yield started
    for one in started.values():
        one.kill()
        one.wait()


def _is_started(words: list[str]) -> bool:
    """Whether bash has become the program that it was told to exec."""
    return bool(words) and words[0] != "bash"


def test_the_agents_of_a_dead_session_are_ended_and_its_folder_removed(
    folder: Path, dead: int, processes: dict[str, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    note = tmp_path / "session.json"
    replace(Session.ours(folder), pid=dead).write(note)
    assert orphans.end(note) == [processes["agent"].pid]
    assert not psutil.pid_exists(processes["agent"].pid)
    assert processes["other agent"].poll() is None
    assert processes["reader"].poll() is None
    assert not folder.exists()
    assert orphans.end(note) == [], "no process is left"


@pytest.mark.parametrize("case", ["alive", "another host", "elsewhere", "another name", "a link", "no note", "garbage"])
def test_processes_that_may_not_be_ours_are_not_ended(
    case: str, folder: Path, dead: int, processes: dict[str, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    """A note may come with results from another machine, with any content."""
    note, session = tmp_path / "session.json", replace(Session.ours(folder), pid=dead)
    match case:
        case "alive":
            session = Session.ours(folder)
        case "another host":
            session = replace(session, host="example")
        case "elsewhere":
            session = replace(session, folder=Path("/"))
        case "another name":
            session = replace(session, folder=tmp_path)
        case "a link":
            link = folder.with_name(f"{session_folder.PREFIX}link")
            link.symlink_to(tmp_path)
            session = replace(session, folder=link)
    if case == "garbage":
        note.write_text(json.dumps({"folder": 1}))
    elif case != "no note":
        session.write(note)
    assert orphans.end(note) == []
    assert processes["agent"].poll() is None
    assert folder.exists()


def test_a_driver_whose_process_id_was_reused_is_dead(folder: Path) -> None:
    ours = Session.ours(folder)
    assert not ours.dead
    assert replace(ours, began=ours.began - 100).dead


KILLED = """
import os, signal
from pathlib import Path
from ablate.running.ray.cluster import connect
with connect("killed", cpus=2, note=Path({note!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_the_next_start_ends_the_agents_of_a_killed_driver(tmp_path: Path) -> None:
    note = tmp_path / "session.json"
    done = subprocess.run([sys.executable, "-c", KILLED.format(note=str(note))], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    session = Session.read(note)
    assert session is not None
    ended = orphans.end(note)
    assert ended, "Ray left agents behind; if a later Ray does not, delete this module"
    assert not session.folder.exists()
    assert not [pid for pid in ended if psutil.pid_exists(pid)]
    assert os.getpid() not in ended
