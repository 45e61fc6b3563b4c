"""The errors that users see: bad input (`place: key: value: rule; hint`, exit code 2), and a full disk."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ablate import escape

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
"""Errors of a write where the disk is full, the quota or the limit of a file's size is used up, or the file system is
read-only."""


class BadInput(Exception):
    """The user's input breaks a rule; nothing was written. `place` is `file:line`, `--flag` or a path."""

    def __init__(self, place: str, key: str, value: object, rule: str, hint: str) -> None:
        self.place, self.key, self.value, self.rule, self.hint = place, key, value, rule, hint
        super().__init__(str(self))

    def __str__(self) -> str:
        """The error as one line, whatever its parts contain."""
        parts = [_one_line(part) for part in (self.place, self.key, self.value) if part not in ("", None)]
        return f"{': '.join(parts)}: {_one_line(self.rule)}; {_one_line(self.hint)}"


class ParameterError(ValueError):
    """A parameter's value breaks a rule. `key` is dotted. A caller that knows where it was written calls `at`."""

    def __init__(self, key: str, value: object, rule: str, hint: str) -> None:
        super().__init__(f"{key}: {value}: {rule}; {hint}")
        self.key, self.value, self.rule, self.hint = key, value, rule, hint

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.key, self.value, self.rule, self.hint)

    def at(self, place: str) -> BadInput:
        """The same error as a BadInput with its place."""
        return BadInput(place, self.key, self.value, self.rule, self.hint)


def nearest(word: str, allowed: Sequence[str]) -> str:
    """A hint: `did you mean X?`, or the whole list where no word is near."""
    close = difflib.get_close_matches(word, allowed, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"one of {', '.join(allowed)}"


class CannotWrite(Exception):
    """The disk is full. What was finished is kept, and the study can be resumed. `line`: the message for the user."""

    def __init__(self, line: str) -> None:
        super().__init__(line)
        self.line = line


def full_disk(error: BaseException) -> CannotWrite | None:
    """The CannotWrite for an error of a full disk; None for other errors."""
    if isinstance(error, CannotWrite):
        return error
    if not isinstance(error, OSError) or error.errno not in _FULL:
        return None
    place = f"{error.filename}: " if error.filename else ""
    what = error.strerror.splitlines()[0] if error.strerror else "no reason given"
    return CannotWrite(f"{place}cannot be written ({_one_line(what)}); make room, or make it writable")


@contextmanager
def writing() -> Iterator[None]:
    """Turn the OSError of a full disk into CannotWrite. Other errors pass through."""
    try:
        yield
    except OSError as error:
        full = full_disk(error)
        if full is None:
            raise
        raise full from error


def _one_line(part: object) -> str:
    text = escape.printable(str(part)[:2_000]).replace("\n", " ")
    return text if len(text) <= 200 else text[:197] + "..."
