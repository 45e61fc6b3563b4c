"""Ends the processes that the private Ray of a killed driver leaves running.

Ray's processes watch their parents and end with them, except for two agents per node (dashboard, runtime environments),
which were still running half a minute after the driver, its head and its workers. Every session has its own folder
(session_folder.py). Its path is noted in the study before Ray starts, and a Ray process that has a file
of that folder open belongs to that session.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from ablate.records import json_files
from ablate.records.atomic_files import Unreadable
from ablate.running.ray import session_folder

_TERMINATE_S = 5.0


@dataclass(frozen=True)
class Session:
    """A private Ray: its folder, and the driver that started it (`began`: seconds of the epoch)."""

    folder: Path
    host: str
    pid: int
    began: float

    @classmethod
    def ours(cls, folder: Path) -> Session:
        """The session that this process is about to start."""
        return cls(folder, socket.gethostname(), os.getpid(), psutil.Process().create_time())

    @classmethod
    def read(cls, note: Path) -> Session | None:
        """The session in `note`; None if there is no file or it does not describe a session."""
        try:
            stored = json_files.read(note)
            return cls(Path(stored["folder"]), str(stored["host"]), int(stored["pid"]), float(stored["began"]))
        except (Unreadable, ValueError, TypeError, KeyError):
            return None

    def write(self, note: Path) -> None:
        """Write the note by which a later process finds this session if this one is killed."""
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({**asdict(self), "folder": str(self.folder)}), encoding="utf-8")

    @property
    def dead(self) -> bool:
        """Whether its driver ran on this machine and is gone. Only then may its processes be ended.

        A note may come with results from another machine, so its folder must be one that only this program creates.
        """
        if self.host != socket.gethostname() or self.folder.parent not in session_folder.parents():
            return False
        if (
            not self.folder.name.startswith(session_folder.PREFIX)
            or not self.folder.is_dir()
            or self.folder.is_symlink()
        ):
            return False
        try:
            return abs(psutil.Process(self.pid).create_time() - self.began) > 1.0  # another process has this id now
        except psutil.NoSuchProcess:
            return True


def end(note: Path) -> list[int]:
    """End the processes of the session in `note` if its driver is dead, and remove its folder.

    Returns the ids of the ended processes.
    """
    session = Session.read(note)
    if session is None or not session.dead:
        return []
    ended = end_processes(session.folder)
    shutil.rmtree(session.folder, ignore_errors=True)
    return ended


def end_processes(folder: Path) -> list[int]:
    """End the other processes of the Ray session in `folder`: SIGTERM first, then SIGKILL. Returns their ids."""
    found = [
        process for process in psutil.process_iter() if process.pid != os.getpid() and _belongs_to(process, folder)
    ]
    for send in (psutil.Process.terminate, psutil.Process.kill):
        for process in found:
            try:
                send(process)
            except psutil.NoSuchProcess:
                continue
        _, alive = psutil.wait_procs(found, timeout=_TERMINATE_S)
        if not alive:
            break
    return [process.pid for process in found]


def _belongs_to(process: psutil.Process, folder: Path) -> bool:
    """Whether it is a Ray process that works in `folder`; a process that reads its logs is not."""
    inside = f"{folder}/"
    try:
        if process.uids().real != os.getuid() or process.status() == psutil.STATUS_ZOMBIE:
            return False
        words = process.cmdline()
        if not any(word.startswith(("ray::", "ray-dashboard")) or "/ray/" in word for word in words[:4]):
            return False
        return any(inside in f"{word}/" for word in words) or any(
            file.path.startswith(inside) for file in process.open_files()
        )
    except psutil.Error:
        return False
