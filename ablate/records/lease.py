"""A lock that is an object with an owner and a heartbeat, for stores whose files no kernel locks. It is advisory.

There are two ways to take it:

`ByVersions` needs conditional writes. If several processes create the object at once, the store lets one succeed. A
dead owner's lock is replaced by a write that succeeds only if the object is still as it was seen. An owner on another
machine is watched: each heartbeat changes the object, so the owner is dead if the object stays the same for `SILENT_S`
by the watcher's own clock. No clocks of two machines are compared.

`ByClocks` needs only reads and writes. An owner on another machine is dead if its last heartbeat is `SILENT_S` old, so
clocks have to agree within that. Two that take the lock at once find out as in Fischer's algorithm (Lamport 1987, "A
fast mutual exclusion algorithm"): both write, both wait `SETTLE_S`, longer than a write takes, and the one that does
not read its own name gives up.

Both write the same content, and each respects a lock that was taken the other way.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

import psutil

from ablate.records import json_files

BEAT_S, SILENT_S, POLL_S, SETTLE_S = 15.0, 60.0, 5.0, 1.0

_LOG = logging.getLogger(__name__)


class Held(Exception):
    """Somebody else holds the lock."""


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock; machine, namespace of process ids, id and time of birth tell it from all others.
    `since`: when it took the lock; `at`: its last heartbeat."""

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
    def read(content: bytes | None) -> Owner | None:
        """Parse a lock's content; None if there is none, or if it is not a lock's."""
        kinds = {"owner": str, "host": str, "namespace": int, "pid": int, "born": (int, float), "since": str, "at": str}
        try:
            found = Owner(**json_files.parse(content or b""))
        except (ValueError, TypeError):
            return None
        return found if all(isinstance(getattr(found, name), kind) for name, kind in kinds.items()) else None

    def written(self) -> bytes:
        """The lock's content."""
        return json.dumps(asdict(self)).encode()

    def owns(self, content: bytes | None) -> bool:
        """Whether this is the owner that the content names."""
        found = Owner.read(content)
        return found is not None and found.owner == self.owner

    @property
    def runs(self) -> bool | None:
        """Whether the process runs; None if it is on another machine, whose processes are not seen from here."""
        if (self.host, self.namespace) != (platform.node(), _namespace()):
            return None
        try:
            return psutil.Process(self.pid).create_time() == self.born
        except (psutil.Error, ValueError, OverflowError):  # the last two: a number that no process has
            return False

    def silent_s(self) -> float:
        """Time since the last heartbeat, if this machine's clock and the owner's agree."""
        try:
            return (datetime.now(UTC) - datetime.fromisoformat(self.at)).total_seconds()
        except (TypeError, ValueError):
            return float("inf")


@dataclass(frozen=True)
class Seen:
    """An object as the store has it. Every write changes `version`; `silent_s` is the time since the last write, by the
    store's own clock."""

    content: bytes
    version: str
    silent_s: float


class Register(Protocol):
    """One object with conditional writes. All methods may raise OSError."""

    def read(self) -> Seen | None:
        """The object; None if there is none."""
        ...

    def write(self, content: bytes, *, over: str | None) -> str | None:
        """Replace version `over`, or create the object if `over` is None. Returns the new version. Returns None, and
        writes nothing, if the object has another version, or exists already."""
        ...

    def drop(self) -> None:
        """Delete the object."""
        ...


@dataclass(frozen=True)
class Slot:
    """One object without conditional writes. `read` gives None if there is none; all three may raise OSError."""

    read: Callable[[], bytes | None]
    write: Callable[[bytes], None]
    drop: Callable[[], None]


class Lock(Protocol):
    """A way to take a lock. All methods may raise OSError."""

    def take(self, mine: Owner) -> None:
        """Write `mine` as the owner. Raises Held if somebody else is."""
        ...

    def renew(self, mine: Owner) -> None:
        """Write a heartbeat. Raises Held if `mine` is no longer the owner."""
        ...

    def drop(self) -> None:
        """Delete the lock."""
        ...


@dataclass
class ByVersions:
    """Implements `Lock` by conditional writes."""

    register: Register
    silent_s: float = SILENT_S
    poll_s: float = POLL_S
    _version: str = field(default="", init=False)

    def take(self, mine: Owner) -> None:
        seen = self.register.read()
        if seen is not None and (owner := Owner.read(seen.content)) is not None:
            if owner.runs:
                raise Held
            if owner.runs is None:
                seen = self._watch(seen, owner)
        self._write(mine, over=None if seen is None else seen.version)

    def renew(self, mine: Owner) -> None:
        self._write(replace(mine, at=_now()), over=self._version)

    def drop(self) -> None:
        self.register.drop()

    def _watch(self, first: Seen, owner: Owner) -> Seen | None:
        """Wait until a lock has been silent for long enough, or is gone (None). Raises Held at its first heartbeat."""
        said = "process %d on %s holds the lock; it is taken over if it says nothing for %g s"
        _LOG.warning(said, owner.pid, owner.host, self.silent_s)
        end, seen = time.monotonic() + self.silent_s, first
        while seen is not None and time.monotonic() < end:
            time.sleep(self.poll_s)
            seen = self.register.read()
            if seen is not None and seen.version != first.version:
                raise Held
        return seen

    def _write(self, mine: Owner, *, over: str | None) -> None:
        version = self.register.write(mine.written(), over=over)
        if version is None:
            # A request whose answer was lost is sent again, and then refused because of what it wrote itself.
            seen = self.register.read()
            if seen is None or not mine.owns(seen.content):
                raise Held
            version = seen.version
        self._version = version


@dataclass(frozen=True)
class ByClocks:
    """Implements `Lock` by Fischer's algorithm and clocks that agree."""

    slot: Slot
    settle_s: float = SETTLE_S

    def take(self, mine: Owner) -> None:
        if is_held(Owner.read(self.slot.read())):
            raise Held
        self.slot.write(mine.written())
        time.sleep(self.settle_s)
        if not mine.owns(self.slot.read()):
            raise Held

    def renew(self, mine: Owner) -> None:
        if not mine.owns(self.slot.read()):
            raise Held
        self.slot.write(replace(mine, at=_now()).written())

    def drop(self) -> None:
        self.slot.drop()


def is_held(owner: Owner | None, *, silent_s: Callable[[Owner], float] = Owner.silent_s) -> bool:
    """Whether a lock's owner is alive: on this machine its process runs, on another its last heartbeat is recent.
    `silent_s`: how long ago that was; by default the clocks of the two machines are compared."""
    if owner is None:
        return False
    return silent_s(owner) < SILENT_S if owner.runs is None else owner.runs


def is_conditional(probe: Register) -> bool:
    """Whether a store heeds the conditions of writes, tried on an object that nobody else knows."""
    try:
        first = probe.write(b"1", over=None)
        again = probe.write(b"2", over=None)
        second = probe.write(b"3", over=first)
        stale = probe.write(b"4", over=first)
        return first is not None and second is not None and again is None and stale is None
    finally:
        with suppress(OSError):
            probe.drop()


@contextmanager
def hold(lock: Lock, *, beat_s: float = BEAT_S) -> Iterator[None]:
    """Hold the lock while the context lasts. Raises Held if somebody else holds it."""
    mine, over = Owner.here(), threading.Event()
    lock.take(mine)
    beating = threading.Thread(target=_beat, args=(lock, mine, over, beat_s), daemon=True, name="lease")
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()
        with suppress(OSError, Held):  # a lock that cannot be dropped falls silent; one that was lost is another's
            lock.renew(mine)  # nobody takes a lock that has just been renewed, so what is dropped now is this one
            lock.drop()


def _beat(lock: Lock, mine: Owner, over: threading.Event, beat_s: float) -> None:
    """Write a heartbeat every `beat_s`, until `over` or until the lock is lost."""
    while not over.wait(beat_s):
        try:
            lock.renew(mine)
        except OSError:
            continue  # a fault of the network: the next heartbeat may succeed
        except Held:
            _LOG.warning(
                "the lock is lost: it was silent for too long, or was deleted; another sweep may run the study"
            )
            return


def _namespace() -> int:
    """The namespace of process ids: containers may share their machine's name, and each numbers its own processes."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 - a link to nothing that a path could name
    except OSError:
        return 0


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
