"""What a runner pulls trials from: the protocol, and a queue of given trials."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Set
from typing import TYPE_CHECKING, Protocol

from ablate.trainers import Verdict
from ablate.trials.trial import Trial

if TYPE_CHECKING:
    from ablate.records.rows import TrialRow


class TrialSource(Protocol):
    """What a runner pulls trials from: it asks until None, passes reports on, and tells every trial's final row."""

    @property
    def total(self) -> int:
        """Trials that are planned, those of earlier runs included."""
        ...

    def ask(self) -> Trial | None:
        """The next trial to start; None when there is nothing to start any more, ever."""
        ...

    def report(self, trial_id: str, *, tokens: int, value: float | None) -> Verdict:
        """What a trial in progress should do, `value` being the objective after `tokens` (None: not measured)."""
        ...

    def tell(self, row: TrialRow) -> None:
        """A trial's final row, whatever it is."""
        ...


class ArmQueue:
    """A TrialSource of given trials, first to last, without those that are `done` already. Arms are never pruned."""

    def __init__(self, trials: Iterable[Trial], *, done: Set[str]) -> None:
        everything = list(trials)
        self._total = len(everything)
        self._waiting = deque(trial for trial in everything if trial.trial_id not in done)

    @property
    def total(self) -> int:
        """All the trials given, done ones included."""
        return self._total

    def ask(self) -> Trial | None:
        """The next one that is not done."""
        return self._waiting.popleft() if self._waiting else None

    def report(self, trial_id: str, *, tokens: int, value: float | None) -> Verdict:  # noqa: ARG002 - the protocol's
        """Always CONTINUE: an arm that is stopped early cannot be compared."""
        return Verdict.CONTINUE

    def tell(self, row: TrialRow) -> None:
        """Nothing to learn from it."""
