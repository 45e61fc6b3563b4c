"""What a killed driver's private Ray leaves running, and its end.

Ray's own processes watch their parents and go, but for two agents of every node (dashboard, runtime environments):
they were still there half a minute after a driver, its head and its workers had gone. Every session has a folder of
its own under the system's temporary one; its path is noted in the study before Ray starts, and whatever of Ray has a
file of that folder open is of that session and of nobody else's.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

PREFIX = "ablate-"
"""How the name of a session's folder begins."""

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
        """The session that was noted there; None where none was, or what stands there is none."""
        try:
            stored = json.loads(note.read_text(encoding="utf-8"))
            return cls(Path(stored["folder"]), str(stored["host"]), int(stored["pid"]), float(stored["began"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, note: Path) -> None:
        """Note it for whoever comes after a kill."""
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({**asdict(self), "folder": str(self.folder)}), encoding="utf-8")

    @property
    def dead(self) -> bool:
        """Whether its driver ran on this machine and has gone; only then is anything of it to be ended.

        A note may come with results from elsewhere, so its folder must be one that only a driver of ours makes.
        """
        if self.host != socket.gethostname() or self.folder.parent != Path(tempfile.gettempdir()):
            return False
        if not self.folder.name.startswith(PREFIX) or not self.folder.is_dir() or self.folder.is_symlink():
            return False
        try:
            return abs(psutil.Process(self.pid).create_time() - self.began) > 1.0  # another process has its number now
        except psutil.NoSuchProcess:
            return True


def end(note: Path) -> list[int]:
    """End what is left of the session that is noted there, if its driver is dead, and remove its folder.

    Returns the ids of the processes that were ended.
    """
    session = Session.read(note)
    if session is None or not session.dead:
        return []
    ended = end_processes(session.folder)
    shutil.rmtree(session.folder, ignore_errors=True)
    return ended


def end_processes(folder: Path) -> list[int]:
    """End the processes of the Ray whose session is in `folder`, but this one; politely first. Returns their ids."""
    mine = [process for process in psutil.process_iter() if process.pid != os.getpid() and _belongs_to(process, folder)]
    for polite in (True, False):
        for process in mine:
            try:
                process.terminate() if polite else process.kill()
            except psutil.NoSuchProcess:
                continue
        _, alive = psutil.wait_procs(mine, timeout=_TERMINATE_S)
        if not alive:
            break
    return [process.pid for process in mine]


def _belongs_to(process: psutil.Process, folder: Path) -> bool:
    """Whether it is one of Ray's and works in `folder`; a reader of its logs is neither."""
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
