"""Who is taken for alive, who gets the lock, and how it is lost: in memory, and on an S3 server."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ablate.records import lease, object_store, s3_register
from ablate.records.lease import ByClocks, ByVersions, Held, Lock, Owner, Seen, Slot
from ablate.records.locations import Url
from ablate.records.object_store import ObjectStore

AWAY = "another-machine"
OLD = "2026-01-01T00:00:00+00:00"
NEVER = "2126-01-01T00:00:00+00:00"
"""A heartbeat by a clock that is a century fast."""


class Memory:
    """An object in memory, of either kind."""

    def __init__(self, content: bytes | None = None) -> None:
        self.content, self.writes, self._turn = content, 0, threading.Lock()
        self.slot = Slot(read=lambda: self.content, write=self.put, drop=self.drop)

    def put(self, content: bytes | None) -> None:
        self.content, self.writes = content, self.writes + 1

    def read(self) -> Seen | None:
        with self._turn:
            return None if self.content is None else Seen(self.content, str(self.writes), 0.0)

    def write(self, content: bytes, *, over: str | None) -> str | None:
        with self._turn:
            if over != (None if self.content is None else str(self.writes)):
                return None
            self.put(content)
            return str(self.writes)

    def drop(self) -> None:
        self.put(None)


def by_clocks(memory: Memory) -> Lock:
    return ByClocks(memory.slot, settle_s=0.2)


def by_versions(memory: Memory) -> Lock:
    return ByVersions(memory, silent_s=0.05, poll_s=0.01)


both = pytest.mark.parametrize("lock", [by_clocks, by_versions])
Locking = Callable[[Memory], Lock]


def owned(**changes: Any) -> bytes:
    """A lock's content: this process's, but for the changes."""
    return dataclasses.replace(Owner.here(), **changes).written()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


CONTENTS = [
    (None, False),
    (b"", False),
    (b"[1]", False),
    (b'{"owner": 1}', False),
    ({}, True),
    ({"born": 1.0}, False),  # another process that got the number since
    ({"pid": 2**22 + 1}, False),
    ({"namespace": 1, "born": 1.0}, True),  # a container beside this one
    ({"host": AWAY, "pid": 1}, True),
    ({"host": AWAY, "at": OLD}, False),
    ({"host": AWAY, "at": "soon"}, False),
]


@pytest.mark.parametrize(("content", "held"), CONTENTS)
def test_who_is_taken_for_alive_by_clocks(content: bytes | dict[str, object] | None, held: bool):
    memory = Memory(owned(**content) if isinstance(content, dict) else content)
    assert lease.is_held(Owner.read(memory.content)) is held
    if held:
        with pytest.raises(Held), lease.hold(by_clocks(memory)):
            pass
        assert memory.writes == 0
    else:
        with lease.hold(by_clocks(memory)):
            assert lease.is_held(Owner.read(memory.content))
        assert memory.content is None


@pytest.mark.parametrize(
    "content",
    [content for content, held in CONTENTS if not held] + [{"host": AWAY, "at": at} for at in (NEVER, OLD)],
)
def test_a_lock_without_a_living_owner_is_taken_over_whatever_clocks_say(content: bytes | dict[str, object] | None):
    memory = Memory(owned(**content) if isinstance(content, dict) else content)
    with lease.hold(by_versions(memory)):
        assert lease.is_held(Owner.read(memory.content))
    assert memory.content is None


def test_an_owner_elsewhere_whose_heart_beats_keeps_its_lock_whatever_its_clock_says():
    memory = Memory(owned(host=AWAY, at=OLD))
    done, beats = threading.Event(), itertools.count()

    def beat() -> None:
        while not done.wait(0.01):
            memory.put(owned(host=AWAY, at=OLD, owner=str(next(beats))))

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(Held), lease.hold(ByVersions(memory, silent_s=10, poll_s=0.03)):
            pass
    finally:
        done.set()
        beating.join()
    with pytest.raises(Held), lease.hold(by_versions(Memory(owned()))):
        pass


def winners(locks: list[Lock]) -> int:
    """How many of those that take a lock at once get it. Each keeps it until all have tried."""
    start, tried, got = threading.Barrier(len(locks)), threading.Barrier(len(locks)), []

    def take(lock: Lock) -> None:
        start.wait(30)
        try:
            with lease.hold(lock):
                got.append(lock)
                tried.wait(30)
        except Held:
            tried.wait(30)

    threads = [threading.Thread(target=take, args=(lock,)) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(got)


@both
@pytest.mark.parametrize("left", [None, {"host": AWAY, "at": OLD}])
def test_of_many_that_take_a_lock_at_once_one_gets_it(lock: Locking, left: dict[str, str] | None):
    for _ in range(2 if lock is by_clocks else 10):
        memory = Memory(owned(**left) if left else None)
        assert winners([lock(memory) for _ in range(6)]) == 1
        assert memory.content is None


@both
@pytest.mark.parametrize("other", [owned(host=AWAY), None])
def test_a_heart_beats_until_the_lock_is_lost(lock: Locking, other: bytes | None, caplog: pytest.LogCaptureFixture):
    memory = Memory()
    with lease.hold(lock(memory), beat_s=0.01):
        wait_until(lambda: memory.writes >= 3)
        assert Owner.read(memory.content) is not None
        memory.put(other)
        wait_until(lambda: "the lock is lost" in caplog.text)
        assert memory.content == other, "nothing is written over another's"
    assert memory.content == other, "nor taken away"


@both
def test_a_heart_that_stops_for_a_while_goes_on(lock: Locking, monkeypatch: pytest.MonkeyPatch):
    memory, faults = Memory(), iter([OSError("no network")] * 3)
    locked = lock(memory)
    renew = type(locked).renew

    def faulty(self: Any, mine: Owner) -> None:
        for fault in faults:
            raise fault
        renew(self, mine)

    monkeypatch.setattr(type(locked), "renew", faulty)
    with lease.hold(locked, beat_s=0.01):
        wait_until(lambda: memory.writes >= 3)
    assert memory.content is None


def test_a_write_whose_answer_was_lost_is_known_again(monkeypatch: pytest.MonkeyPatch):
    memory = Memory()
    write = memory.write

    def twice(content: bytes, *, over: str | None) -> str | None:
        write(content, over=over)
        return write(content, over=over)

    monkeypatch.setattr(memory, "write", twice)
    with lease.hold(by_versions(memory), beat_s=0.01):
        wait_until(lambda: memory.writes >= 3)
        with pytest.raises(Held), lease.hold(by_versions(memory)):
            pass
    assert memory.content is None


def ignoring(client: Any) -> None:
    """A server that writes whatever the condition says."""
    put = client.put_object
    client.put_object = lambda *, Bucket, Key, Body, **_: put(Bucket=Bucket, Key=Key, Body=Body)


def refusing(client: Any) -> None:
    """A server that knows no conditions, and says so."""

    def put(**_: object) -> None:
        answer = {
            "Error": {
                "Code": "NotImplemented",
                "Message": "a header you provided implies functionality that is not here",
            },
            "ResponseMetadata": {"HTTPStatusCode": 501},
        }
        raise ClientError(answer, "PutObject")

    client.put_object = put


def creating_only(client: Any) -> None:
    """A server that knows If-None-Match and ignores If-Match, as S3 did for three months."""
    put = client.put_object

    client.put_object = lambda **given: put(**{name: value for name, value in given.items() if name != "IfMatch"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (ignoring, "the store ignores the conditions"),
        (creating_only, "the store ignores the conditions"),
        (refusing, "NotImplemented"),
        (None, "botocore is not installed"),
    ],
)
def test_without_conditional_writes_a_bucket_is_locked_by_clocks_and_says_so(
    change: Callable[[Any], None] | None,
    said: str,
    bucket: Url,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    connect = s3_register.connect

    def connected(url: Url, *, region: str) -> Any:
        client = connect(url, region=region)
        if change:
            change(client)
        return client

    monkeypatch.setattr(s3_register, "connect", connected)
    if change is None:
        monkeypatch.delattr("ablate.records.s3_register")
        monkeypatch.setitem(sys.modules, "ablate.records.s3_register", None)
    monkeypatch.setattr(lease, "ByClocks", functools.partial(ByClocks, settle_s=0.0))
    store = ObjectStore(bucket)
    with store.hold("driver.lock"):
        assert caplog.text.count("driver.lock is locked by the machines' clocks") == 1
        assert said in caplog.text
        assert store.held("driver.lock")
        with pytest.raises(Held), ObjectStore(bucket).hold("driver.lock"):
            pass
        assert store.names("") == ["driver.lock"], "nothing is left of the probe"
    assert store.names("") == []
    object_store._write(store._fs, store._key("driver.lock"), owned(host=AWAY, at=OLD))
    assert store.held("driver.lock") is (change is not None), "botocore knows the store's clock: the object is new"
    with store.hold("driver.lock"):
        pass


@pytest.fixture
def stores(bucket: Url, monkeypatch: pytest.MonkeyPatch) -> list[ObjectStore]:
    """Two drivers of a study, which watch for a moment instead of a minute."""
    monkeypatch.setattr(lease, "ByVersions", functools.partial(ByVersions, silent_s=0.3, poll_s=0.05))
    return [ObjectStore(bucket), ObjectStore(bucket)]


@pytest.mark.parametrize("left", [None, {"host": AWAY, "at": NEVER}, {"pid": 2**22 + 1}])
def test_of_two_drivers_that_race_for_a_bucket_one_gets_it(left: dict[str, Any] | None, stores: list[ObjectStore]):
    locks = [store._lock("driver.lock") for store in stores]
    assert all(isinstance(lock, ByVersions) for lock in locks)
    for _ in range(5 if left and "host" in left else 12):
        if left:
            object_store._write(stores[0]._fs, stores[0]._key("driver.lock"), owned(**left))
        assert winners(locks) == 1
        assert not stores[0].exists("driver.lock")


def test_a_lock_in_a_bucket_is_taken_over_and_the_loss_is_noticed(
    stores: list[ObjectStore], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.WARNING)
    first, second = (store._lock("driver.lock") for store in stores)
    with lease.hold(first, beat_s=60):
        lock = stores[0].owner("driver.lock")
        assert lock is not None
        elsewhere = dataclasses.replace(lock, host=AWAY).written()
        register = stores[1]._register("driver.lock")
        assert register is not None
        seen = register.read()
        assert seen is not None
        assert 0 <= seen.silent_s < 30
        assert register.write(elsewhere, over=seen.version), "as if the owner were on another machine"
        with lease.hold(second):
            assert f"process {lock.pid} on {AWAY} holds the lock" in caplog.text
            with pytest.raises(Held):
                first.renew(lock)
            assert stores[0].held("driver.lock")
    assert not stores[0].exists("driver.lock")
