"""What all commands share: exit codes, and one line on stderr instead of a traceback."""

from __future__ import annotations

import io
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from ablate import escape
from ablate.errors import BadInput, CannotWrite, ParameterError, full_disk

DONE, DIFFERENT, BAD_INPUT, NO_SUCCESS, INTERRUPTED = 0, 1, 2, 3, 130
EXIT_CODES = {
    DONE: "done; some trials may have failed, they are listed",
    DIFFERENT: "`--verify` found a difference; of `model.train`: the loss became NaN or infinite",
    BAD_INPUT: "bad input: one line `file:line: key: value: rule; hint`, and nothing was written",
    NO_SUCCESS: "no trial succeeded",
    INTERRUPTED: "interrupted, the disk is full, or Ray has died; the same command resumes, a sweep with `--resume`",
}
"""What each exit code says."""


def guarded(main: Callable[[], int]) -> int:
    """Run a command. Bad input gives one line on stderr and exit code 2. A disk that fills up during a trial gives one
    line and exit code 130, because the trial can be resumed. SIGTERM is taken as Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # in a locale of ASCII or Latin-1, `±` is written as \xb1
            stream.reconfigure(errors="backslashreplace")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _check_folders()
        return main()
    except (BadInput, ParameterError) as error:
        print(escape.one_line(str(error), limit=2_000), file=sys.stderr)
        return BAD_INPUT
    except CannotWrite as full:
        print(full.line, file=sys.stderr)
        return INTERRUPTED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has ended: what the interpreter flushes at its exit must be discarded without a message.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        full = full_disk(error)
        if full is None and not error.filename:
            raise
        # An error that names a file is about that file: it is gone, may not be opened, or cannot have such a name.
        line = full.line if full else f"{error.filename}: {error.strerror or error}; check the path and its permissions"
        print(escape.one_line(line, limit=2_000), file=sys.stderr)
        return BAD_INPUT


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
