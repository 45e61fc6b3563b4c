"""The processes of a private Ray: signals to the driver's group do not reach them, and their death ends the study.

Ctrl-C, `timeout`, `scancel` and the stop of a container signal a whole process group. If Ray's processes got the signal
too, they would be gone before the driver had asked the trials to write a checkpoint. So each has a session of its own.
They still end with the driver: the kernel kills them (PR_SET_PDEATHSIG, which Ray sets).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import ray._private.ray_constants
import ray._private.services
import ray._private.utils

_VITAL = ("gcs_server", "raylet")
"""Without one of these nothing goes on: Ray's calls raise, wait for a minute, or end this process from C++."""

_CAUSE_S = 2.0
"""How much sooner an error of Ray may come than the end of the process that is its cause."""

_LEAVE_S = 8.0
"""How long the main thread may take to leave what it does. After a minute without a GCS server C++ ends the process."""


class Daemons:
    """What `ray.init` starts. Use it as a context around everything that needs Ray.

    `on_death` gets a line that says which process has died, once, in a thread. It must lead to a KeyboardInterrupt in
    the main thread. An error that Ray raises because of a death becomes a KeyboardInterrupt too. `stuck` gets the line
    where the main thread does not leave the context then: it waits in C++, where Python interrupts nothing. The
    dashboard leaves temporary files behind when it is ended; they go to `temporary`.
    """

    def __init__(self, on_death: Callable[[str], object], *, stuck: Callable[[str], object], temporary: Path) -> None:
        self._on_death, self._stuck, self._temporary = on_death, stuck, temporary
        self._started: list[subprocess.Popen[bytes]] = []
        self._told = threading.Lock()
        self._watcher: threading.Thread | None = None
        self._stop, self._stopped = os.pipe()[::-1]

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Inside, Ray starts its processes in sessions of their own."""
        popen = ray._private.services.ConsolePopen

        def start(command: list[str], *, env: Mapping[str, str], **options: Any) -> subprocess.Popen[bytes]:
            # Trials inherit the raylet's environment, and keep the user's TMPDIR.
            theirs = env if Path(command[0]).name == "raylet" else {**env, "TMPDIR": str(self._temporary)}
            self._started.append(popen(command, env=theirs, **options, start_new_session=True))
            return self._started[-1]

        ray._private.services.ConsolePopen = start
        try:
            yield
        finally:
            ray._private.services.ConsolePopen = popen

    def watch(self) -> None:
        """Tell of the first death from now on."""
        self._watcher = threading.Thread(target=self._wait, name="Ray's daemons", daemon=True)
        self._watcher.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Stop watching. Where Ray has failed because a process died, tell that."""
        os.close(self._stop)
        if self._watcher is not None:
            self._watcher.join()
        os.close(self._stopped)
        if isinstance(error, Exception):
            end = time.monotonic() + _CAUSE_S
            while not (death := self.death()) and time.monotonic() < end:
                time.sleep(0.05)
            if death:
                self._tell(death)
                raise KeyboardInterrupt from error

    def _wait(self) -> None:
        """Wait for the first death, or for the end of the context. The kernel says at once which came."""
        ends = [self._stopped]
        for process in self._vital:
            with contextlib.suppress(ProcessLookupError):  # it has died already
                ends.append(os.pidfd_open(process.pid))
        death = self.death()
        while not death and self._stopped not in select.select(ends, [], [])[0]:
            time.sleep(0.01)  # another thread may be collecting the process at this moment
            death = self.death()
        for end in ends[1:]:
            os.close(end)
        if death:
            self._tell(death)
            if not select.select(ends[:1], [], [], _LEAVE_S)[0]:
                self._stuck(death)

    def death(self) -> str:
        """Which process has died, and of what; "" while all live."""
        for process in self._vital:
            code = process.poll()
            if code is not None:
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                return f"{_name(process)}, a process of Ray, has died ({how})"
        return ""

    @property
    def _vital(self) -> list[subprocess.Popen[bytes]]:
        return [process for process in self._started if _name(process) in _VITAL]

    def _tell(self, death: str) -> None:
        if self._told.acquire(blocking=False):
            self._on_death(death)


@contextlib.contextmanager
def sigterm_is_ours() -> Iterator[None]:
    """Inside Ray starts, and leaves SIGTERM alone.

    Ray's handler in Python exits at once, and nothing would be cleaned up. That in C++ writes a stack and aborts. Its
    other processes keep both: what they write at a crash is worth having.
    """
    install = ray._private.utils.set_sigterm_handler
    is_off = ray._private.ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER
    ray._private.utils.set_sigterm_handler = lambda _: None
    ray._private.ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = True
    try:
        yield
    finally:
        ray._private.utils.set_sigterm_handler = install
        ray._private.ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = is_off


def _name(process: subprocess.Popen[bytes]) -> str:
    assert isinstance(process.args, list)
    return Path(str(process.args[0])).name
