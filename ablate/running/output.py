"""Keeps the last lines that a process wrote, for the log of a trial that failed in it."""

from __future__ import annotations

import os
import stat
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO, cast

from ablate.escape import printable

LINES, BYTES = 50, 8 * 2**10
"""The most that is kept of each stream."""

_STREAMS = ((1, "stdout"), (2, "stderr"))


@dataclass(frozen=True)
class Spool:
    """The files that a process writes its output to, each with an offset: a reused process has written before."""

    files: tuple[tuple[str, Path, int], ...]

    @classmethod
    def here(cls) -> Spool:
        """This process's files. A stream that goes to a terminal or a pipe has none."""
        found = []
        for number, name in _STREAMS:
            try:
                status, path = os.fstat(number), Path(f"/proc/self/fd/{number}").readlink()
                if stat.S_ISREG(status.st_mode) and path.samefile(f"/proc/self/fd/{number}"):
                    found.append((name, path, status.st_size))
            except OSError:
                continue  # closed, or the file was removed
        return cls(tuple(found))

    def tail(self) -> str:
        """The last lines of each stream since the offset, without control characters; "" if nothing was written."""
        return "".join(_section(name, _read(path, since)) for name, path, since in self.files)


@dataclass
class Recorder:
    """The output of this process while a trial trains in it."""

    _spool: Spool
    _kept: dict[str, deque[str]] = field(default_factory=dict)

    def tail(self) -> str:
        """As `Spool.tail`, for files, terminals and pipes."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        kept = "".join(_section(name, "".join(written)) for name, written in self._kept.items())
        return self._spool.tail() + kept


@contextmanager
def recorded() -> Iterator[Recorder]:
    """Keep the tail of what is written inside. A stream that goes to a file is read from the file, so native libraries'
    output is included. Of a terminal or a pipe only what Python writes is kept."""
    spool = Spool.here()
    recorder, before = Recorder(spool), (sys.stdout, sys.stderr)
    to_files = {name for name, _, _ in spool.files}
    for _, name in _STREAMS:
        if name not in to_files:
            recorder._kept[name] = deque(maxlen=4 * LINES)
            setattr(sys, name, cast(TextIO, _Tee(before[1], recorder._kept[name])))  # stdout is for answers
    try:
        yield recorder
    finally:
        sys.stdout, sys.stderr = before


class _Tee:
    """A stream that also keeps the last pieces written to it."""

    def __init__(self, stream: TextIO, kept: deque[str]) -> None:
        self._stream, self._kept = stream, kept

    def write(self, text: str) -> int:
        self._kept.append(text[-BYTES:])
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _read(path: Path, since: int) -> str:
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(since, end - BYTES))
            return file.read(BYTES).decode("utf-8", errors="replace")
    except OSError as error:
        return f"({path} cannot be read: {error.strerror})\n"


def _section(name: str, text: str) -> str:
    """The last lines under a heading. Of a progress bar, which overwrites its line, the last state is kept."""
    lines = [printable(line.rstrip().rpartition("\r")[2]) for line in text[-BYTES:].rstrip().split("\n")]
    return f"---- {name}\n" + "\n".join(lines[-LINES:]) + "\n" if text.strip() else ""
