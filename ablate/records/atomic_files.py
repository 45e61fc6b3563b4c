"""Files that are whole or absent: each is written under another name, synced to disk, then renamed. What else stands at
a file's name is refused before it is opened."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


class Unreadable(Exception):
    """A file that cannot be read; the message says why. `damaged`: whether its content is lost; it is not where the
    file is of a newer version, or may not be opened."""

    def __init__(self, message: str, *, damaged: bool = True) -> None:
        super().__init__(message)
        self.damaged = damaged


def check_regular(path: Path) -> None:
    """Raise Unreadable unless `path` is a regular file. To open a named pipe would wait for its writer forever."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # a ValueError: a name that no file can have
        raise Unreadable(said(error), damaged=not isinstance(error, PermissionError)) from None
    if not stat.S_ISREG(mode):
        raise Unreadable("not a regular file")


def said(error: BaseException) -> str:
    """What an exception says, on one line, without the path."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.splitlines()[0] if text else type(error).__name__


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a `.tmp` file, then rename it to `path`, atomically and durably."""
    tmp = filled(path, write)
    tmp.replace(path)
    _sync_folder(path.parent)


def create(path: Path, write: Callable[[Path], object]) -> None:
    """Like `replace`, but raises FileExistsError and changes nothing where `path` exists already."""
    tmp = filled(path, write)
    try:
        os.link(tmp, path)  # unlike a rename, a link fails where the name exists: one of two writers wins
    finally:
        tmp.unlink()
    _sync_folder(path.parent)


def filled(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a `.tmp` file beside `path`, and sync it to disk. Where `write` raises, removes the file and the
    folders that were made for it."""
    made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # not what `create` means by it: the folder's name is taken by something else
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path.parent)) from None
    tmp = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        write(tmp)
        with tmp.open("rb+") as file:
            os.fsync(file.fileno())
    except BaseException:
        tmp.unlink(missing_ok=True)
        with suppress(OSError):  # another process writes there
            for folder in made:
                folder.rmdir()
        raise
    return tmp


def _sync_folder(folder: Path) -> None:
    """Sync the folder, so that a rename in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
