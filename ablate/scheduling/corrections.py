"""Corrects predicted memory and busy time by what trials of the same memory class measured. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ablate.trainers import Config

MIN_FACTOR, MAX_FACTOR = 0.6, 3.0
"""Bounds of measured / predicted memory. A ratio beyond them has another cause than the prediction."""

ASSUMED_BUSY = 0.6
"""Share of the time for which a trial keeps a GPU busy, until it was measured. At 0.6 two trials share a GPU."""

_CLASS_WIDTH = math.log(1.1)

MemoryClass = tuple[tuple[str, ...], int]


def memory_class(config: Config, *, predicted_gib: float) -> MemoryClass:
    """The class of a trial's memory: the trainer's class, and the predicted size in steps of a tenth. Predictions for
    trials of one class err alike."""
    return config.trainer.memory_class(config), round(math.log(predicted_gib) / _CLASS_WIDTH)


@dataclass
class _Seen:
    ratio: float | None = None
    busy_sum: float = 0.0
    busy_count: int = 0


@dataclass
class Corrections:
    """Measured / predicted memory, and busy time, of every class of which a trial was measured."""

    _seen: dict[MemoryClass, _Seen] = field(default_factory=dict)

    def factor(self, kind: MemoryClass) -> float:
        """The factor for a prediction of this class; 1 where nothing was measured."""
        ratio = self._seen[kind].ratio if kind in self._seen else None
        return 1.0 if ratio is None else min(MAX_FACTOR, max(MIN_FACTOR, ratio))

    def busy(self, kind: MemoryClass) -> float:
        """The share of the time for which a trial of this class, alone, keeps a GPU busy: the measured mean, else
        `ASSUMED_BUSY`."""
        seen = self._seen[kind] if kind in self._seen else _Seen()
        return seen.busy_sum / seen.busy_count if seen.busy_count else ASSUMED_BUSY

    def record_peak(self, kind: MemoryClass, *, predicted_gib: float, measured_gib: float, final: bool) -> None:
        """Record a trial's peak so far; the largest ratio of a class counts.

        A peak above the corrected prediction counts at once. A lower one counts only where the trial has completed
        (`final`): before that its largest step, or the final evaluation, may be yet to come.
        """
        seen, ratio = self._seen.setdefault(kind, _Seen()), measured_gib / predicted_gib
        known = self.factor(kind)
        if ratio > known or (final and seen.ratio is None):
            seen.ratio = ratio

    def record_busy(self, kind: MemoryClass, share: float) -> None:
        """Record the share of the time for which a trial kept its GPU busy."""
        seen = self._seen.setdefault(kind, _Seen())
        seen.busy_sum += share
        seen.busy_count += 1
