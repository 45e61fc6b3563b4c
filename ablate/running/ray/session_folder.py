"""The folder of a private Ray: closed to other users, and at a path that is short enough for Ray's sockets.

Ray makes its own folders and logs readable, and some writable, for every user of the machine. So they stand inside a
folder that only this user enters.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ablate.errors import BadInput

PREFIX = "ablate-"
"""Prefix of the folder's name."""

RAY = "ray"
"""The folder inside it that is Ray's."""

_SOCKET_BYTES = 107
"""The longest path of a Unix socket (man 7 unix)."""

_LONGEST = f"{PREFIX}12345678/{RAY}/session_2000-01-01_00-00-00_000000_4194304/sockets/dash_TaskEventsHead"
"""The longest path of a socket that Ray 2.60 makes in such a folder; 4194304 is the largest process id of Linux."""

_SHORT = (Path("/tmp"), Path("/dev/shm"))
"""Where the folder stands if the path of the system's temporary folder is too long (Slurm, macOS)."""


def parents() -> tuple[Path, ...]:
    """The folders in which a private Ray's folder may stand, the preferred one first."""
    return (Path(tempfile.gettempdir()), *_SHORT)


def parent() -> Path:
    """The folder in which the next one is made. Raises BadInput where Ray's sockets fit in none."""
    for folder in parents():
        if len(os.fsencode(folder / _LONGEST)) <= _SOCKET_BYTES and os.access(folder, os.W_OK | os.X_OK):
            return folder
    room = _SOCKET_BYTES - len(f"/{_LONGEST}")
    rule = (
        f"its path is longer than the {room} bytes that leave room for Ray's sockets, and no short folder is writable"
    )
    raise BadInput("TMPDIR", "", tempfile.gettempdir(), rule, "set TMPDIR to a folder with a short path")


def make() -> Path:
    """Make a folder that only this user enters. Ray's own goes inside it: Ray opens it to all users."""
    return Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent()))
