"""TrialSource, the protocol of what a runner pulls trials from, and ArmQueue, a source of given trials."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Set
from typing import TYPE_CHECKING, Protocol

from ablate.trainers import Verdict
from ablate.trials.trial import Trial

if TYPE_CHECKING:
    from ablate.records.rows import TrialRow


class TrialSource(Protocol):
    """What a runner pulls trials from: it asks until None, passes reports on, and tells every final row."""

    @property
    def total(self) -> int:
        """The number of planned trials, including those of earlier runs."""
        ...

    def ask(self) -> Trial | None:
        """The next trial to start; None once there will be no more."""
        ...

    def report(self, trial_id: str, *, tokens: int, value: float | None) -> Verdict:
        """What a running trial should do; `value` is the objective after `tokens` (None: not measured)."""
        ...

    def tell(self, row: TrialRow) -> None:
        """Note a trial's final row, however it ended."""
        ...


class ArmQueue:
    """A TrialSource of given trials, in order, without those that are `done` already. It never stops a trial."""

    def __init__(self, trials: Iterable[Trial], *, done: Set[str]) -> None:
        everything = list(trials)
        self._total = len(everything)
        self._waiting = deque(trial for trial in everything if trial.trial_id not in done)

    @property
    def total(self) -> int:
        """The number of given trials, including those that are done."""
        return self._total

    def ask(self) -> Trial | None:
        """The next trial that is not done."""
        return self._waiting.popleft() if self._waiting else None

    def report(self, trial_id: str, *, tokens: int, value: float | None) -> Verdict:  # noqa: ARG002 - the protocol's signature
        """CONTINUE always: an arm that is stopped early cannot be compared."""
        return Verdict.CONTINUE

    def tell(self, row: TrialRow) -> None:
        """Do nothing: the given trials do not depend on results."""
