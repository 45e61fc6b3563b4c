"""The lease without a store: who is taken for alive, who gets it, and how it is lost."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from typing import Any

import pytest

from ablate.records import lease
from ablate.records.lease import Held, Owner, Slot


class Memory:
    """A slot in memory."""

    def __init__(self, content: bytes | None = None) -> None:
        self.content, self.writes = content, 0
        self.slot = Slot(read=lambda: self.content, write=self.write, drop=lambda: self.write(None))

    def write(self, content: bytes | None) -> None:
        self.content, self.writes = content, self.writes + 1


def owned(**changes: Any) -> bytes:
    """A lock's content: this process's, but for the changes."""
    return dataclasses.replace(Owner.here(), **changes).written()


AWAY = "another-machine"


@pytest.mark.parametrize(
    ("content", "held"),
    [
        (None, False),
        (b"", False),
        (b"[1]", False),
        (b'{"owner": 1}', False),
        ({}, True),
        ({"born": 1.0}, False),  # another process that got the number since
        ({"pid": 2**22 + 1}, False),
        ({"namespace": 1, "born": 1.0}, True),  # a container beside this one
        ({"host": AWAY, "pid": 1}, True),
        ({"host": AWAY, "at": "2026-01-01T00:00:00+00:00"}, False),
        ({"host": AWAY, "at": "soon"}, False),
    ],
)
def test_who_is_taken_for_alive(content: bytes | dict[str, object] | None, held: bool):
    memory = Memory(owned(**content) if isinstance(content, dict) else content)
    assert lease.is_held(memory.slot) is held
    if held:
        with pytest.raises(Held), lease.hold(memory.slot, settle_s=0):
            pass
        assert memory.writes == 0
    else:
        with lease.hold(memory.slot, settle_s=0):
            assert lease.is_held(memory.slot)
        assert memory.content is None


def test_of_many_that_take_a_lease_at_once_one_gets_it():
    memory, got, start, leave = Memory(), [], threading.Barrier(6), threading.Event()

    def take() -> None:
        start.wait()
        with contextlib.suppress(Held), lease.hold(memory.slot, settle_s=0.5):
            got.append(1)
            leave.wait(30)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 20
    while sum(thread.is_alive() for thread in threads) > 1:
        assert time.monotonic() < end
        time.sleep(0.05)
    leave.set()
    for thread in threads:
        thread.join()
    assert got == [1]


def test_a_heart_beats_until_the_lease_is_lost():
    memory = Memory()
    with lease.hold(memory.slot, settle_s=0, beat_s=0.01):
        end = time.monotonic() + 20
        while memory.writes < 3:
            assert time.monotonic() < end
            time.sleep(0.01)
        first = Owner.read(memory.content)
        other = owned(host=AWAY)
        memory.content = other
        lost = threading.enumerate()
        while any(thread.name == "lease" and thread.is_alive() for thread in lost):
            assert time.monotonic() < end
            time.sleep(0.01)
        assert first is not None
        assert memory.content == other, "nothing is written over another's"
    assert memory.content == other, "nor taken away"
