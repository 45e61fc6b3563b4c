"""Two sides paired by seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablate.analyze.basis.frames import floats
from ablate.spec.models import Objective


@dataclass(frozen=True)
class Pairs:
    """The seeds on which both sides have a value, in order, and the values. `dropped`: seeds on which both have ended
    and one has no value; `pending`: seeds on which only one has ended."""

    seeds: tuple[int, ...]
    baseline: np.ndarray
    arm: np.ndarray
    dropped: int
    pending: int


def align(control: Mapping[int, float], treated: Mapping[int, float]) -> Pairs:
    """Pair two sides by seed. A run that ended without a value has NaN."""
    ended = sorted(control.keys() & treated.keys())
    both = [seed for seed in ended if not np.isnan(control[seed] + treated[seed])]
    sides = (np.array([side[seed] for seed in both], dtype=float) for side in (control, treated))
    pending = len(control.keys() ^ treated.keys())
    return Pairs(tuple(both), *sides, dropped=len(ended) - len(both), pending=pending)


def by_seed(trials: pd.DataFrame, arm: str, objective: Objective) -> dict[int, float]:
    """Seed -> objective of an arm's ended runs; NaN for a run that did not complete."""
    own = np.asarray(trials["arm"] == arm, dtype=bool)
    seeds, values = floats(trials, "seed")[own], floats(trials, objective.metric)[own]
    done = np.asarray(trials["status"] == "completed", dtype=bool)[own]
    return dict(zip(seeds.astype(int).tolist(), np.where(done, values, np.nan).tolist(), strict=True))
