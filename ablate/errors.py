"""The shapes of a complaint: about input (`place: key: value: rule; hint`, exit 2), and about a disk that is full."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ablate import escape

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What a write meets where a disk is full, a quota used up, or a file system has become read-only."""


class BadInput(Exception):
    """What the user gave breaks a rule; nothing was written. `place` is `file:line`, `--flag` or a path."""

    def __init__(self, place: str, key: str, value: object, rule: str, hint: str) -> None:
        self.place, self.key, self.value, self.rule, self.hint = place, key, value, rule, hint
        super().__init__(str(self))

    def __str__(self) -> str:
        """One line, whatever the parts contain."""
        parts = [_one_line(part) for part in (self.place, self.key, self.value) if part not in ("", None)]
        return f"{': '.join(parts)}: {_one_line(self.rule)}; {_one_line(self.hint)}"


class ParameterError(ValueError):
    """A parameter's value breaks a rule. `key` is dotted; whoever knows where it was written makes it a BadInput."""

    def __init__(self, key: str, value: object, rule: str, hint: str) -> None:
        super().__init__(f"{key}: {value}: {rule}; {hint}")
        self.key, self.value, self.rule, self.hint = key, value, rule, hint

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.key, self.value, self.rule, self.hint)

    def at(self, place: str) -> BadInput:
        """The same complaint with its place."""
        return BadInput(place, self.key, self.value, self.rule, self.hint)


def nearest(word: str, allowed: Sequence[str]) -> str:
    """A hint: `did you mean X?`, or the whole list where nothing is near."""
    close = difflib.get_close_matches(word, allowed, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"one of {', '.join(allowed)}"


class CannotWrite(Exception):
    """The disk takes no more. What was finished is kept, and the study can be gone on with; `line` says so."""

    def __init__(self, line: str) -> None:
        super().__init__(line)
        self.line = line


def full_disk(error: BaseException) -> CannotWrite | None:
    """What to tell of a disk that takes no more; None where that is not what happened."""
    if isinstance(error, CannotWrite):
        return error
    if not isinstance(error, OSError) or error.errno not in _FULL:
        return None
    place = f"{error.filename}: " if error.filename else ""
    what = error.strerror.splitlines()[0] if error.strerror else "no reason given"
    return CannotWrite(f"{place}cannot be written ({_one_line(what)}); make room, or make it writable")


@contextmanager
def writing() -> Iterator[None]:
    """Inside, a disk that takes no more raises CannotWrite; every other OSError is what it was."""
    try:
        yield
    except OSError as error:
        told = full_disk(error)
        if told is None:
            raise
        raise told from error


def _one_line(part: object) -> str:
    text = escape.printable(str(part)[:2_000]).replace("\n", " ")
    return text if len(text) <= 200 else text[:197] + "..."
