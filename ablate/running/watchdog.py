"""Ends a trial that trains in this process and does not end itself: over its time, without reports, or not answering an
interruption.

First it raises an exception in the trial, once no import is under way (see `importing`). That ends a trial that runs
Python code (a loop, a sleep, a wait for a file), and the study continues. A trial that hangs inside torch does not get
the exception: after `hard_s` the watchdog records it, prints a line and ends the process, and --resume continues the
study. It cannot end a trial that hangs and also holds Python's lock; with Ray another process ends such a trial.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from ablate.running.limits import Clock, OutOfTime, Overdue, Watch
from ablate.running.runner import ASKING, Halt, importing
from ablate.trainers import STOP_S

_CHECK_EVERY_S = 0.2
_IMPORT_S = 60.0
"""Seconds that an import may still take when its trial should end: torch's takes several on a busy machine."""
_WAKE = signal.SIGURG
"""Nobody sends it to a process by hand, and one that comes when no trial is watched is ignored."""


class Unresponsive(KeyboardInterrupt):
    """Raised in a trial that was interrupted and did not return."""


@dataclass
class Watchdog:
    """Watches a trial inside `watching`. `hard_s`: seconds after the exception until the process ends. Just before
    that a thread calls `give_up`, which records and prints why the trial ends (None: it was interrupted). `grace_s`:
    seconds that an interrupted trial has to write a checkpoint and return."""

    watch: Watch
    clock: Clock
    halt: Halt
    give_up: Callable[[Overdue | None], None]
    hard_s: float = 10.0
    grace_s: float = STOP_S
    _over: threading.Event = field(default_factory=threading.Event)
    _error: OutOfTime | Unresponsive | None = None
    _importing: bool = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, in the main thread, OutOfTime or Unresponsive may be raised anywhere."""
        if threading.current_thread() is not threading.main_thread():  # Python handles signals only there
            yield
            return
        sender, receiver = socket.socketpair()
        with sender, receiver:
            sender.setblocking(False)
            receiver.settimeout(_CHECK_EVERY_S)
            before = signal.signal(_WAKE, self._raise)
            # While the main thread is inside C its signal handlers do not run, but this socket gets the bytes.
            wakeup = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
            thread = threading.Thread(target=self._watch, args=(receiver,), daemon=True)
            thread.start()
            try:
                yield
            finally:
                self._over.set()
                signal.set_wakeup_fd(wakeup)
                with contextlib.suppress(BlockingIOError):  # full: there is something to receive
                    sender.send(b"\0")  # no signal has this number; the thread need not wait for its timeout
                thread.join()
                signal.signal(_WAKE, before)

    def _raise(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        self._importing = importing(frame)
        if self._error is None or self._importing or self._over.is_set():
            return
        error, self._error = self._error, None
        raise error

    def _watch(self, receiver: socket.socket) -> None:
        due_s = halted_s = None  # when the exception was due, when the study was halted
        free_s = 0.0  # since when the trial could have answered it
        overdue: Overdue | None = None
        main = threading.main_thread().ident
        assert main is not None
        while not self._over.is_set():
            signals = _signals(receiver)
            now_s = self.clock.now_s()
            if halted_s is None and (signals or self.halt.reason is not None):
                halted_s = now_s
            unresponsive = halted_s is not None and now_s - halted_s > self.grace_s
            overdue = overdue or (None if halted_s is not None else self.watch.overdue(now_s=now_s))
            if due_s is None and (overdue is not None or unresponsive):
                due_s = free_s = now_s
                self._error = OutOfTime(overdue) if overdue is not None else Unresponsive()
            if due_s is None:
                continue
            if self._error is not None:  # not raised yet
                signal.pthread_kill(main, _WAKE)
            if self._importing and now_s - due_s < _IMPORT_S:
                free_s = now_s
            elif now_s - free_s > self.hard_s and not self._over.is_set():
                self._end(overdue)

    def _end(self, overdue: Overdue | None) -> None:
        faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr)
        self.give_up(overdue)
        os._exit(130)  # resumable; only an exit of the process ends a thread that is inside C


def _signals(receiver: socket.socket) -> bool:
    """Whether a signal that asks to stop has arrived; waits until the socket's timeout."""
    with contextlib.suppress(TimeoutError):
        return any(number in ASKING for number in receiver.recv(64))
    return False
