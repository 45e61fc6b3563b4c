"""What the user's function is given: its parameters, its seed, its folder, and a way to report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class TrialStopped(BaseException):
    """Raised by `Trial.report` where the trial has to end: it was pruned or interrupted, or its time is over.

    A function need not catch it. It derives from BaseException, as KeyboardInterrupt does, so that an `except
    Exception` around a training loop does not swallow it.
    """


@dataclass
class Trial:
    """One run of the user's function.

    `params`: every parameter. `seed`: for initialisation and all else that is random. `data_seed`: for the order of the
    data; it is the same for all arms of a seed. `budget`: in the unit that the study file names. `folder`: kept between
    attempts, so checkpoints go there. `attempt`: 1 for the first run, one more for each that resumes.
    """

    params: Mapping[str, Any]
    seed: int
    data_seed: int
    budget: int
    folder: Path
    attempt: int
    data_digest: str = ""
    """Set it to a digest of the data that was read, to show that arms of a seed saw the same."""
    _take: Callable[[Any, Mapping[str, Any]], None] = field(default=lambda *_: None, repr=False)

    def report(self, progress: int, /, **metrics: float) -> None:
        """Report metrics at a progress, in units of the budget. Save a checkpoint first, then report: it raises
        TrialStopped where the trial has to end. With several workers every rank reports, and rank 0's numbers count."""
        self._take(progress, metrics)
