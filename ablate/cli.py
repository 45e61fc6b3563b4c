"""What every command shares: the last line of defence between a user and a traceback, and the exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from ablate import escape
from ablate.errors import BadInput, CannotWrite, ParameterError, full_disk

DONE, DIFFERENT, BAD_INPUT, NO_SUCCESS, INTERRUPTED = 0, 1, 2, 3, 130
EXIT_CODES = {
    DONE: "done; some trials may have failed, they are listed",
    DIFFERENT: "`--verify` found a difference; of `model.train`: the loss became NaN or infinite",
    BAD_INPUT: "bad input: one line `file:line: key: value: rule; hint`, and nothing was written",
    NO_SUCCESS: "no trial succeeded",
    INTERRUPTED: "interrupted, or the disk is full; the same command resumes, a sweep with `--resume`",
}
"""What each exit code says."""


def guarded(main: Callable[[], int]) -> int:
    """Run a command; bad input becomes its one line on stderr and exit code 2, a disk that is full in the middle of a
    trial one and 130: the trial can be gone on with."""
    try:
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
        # The reader (`| head`) has gone: what the interpreter flushes at its exit must go nowhere, silently.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        told = full_disk(error)
        if told is None:
            raise
        print(told.line, file=sys.stderr)
        return BAD_INPUT
