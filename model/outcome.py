"""What a run reports and how it ends. Imports no torch, because the processes that listen to a run need none."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """What the listener of a report asks for."""

    CONTINUE = "continue"
    STOP = "stop"  # return without the final evaluation
    INTERRUPT = "interrupt"  # write a checkpoint to resume from, then return


@dataclass(frozen=True)
class Report:
    """Progress of a run: a row of its history.

    `losses`: cross-entropy of every step since the last report, nats a token. `metrics`: those of METRICS that were
    measured for this report, and the run's constants; values of earlier reports are absent. `note`: a message for the
    user, in one report only.
    """

    step: int
    tokens_seen: int
    budget_tokens: int
    wall_s: float
    lr: float
    losses: list[float]
    metrics: Mapping[str, float | int | list[float]]
    note: str = ""


@dataclass(frozen=True)
class Result:
    """How a run ended. `verdict` is CONTINUE for a run that used its whole budget; `metrics` holds the last value of
    each."""

    verdict: Verdict
    step: int
    tokens_seen: int
    budget_tokens: int
    data_hash: str
    device: str
    metrics: Mapping[str, float | int | list[float]]
    samples: list[dict[str, Any]] = field(default_factory=list)


class NonFiniteLoss(ArithmeticError):
    """The loss was NaN or infinite at `step`."""

    def __init__(self, step: int, value: float) -> None:
        super().__init__(f"loss is {value} at step {step}; try a lower train.lr or a smaller train.grad_clip")
        self.step, self.value = step, value

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.step, self.value)


class DataError(ValueError):
    """A data file breaks a rule: `path:line: rule; hint`."""

    def __init__(self, path: str, line: int, rule: str, hint: str) -> None:
        super().__init__(f"{path}:{line}: {rule}; {hint}")
        self.path, self.line, self.rule, self.hint = path, line, rule, hint

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.line, self.rule, self.hint)


def full_disk(error: OSError) -> str:
    """A line for an error of a full disk, also of what stdout goes to. Raises the error again where it is another."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
        raise error
    try:
        print(end="", flush=True)
    except OSError:  # what is left of the answer; the interpreter would complain of it at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}cannot be written ({error.strerror}); make room, or make it writable"
