"""What all commands share: exit codes, and one line on stderr instead of a traceback."""

from __future__ import annotations

import io
import os
import resource
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from ablate import escape
from ablate.errors import BadInput, CannotWrite, ParameterError, full_disk

DONE, DIFFERENT, BAD_INPUT, NO_SUCCESS, INTERRUPTED = 0, 1, 2, 3, 130
EXIT_CODES = {
    DONE: "done; some trials may have failed, they are listed",
    DIFFERENT: "`--verify` found a difference; of `model.train`: the loss became NaN or infinite",
    BAD_INPUT: "bad input: one line `file:line: key: value: rule; hint`, and nothing was written",
    NO_SUCCESS: "no trial succeeded",
    INTERRUPTED: "interrupted, the disk (or what stdout goes to) or the memory is full, or Ray has died; the same"
    " command resumes, a sweep with `--resume`",
}
"""What each exit code says."""


def guarded(main: Callable[[], int]) -> int:
    """Run a command. Bad input gives one line on stderr and exit code 2. A full disk, whatever was written to it, gives
    one line and exit code 130, because the same command can go on later. SIGTERM is taken as Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # in a locale of ASCII or Latin-1, `±` is written as \xb1
            stream.reconfigure(errors="backslashreplace")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _check_folders()
        _check_date()
        code = main()
        print(end="", flush=True)  # what goes to a file or a pipe is written here, and may fail
        return code
    except (BadInput, ParameterError) as error:
        print(escape.one_line(str(error), limit=2_000), file=sys.stderr)
        return BAD_INPUT
    except CannotWrite as full:
        print(full.line, file=sys.stderr)
        return INTERRUPTED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader (`| head`) has ended
        _discard_output()
        return DONE
    except (MemoryError, ImportError) as error:
        if isinstance(error, ImportError) and "failed to map segment" not in str(error):
            raise
        print(f"{escape.one_line(f'memory is used up ({error})', limit=400)}; {_memory_hint()}", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        full = full_disk(error)
        if full is None and not error.filename:
            raise
        # An error that names a file is about that file: it is gone, may not be opened, or cannot have such a name.
        line = full.line if full else f"{error.filename}: {error.strerror or error}; check the path and its permissions"
        print(escape.one_line(line, limit=2_000), file=sys.stderr)
        _discard_output()
        return INTERRUPTED if full else BAD_INPUT


def _memory_hint() -> str:
    allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
    return "make room" if allowed == resource.RLIM_INFINITY else f"raise `ulimit -v`, which is {allowed // 1024} KiB"


def _discard_output() -> None:
    """Discard what was printed and cannot be written: the interpreter would complain of it at its exit."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_folders() -> None:
    """Raise BadInput where the current folder was removed, or no folder takes temporary files."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise BadInput("current folder", "", "", "it does not exist any more", "change to one that exists") from None
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise BadInput("TMPDIR", "", os.environ.get("TMPDIR", ""), str(error), "set it to a writable folder") from None


def _check_date() -> None:
    """Raise BadInput where SOURCE_DATE_EPOCH is no date: numpy and matplotlib read it, in the middle of a report."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        return
    try:
        datetime.fromtimestamp(int(given), tz=UTC)
    except (ValueError, OverflowError, OSError):
        hint = "unset it, or give such a number, e.g. `date +%s`"
        raise BadInput("SOURCE_DATE_EPOCH", "", given, "not a number of seconds since 1970", hint) from None
