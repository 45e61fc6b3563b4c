"""What measured trials teach about predicted memory and time, by memory class. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ablate.trainers import Config

LEAST, MOST = 0.6, 3.0
"""Bounds on measured over predicted: beyond them something else is wrong than the prediction."""

ASSUMED_BUSY = 0.6
"""Share of the time that a trial keeps a card busy when nothing was measured yet: two are worth having together."""

_CLASS_WIDTH = math.log(1.1)

MemoryClass = tuple[tuple[str, ...], int]


def memory_class(config: Config, *, predicted_gib: float) -> MemoryClass:
    """What a prediction depends on: the trainer's own classes, and the size itself in steps of a tenth. Trials of a
    class are mispredicted alike."""
    return config.trainer.memory_class(config), round(math.log(predicted_gib) / _CLASS_WIDTH)


@dataclass
class _Seen:
    ratio: float | None = None
    busy_sum: float = 0.0
    busy_count: int = 0


@dataclass
class Corrections:
    """Measured over predicted for every class of which a trial was seen."""

    _seen: dict[MemoryClass, _Seen] = field(default_factory=dict)

    def factor(self, kind: MemoryClass) -> float:
        """What to multiply a prediction by: 1 for a class of which nothing was measured."""
        ratio = self._seen[kind].ratio if kind in self._seen else None
        return 1.0 if ratio is None else min(MOST, max(LEAST, ratio))

    def busy(self, kind: MemoryClass) -> float:
        """How busy a trial of this class keeps a card, alone: the mean of what was seen, `ASSUMED_BUSY` before."""
        seen = self._seen[kind] if kind in self._seen else _Seen()
        return seen.busy_sum / seen.busy_count if seen.busy_count else ASSUMED_BUSY

    def took(self, kind: MemoryClass, *, predicted_gib: float, measured_gib: float, final: bool) -> None:
        """A trial took so much, its peak so far. It counts at once where it is more than was thought, and where it is
        less once the trial has completed (`final`): its largest step may be yet to come, and the last measure, which
        may hold most of all, is not taken of one that was stopped. The largest of a class counts."""
        seen, ratio = self._seen.setdefault(kind, _Seen()), measured_gib / predicted_gib
        known = self.factor(kind)
        if ratio > known or (final and seen.ratio is None):
            seen.ratio = ratio

    def was_busy(self, kind: MemoryClass, share: float) -> None:
        """A trial kept its card busy for this share of the time."""
        seen = self._seen.setdefault(kind, _Seen())
        seen.busy_sum += share
        seen.busy_count += 1
