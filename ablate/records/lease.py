"""A lock that is a file with an owner and a heartbeat: for stores whose files no kernel locks.

It is advisory. Whoever finds it fresh stays away; a killed owner's is taken over once it is known to be dead (its
process, on this machine) or has been silent for `SILENT_S` (elsewhere; clocks are taken to agree within that). Two that
take it at the same moment find out after `SETTLE_S`, as in Fischer's algorithm (Lamport 1987, "A fast mutual exclusion
algorithm"): both write, both wait longer than a write takes, and who no longer reads its own name stays away.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

import psutil

BEAT_S, SILENT_S, SETTLE_S = 15.0, 60.0, 1.0


class Held(Exception):
    """Somebody else holds the lock."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lock: a process, known by the machine, its namespace of process ids, and when it started. `since`: it
    holds it, `at`: it last said so."""

    owner: str
    host: str
    namespace: int
    pid: int
    born: float
    since: str
    at: str

    @staticmethod
    def here() -> Owner:
        """This process."""
        born, now = psutil.Process().create_time(), _now()
        return Owner(uuid.uuid4().hex, platform.node(), _namespace(), pid=os.getpid(), born=born, since=now, at=now)

    @staticmethod
    def read(text: bytes | None) -> Owner | None:
        """Out of a lock's content; None where there is none, or it is not a lock's."""
        try:
            return None if text is None else Owner(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def written(self) -> bytes:
        """The lock's content."""
        return json.dumps(asdict(self)).encode()

    @property
    def alive(self) -> bool:
        """Whether the owner is at work: seen by its process on its own machine, by its heartbeat on another."""
        if (self.host, self.namespace) == (platform.node(), _namespace()):
            try:
                return psutil.Process(self.pid).create_time() == self.born
            except psutil.Error:
                return False
        try:
            silent = datetime.now(UTC) - datetime.fromisoformat(self.at)
        except (TypeError, ValueError):
            return False
        return silent.total_seconds() < SILENT_S


@dataclass(frozen=True)
class Slot:
    """Where a lease is kept. `read` gives None where there is none; all three may raise OSError."""

    read: Callable[[], bytes | None]
    write: Callable[[bytes], None]
    drop: Callable[[], None]


@contextmanager
def hold(slot: Slot, *, settle_s: float = SETTLE_S, beat_s: float = BEAT_S) -> Iterator[None]:
    """Hold the lease while the context lasts. Raises Held where somebody else does."""
    if is_held(slot):
        raise Held
    mine, over = Owner.here(), threading.Event()
    slot.write(mine.written())
    over.wait(settle_s)
    if not _is(slot, mine):
        raise Held
    beating = threading.Thread(target=_beat, args=(slot, mine, over, beat_s), daemon=True, name="lease")
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()
        with suppress(OSError):  # where it cannot be dropped it falls silent
            if _is(slot, mine):
                slot.drop()


def is_held(slot: Slot) -> bool:
    """Whether somebody holds the lease and is at work."""
    found = Owner.read(slot.read())
    return found is not None and found.alive


def _beat(slot: Slot, mine: Owner, over: threading.Event, beat_s: float) -> None:
    """Say every `beat_s` that the owner is at work, until it is over or somebody took the lease away."""
    while not over.wait(beat_s):
        try:
            if not _is(slot, mine):
                return
            slot.write(replace(mine, at=_now()).written())
        except OSError:
            continue  # the network: the next beat may pass


def _is(slot: Slot, mine: Owner) -> bool:
    found = Owner.read(slot.read())
    return found is not None and found.owner == mine.owner


def _namespace() -> int:
    """Of process ids: containers may share their machine's name, and number their processes each for itself."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 - a link to nothing that a path could name
    except OSError:
        return 0


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
