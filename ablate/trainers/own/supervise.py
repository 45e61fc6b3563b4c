"""Runs a command in a session of its own and leaves nothing of it: python supervise.py CONTROL STATUS GRACE COMMAND...

It reads the pipe CONTROL. A byte asks the command to stop: SIGTERM to its process group, SIGKILL after GRACE seconds.
At the pipe's end the process that wanted the command is gone, and the command gets a tenth of that. What the command
started and left behind, also in sessions of its own, is killed when it has ended. Then one line goes to the pipe
STATUS: the exit status (negative: a signal), and how many processes were left behind.

It imports the standard library alone and starts in some milliseconds. It lives even where the process that started it
is killed.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

_SUBREAPER, _DEATH_SIGNAL = 36, 1  # prctl's PR_SET_CHILD_SUBREAPER and PR_SET_PDEATHSIG
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_LOOK_EVERY_S = 0.05


def main(control: int, status: int, grace_s: float, command: list[str]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # of a terminal's or a batch system's group; CONTROL says when to stop
    if _LIBC is not None:
        _LIBC.prctl(_SUBREAPER, 1, 0, 0, 0)
    try:
        child = subprocess.Popen(command, start_new_session=True, restore_signals=True, preexec_fn=_prepare)
    except OSError as error:
        os.write(status, f"cannot {error.strerror}\n".encode())
        return
    code = _wait(child, control, grace_s)
    left = _end_all(child.pid)
    os.write(status, f"{code} {left}\n".encode())


def _prepare() -> None:
    """In the child, before the command: the usual signals, and its end with this process, however that ends."""
    if _LIBC is not None:
        _LIBC.prctl(_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _wait(child: "subprocess.Popen[bytes]", control: int, grace_s: float) -> int:
    """The child's exit status, after it was asked to stop where CONTROL says so."""
    kill_at, listening = None, True
    while (code := child.poll()) is None:
        ready = select.select([control] if listening else [], [], [], _LOOK_EVERY_S)[0]
        if ready:
            listening = bool(os.read(control, 64))
            wait_s = grace_s if listening else grace_s / 10
            kill_at = min(kill_at or time.monotonic() + wait_s, time.monotonic() + wait_s)
            _signal(child.pid, signal.SIGTERM)
        if kill_at is not None and time.monotonic() > kill_at:
            _signal(child.pid, signal.SIGKILL)
    return code


def _end_all(group: int) -> int:
    """Kill what is left of the group and of this process's other children, which it got when their parents ended."""
    _signal(group, signal.SIGKILL)
    left, until = set(), time.monotonic() + 5
    while time.monotonic() < until:
        children = _children(os.getpid())
        if not children:
            break
        for pid in children:
            left.add(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)
    return len(left)


def _children(parent: int) -> list[int]:
    """The processes whose parent this is, by /proc; none where there is no /proc."""
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():  # noqa: PTH208, PTH112 - pathlib takes 10 ms
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - as above
                    if int(file.read().rpartition(b")")[2].split()[1]) == parent:
                        found.append(int(name))
            except (OSError, ValueError, IndexError):
                continue
    return found


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])
