"""Processes of a Ray of one's own: which of them is what, which are left. By parents and open files, never by a name
alone: other Rays may run on the same machine."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import psutil

Kind = Literal["driver", "trial", "worker", "raylet", "gcs_server"]

_TITLES: dict[Kind, tuple[str, ...]] = {
    "trial": ("ray::ResourceTrainable", "ray::TrialProcess"),
    "worker": ("ray::Worker",),
}
"""How Ray calls its processes: Tune's actor of a trial (Train's controller as well), and the worker that trains."""

MARK = "ABLATE_CHAOS"
"""Environment variable that everything started by a run carries, Ray's daemons and workers included."""


def raylets(root: Path) -> list[psutil.Process]:
    """The raylets, one a node, of every Ray whose session is below `root`."""
    return _daemons("raylet", root)


def _daemons(name: str, root: Path) -> list[psutil.Process]:
    return [
        process for process, words in _all() if words[0].endswith(f"/{name}") and any(str(root) in w for w in words)
    ]


def find(kind: Kind, *, root: Path, spare: int | None) -> list[psutil.Process]:
    """The processes of this kind in Rays below `root`; of raylets all but `spare`, which a run must not lose."""
    if kind == "gcs_server":
        return _daemons(kind, root)
    nodes = raylets(root)
    if kind == "raylet":
        return [node for node in nodes if node.pid != spare]
    parents = {node.pid for node in nodes}
    return [process for process, words in _all() if _parent(process) in parents and words[0].startswith(_TITLES[kind])]


def is_joined(root: Path) -> bool:
    """Whether a driver has joined a Ray below `root`: a raylet starts Python workers for none but a driver."""
    nodes = {node.pid for node in raylets(root)}
    return any(_parent(process) in nodes and words[0].startswith("ray::") for process, words in _all())


def kill(process: psutil.Process, *, with_children: bool = False) -> bool:
    """SIGKILL; whether it was still there (psutil refuses where another process has its number by now)."""
    try:
        children = process.children(recursive=True) if with_children else []
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return False
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.send_signal(signal.SIGKILL)
    return True


def left(root: Path) -> list[tuple[psutil.Process, list[str]]]:
    """What still runs of everything below `root`, this process apart, with its command line."""
    found = []
    for process, words in _all():
        try:
            inside = any(str(root) in word for word in words) or any(
                file.path.startswith(f"{root}/") for file in process.open_files()
            )
            if process.pid != os.getpid() and (inside or process.environ().get(MARK) == str(root)):
                found.append((process, words))
        except psutil.Error:
            continue
    return found


def _all() -> Iterator[tuple[psutil.Process, list[str]]]:
    """Every process of this user that is no zombie, with its command line."""
    for process in psutil.process_iter():
        try:
            if process.uids().real == os.getuid() and process.status() != psutil.STATUS_ZOMBIE:
                words = process.cmdline()
                if words:
                    yield process, words
        except psutil.Error:
            continue


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.Error:
        return -1
