"""Ends a trial that trains in this very process and does not end itself: too long, silent, or deaf to an interruption.

What it can do, in this order. A trial that Python runs (a loop, a sleep, a wait for a file) gets an exception where it
stands, and the study goes on. One that hangs inside torch gets none: after a while its row is written from here, a line
says so, and the process ends; the study is gone on with by --resume. One that hangs and also keeps Python's lock cannot
be seen from inside at all; with Ray it is ended from another process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from ablate.running.limits import OutOfTime, Overdue, Watch
from ablate.running.runner import GRACE_S, Halt

_CHECK_EVERY_S = 0.2
_WAKE = signal.SIGUSR1
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Unresponsive(KeyboardInterrupt):
    """Raised in a trial that was interrupted and did not return."""


@dataclass
class Watchdog:
    """Watches while its context lasts. `give_up` is called, from a thread, just before the process ends: it records
    what became of the trial (None: it was interrupted) and says so. `hard_s`: seconds for the exception to work."""

    watch: Watch
    halt: Halt
    give_up: Callable[[Overdue | None], None]
    hard_s: float = 10.0
    _over: threading.Event = field(default_factory=threading.Event)
    _error: OutOfTime | Unresponsive | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, in the main thread, OutOfTime or Unanswered may be raised anywhere."""
        if threading.current_thread() is not threading.main_thread():  # Python takes signals nowhere else
            yield
            return
        sender, receiver = socket.socketpair()
        with sender, receiver:
            sender.setblocking(False)
            receiver.settimeout(_CHECK_EVERY_S)
            before = signal.signal(_WAKE, self._raise)
            # The handlers of a main thread that never comes back from C do not run; the bytes arrive all the same.
            wakeup = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
            thread = threading.Thread(target=self._watch, args=(receiver,), daemon=True)
            thread.start()
            try:
                yield
            finally:
                self._over.set()
                signal.set_wakeup_fd(wakeup)
                thread.join()
                signal.signal(_WAKE, before)

    def _raise(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        error, self._error = self._error, None
        if error is not None and not self._over.is_set():
            raise error

    def _watch(self, receiver: socket.socket) -> None:
        asked_s = halted_s = None  # when the exception was sent, when the study was halted
        overdue: Overdue | None = None
        main = threading.main_thread().ident
        assert main is not None
        while not self._over.is_set():
            signals = _signals(receiver)
            now_s = time.monotonic()
            if halted_s is None and (signals or self.halt.reason is not None):
                halted_s = now_s
            unresponsive = halted_s is not None and now_s - halted_s > GRACE_S
            overdue = overdue or (None if halted_s is not None else self.watch.overdue(now_s=now_s))
            if asked_s is None and (overdue is not None or unresponsive):
                asked_s = now_s
                self._error = OutOfTime(overdue) if overdue is not None else Unresponsive()
                signal.pthread_kill(main, _WAKE)
            if asked_s is not None and now_s - asked_s > self.hard_s and not self._over.is_set():
                self._end(overdue)

    def _end(self, overdue: Overdue | None) -> None:
        faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr)
        self.give_up(overdue)
        os._exit(130)  # resumable; nothing gentler ends a thread that is inside C


def _signals(receiver: socket.socket) -> bool:
    """Whether Ctrl-C or SIGTERM has arrived; waits for it a little."""
    with contextlib.suppress(TimeoutError):
        return any(number in _SIGNALS for number in receiver.recv(64))
    return False
